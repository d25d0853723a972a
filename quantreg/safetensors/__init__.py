"""The safetensors container: names, shapes, dtypes and where the bytes are. Reads headers, and no tensor data."""

from quantreg.safetensors.files import SUFFIX, files_of, is_safetensors, read_json
from quantreg.safetensors.header import DTYPE_BITS, Entry, Header, encode_header, read_header
from quantreg.safetensors.model import Model, every_place, read_model, read_numbers
from quantreg.safetensors.scales import Decoding, Place, decoding
from quantreg.safetensors.stored import Part, Read, Stored

__all__ = [
    "DTYPE_BITS",
    "SUFFIX",
    "Decoding",
    "Entry",
    "Header",
    "Model",
    "Part",
    "Place",
    "Read",
    "Stored",
    "decoding",
    "encode_header",
    "every_place",
    "files_of",
    "is_safetensors",
    "read_header",
    "read_json",
    "read_model",
    "read_numbers",
]
