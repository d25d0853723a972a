"""The safetensors container: names, shapes, dtypes and where the bytes are. Reads headers, and no tensor data."""

from quantreg.safetensors.files import SUFFIX, files_of, is_safetensors
from quantreg.safetensors.header import DTYPE_BITS, Entry, Header, read_header
from quantreg.safetensors.model import Model, read_model
from quantreg.safetensors.stored import Stored

__all__ = [
    "DTYPE_BITS",
    "SUFFIX",
    "Entry",
    "Header",
    "Model",
    "Stored",
    "files_of",
    "is_safetensors",
    "read_header",
    "read_model",
]
