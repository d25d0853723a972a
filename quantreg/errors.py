"""The errors that quantreg raises on purpose. Messages say what was found, what was expected and what to do next."""

import os

__all__ = [
    "CheckpointError",
    "CodecError",
    "DeviceError",
    "GGUFFormatError",
    "ImportanceError",
    "LossWarning",
    "MetadataError",
    "ModelError",
    "NonFiniteError",
    "OutputError",
    "PlanError",
    "PluginError",
    "QualityError",
    "QuantregError",
    "SafetensorsError",
    "ShapeError",
    "TokenizerError",
    "UnknownFileTypeError",
    "UnknownTypeError",
]


class QuantregError(Exception):
    """Base class of all errors below. The command line prints such an error on one line and exits with code 1."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # some errors below are KeyErrors, which would show the message in quotes


class GGUFFormatError(QuantregError):
    """A GGUF file breaks the format.

    - ``code``: a stable name of the problem, such as "bad-magic" or "tensor-overlap".
    - ``message``: the problem in words.
    - ``offset``: the byte position in the file, or None.
    - ``field``: the part of the header.
    - ``found`` and ``limit``: the value in the file, and the value or limit that the format demands.
    - ``path``: the file, or None if there is none.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        offset: int | None = None,
        field: str | None = None,
        found: object = None,
        limit: object = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.code: str = code
        self.message: str = message
        self.offset: int | None = offset
        self.field: str | None = field
        self.found: object = found
        self.limit: object = limit
        self.path: str | os.PathLike[str] | None = path
        super().__init__(message)

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        at = "" if self.offset is None else f" (at byte {self.offset})"
        return f"{where}{self.message}{at} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        # An exception pickles by its positional arguments, which do not include the keywords above.
        state = (self.code, self.message, self.offset, self.field, self.found, self.limit, self.path)
        return _rebuild_format_error, state


def _rebuild_format_error(
    code: str,
    message: str,
    offset: int | None,
    field: str | None,
    found: object,
    limit: object,
    path: str | os.PathLike[str] | None,
) -> GGUFFormatError:
    return GGUFFormatError(code, message, offset=offset, field=field, found=found, limit=limit, path=path)


class UnknownTypeError(QuantregError, KeyError):
    """No registered plugin provides this quant type."""


class UnknownFileTypeError(QuantregError, KeyError):
    """No recipe has this name or number."""


class PluginError(QuantregError):
    """A plugin is wrong, clashes with another plugin, or was built for another ABI."""


class CodecError(QuantregError):
    """A type cannot do what was asked: it has no encoder, its codec fails, or it needs importance and got none."""


class DeviceError(QuantregError):
    """A device that computes, such as a graphics card, is unknown, not there or has no memory left."""


class SafetensorsError(QuantregError, ValueError):
    """A safetensors file or its index is damaged, or holds data for which GGUF has no type."""


class CheckpointError(QuantregError, ValueError):
    """A folder with a published model cannot be converted: no plugin knows its class, or its files do not fit."""


class ModelError(QuantregError, ValueError):
    """A model cannot run: an unknown architecture, a tensor that is missing or has the wrong shape, foreign ids."""


class ShapeError(QuantregError, ValueError):
    """An array has the wrong shape, dtype or size."""


class NonFiniteError(QuantregError, ValueError):
    """The input holds NaN or infinity, or values too large for the scales of the type."""


class ImportanceError(QuantregError, ValueError):
    """An importance matrix is damaged or does not fit the model."""


class MetadataError(QuantregError, KeyError):
    """A metadata key does not exist, or its new name is already in use."""


class PlanError(QuantregError):
    """The options do not fit the model, or no type can be chosen for a tensor."""


class QualityError(QuantregError, ValueError):
    """Quality cannot be measured: the text is too short, or a base file is damaged or belongs to another model."""


class OutputError(QuantregError):
    """The output cannot be written: for example it exists, it is the input, or the disk is full."""


class TokenizerError(QuantregError, ValueError):
    """A model has no usable tokenizer, or a text or token id does not fit it."""


class LossWarning(UserWarning):
    """Encoding lost nearly all of an array, because its values are too small, too large or too uneven for the type."""
