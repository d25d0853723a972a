"""Files that appear under their names only when they are complete. This package does not know what they contain."""

from quantreg.storage.atomic import AtomicFile
from quantreg.storage.locks import one_at_a_time, signals_held
from quantreg.storage.partial import PartialFile, journal_path, partial_path
from quantreg.storage.system import PositionedFile, allocated_bytes, free_bytes

__all__ = [
    "AtomicFile",
    "PartialFile",
    "PositionedFile",
    "allocated_bytes",
    "free_bytes",
    "journal_path",
    "one_at_a_time",
    "partial_path",
    "signals_held",
]
