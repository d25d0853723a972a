"""What a plugin's code raised, in words: the error, and the line of the plugin that it came from."""

import os
import sys
from types import FrameType, TracebackType
from typing import Any

from quantreg.errors import CodecError, NonFiniteError, QuantregError, UnknownTypeError

__all__ = [
    "PLUGIN_ERRORS",
    "codec_error",
    "debugging",
    "describe",
    "is_foreign",
    "row_error",
    "told",
    "trace",
    "unknown_elsewhere",
]

# Whatever a plugin raises is the plugin's error, sys.exit() included. KeyboardInterrupt is the user's.
PLUGIN_ERRORS: tuple[type[BaseException], ...] = (Exception, SystemExit)

_OURS = {"quantreg", "quantreg_kernels"}
_BETWEEN = {"click", "numpy", "pluggy", "rich"}  # packages that call back, or that a plugin calls


def describe(error: BaseException) -> str:
    """Describe an exception that a plugin raised: its kind, its message, and the plugin's own line in brackets."""
    try:
        message = str(error)
    except Exception:  # the exception belongs to the plugin, too
        message = ""
    words = f"{type(error).__name__}: {message}" if message else type(error).__name__
    line = _line_of(error)
    return f"{words} ({line})" if line else words


def told(error: BaseException) -> str:
    """Return the message of an error that quantreg raised, which is written for users; `describe` any other."""
    return str(error) if isinstance(error, QuantregError) else describe(error)


def debugging() -> bool:
    """Whether QUANTREG_DEBUG is set, to anything but 0."""
    return os.environ.get("QUANTREG_DEBUG", "0") not in ("", "0")


def trace(error: BaseException) -> None:
    """Print the traceback of an error on stderr, with those of its causes, if QUANTREG_DEBUG is set."""
    if debugging():
        from traceback import print_exception  # slow to load, and seldom needed

        print_exception(error)


def is_foreign(frame: FrameType) -> bool | None:
    """Whether a frame runs code of a plugin: False for quantreg's own code, None for libraries that either may call."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if package in _OURS:
        return False
    return None if package in _BETWEEN or package in sys.stdlib_module_names else True


def _line_of(error: BaseException) -> str:
    """Return "file:line" of the innermost line in the package that quantreg called, or "" if there is none.

    An error that NumPy raises for a plugin is thus found where the plugin calls NumPy.
    """
    package, found = None, None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        name = str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package is None and is_foreign(step.tb_frame):
            package = name
        if name == package:
            found = step
        step = step.tb_next
    if found is None:
        if isinstance(error, SyntaxError) and error.filename:  # the module that cannot be compiled has no frame
            return f"{_short(error.filename)}:{error.lineno}"
        return ""
    return f"{_short(found.tb_frame.f_code.co_filename)}:{found.tb_lineno}"


def _short(path: str) -> str:
    """Return the path, relative to the current folder if it lies below it."""
    try:
        inside = os.path.relpath(path)
    except (OSError, ValueError):  # the current folder is gone, or on another drive
        return path
    return path if inside.startswith(os.pardir) else inside


# ---- errors of codecs ----


def codec_error(error: BaseException, what: str, type_name: str, tensor: str | None) -> CodecError:
    """Describe what a codec raised while ``what`` ("encoding"). A PythonCodec has named the function and the row."""
    words = str(error) if isinstance(error, QuantregError) else f"{what} {type_name} failed: {describe(error)}"
    return CodecError(f"{tensor}: {words}" if tensor else words)


def row_error(error: Any, type_name: str, tensor: str | None) -> NonFiniteError:
    """Turn a codec's RowError into a NonFiniteError that names the tensor."""
    where = f"{tensor}: row {error.row}" if tensor else f"row {error.row}"
    column = getattr(error, "column", None)
    if column is not None:
        return NonFiniteError(f"{where} holds NaN or infinity at column {column}: repair or replace the weights")
    if type_name == "F16":
        return NonFiniteError(f"{where} holds values too large for F16, whose range ends at 65504: choose BF16 or F32")
    return NonFiniteError(
        f"{where} holds values too large for {type_name}: a scale overflows half precision; choose another type"
    )


def unknown_elsewhere(error: UnknownTypeError) -> UnknownTypeError:
    """Explain why a worker of an executor does not know a type that the main process knows."""
    return UnknownTypeError(
        f"in a worker process: {error}. A type that a program registered by hand exists only in that process: install "
        "its plugin, or register it in each worker with ProcessPoolExecutor(initializer=...)"
    )
