"""Room on the disk for temporary files, taken before they are mapped into memory."""

import errno
import os
import tempfile
from typing import IO

from quantreg.errors import OutputError
from quantreg.storage.system import free_bytes

__all__ = ["reserve"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PIECE = 1 << 20  # bytes that are written at a time where the system cannot reserve them


def reserve(file: IO[bytes], nbytes: int, what: str, folder: str | None = None) -> None:
    """Make a temporary file ``nbytes`` long, and have the system set aside all of them.

    A mapped file that only looks that long kills the process with SIGBUS when the disk is full. ``what`` says what the
    file is for, and ``folder`` where it is, if not where temporary files are. Raises OutputError, which names the
    folder and another way, if there is no room.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
        else:
            _fill(file, nbytes)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        free = f", and {free_bytes(where):,} are free" if error.errno in _FULL[:2] else ""
        kind, way = ("disk space", "choose a folder on another disk") if folder else (
            "temporary disk space", "name another folder in the environment variable TMPDIR"
        )  # fmt: skip
        raise OutputError(
            f"{where}: {what} need {nbytes:,} bytes of {kind}{free} ({error.strerror}): free some space, or {way}"
        ) from None


def _fill(file: IO[bytes], nbytes: int) -> None:
    """Write zeros: the way where no call reserves space."""
    piece = bytes(_PIECE)
    file.seek(0)
    for first in range(0, nbytes, _PIECE):
        file.write(piece[: nbytes - first])
    file.flush()
