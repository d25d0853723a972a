"""Builds safetensors files byte by byte, without any code of quantreg."""

import json
import struct
from pathlib import Path

__all__ = ["save", "save_as", "write_raw"]

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32"}


def save(path, tensors, metadata=None):
    """A safetensors file, written by hand."""
    save_as(path, {name: (DTYPES[x.dtype.name], x) for name, x in tensors.items()}, metadata)


def save_as(path, tensors, metadata=None):
    """The same from pairs (dtype in the file, array); returns the path."""
    header, position = ({"__metadata__": metadata} if metadata else {}), 0
    for name, (dtype, x) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [position, position + x.nbytes]}
        position += x.nbytes
    write_raw(path, json.dumps(header).encode(), b"".join(x.tobytes() for _, x in tensors.values()))
    return path


def write_raw(path, header, data=b""):
    Path(path).write_bytes(struct.pack("<Q", len(header)) + header + data)
