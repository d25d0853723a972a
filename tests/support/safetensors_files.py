"""Builds safetensors files byte by byte, without any code of quantreg."""

import json
import struct
from pathlib import Path

__all__ = ["save", "write_raw"]

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32"}


def save(path, tensors, metadata=None):
    """A safetensors file, written by hand."""
    header, position = ({"__metadata__": metadata} if metadata else {}), 0
    for name, x in tensors.items():
        header[name] = {
            "dtype": DTYPES[x.dtype.name], "shape": list(x.shape), "data_offsets": [position, position + x.nbytes],
        }  # fmt: skip
        position += x.nbytes
    write_raw(path, json.dumps(header).encode(), b"".join(x.tobytes() for x in tensors.values()))


def write_raw(path, header, data=b""):
    Path(path).write_bytes(struct.pack("<Q", len(header)) + header + data)
