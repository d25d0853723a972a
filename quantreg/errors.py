"""Every error that quantreg raises on purpose: each message names what was wrong, what was expected and what to do."""

__all__ = [
    "CodecError",
    "GGUFFormatError",
    "ImportanceError",
    "MetadataError",
    "NonFiniteError",
    "OutputError",
    "PlanError",
    "PluginError",
    "QuantregError",
    "SafetensorsError",
    "ShapeError",
    "UnknownFileTypeError",
    "UnknownTypeError",
]


class QuantregError(Exception):
    """Base of all errors below; the command line prints it as one line and exits with 1."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError, a base of some errors below, would show its message in quotes


class GGUFFormatError(QuantregError):
    """A GGUF file breaks the format.

    ``code`` is stable ("bad-magic", "tensor-overlap" ...), ``offset`` the byte position in the file or None,
    ``field`` the part of the header, ``found`` what stood there, ``limit`` what is allowed, ``path`` the file if
    there is one.
    """

    def __init__(self, code, message, *, offset=None, field=None, found=None, limit=None, path=None):
        self.code = code
        self.message = message
        self.offset = offset
        self.field = field
        self.found = found
        self.limit = limit
        self.path = path
        super().__init__(message)

    def __str__(self):
        where = f"{self.path}: " if self.path else ""
        at = "" if self.offset is None else f" (at byte {self.offset})"
        return f"{where}{self.message}{at} [{self.code}]"

    def __reduce__(self):
        return _rebuild_format_error, (
            self.code,
            self.message,
            self.offset,
            self.field,
            self.found,
            self.limit,
            self.path,
        )


def _rebuild_format_error(code, message, offset, field, found, limit, path):
    return GGUFFormatError(code, message, offset=offset, field=field, found=found, limit=limit, path=path)


class UnknownTypeError(QuantregError, KeyError):
    """No registered plugin provides this quant type."""


class UnknownFileTypeError(QuantregError, KeyError):
    """No recipe has this name or number."""


class PluginError(QuantregError):
    """A plugin clashes with another, or was built for another ABI."""


class CodecError(QuantregError):
    """A type cannot do what was asked: no encoder, or no importance where it is required."""


class SafetensorsError(QuantregError, ValueError):
    """A safetensors file or its index is damaged, or holds what GGUF has no type for."""


class ShapeError(QuantregError, ValueError):
    """An array has the wrong shape, dtype or size."""


class NonFiniteError(QuantregError, ValueError):
    """NaN or infinity in the input, or values too large for the type's scales."""


class ImportanceError(QuantregError, ValueError):
    """An importance matrix is damaged or does not fit the model."""


class MetadataError(QuantregError, KeyError):
    """A metadata key is not there, or a name for one is taken."""


class PlanError(QuantregError):
    """The options do not fit the model: no type can be chosen for a tensor."""


class OutputError(QuantregError):
    """The output cannot be written: it exists, it is the input, or the disk is too small."""
