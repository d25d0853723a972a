"""Files that appear under their names only when they are complete. This package does not know what they contain."""

from quantreg.storage.atomic import AtomicFile
from quantreg.storage.digest import digest_of, digest_of_file, new_digest
from quantreg.storage.folder import AtomicFolder
from quantreg.storage.locks import lock_file, one_at_a_time, signals_held
from quantreg.storage.partial import PartialFile, journal_path, partial_path
from quantreg.storage.scratch import reserve
from quantreg.storage.system import BINARY, PositionedFile, allocated_bytes, free_bytes
from quantreg.storage.temporary import new_folder, remove_dead, temporary_folder

__all__ = [
    "BINARY",
    "AtomicFile",
    "AtomicFolder",
    "PartialFile",
    "PositionedFile",
    "allocated_bytes",
    "digest_of",
    "digest_of_file",
    "free_bytes",
    "journal_path",
    "lock_file",
    "new_digest",
    "new_folder",
    "one_at_a_time",
    "partial_path",
    "remove_dead",
    "reserve",
    "signals_held",
    "temporary_folder",
]
