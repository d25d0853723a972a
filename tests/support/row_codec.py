"""The structs of quantreg_kernels/abi.pxd through ctypes, for what Python callers cannot pass."""

import ctypes
import sys
from ctypes import CFUNCTYPE, c_char_p, c_int32, c_ssize_t, c_void_p, py_object

__all__ = ["Args", "Prepare", "RowCodec", "Rows", "as_capsule", "module_of", "row_codec_of"]

NAME = b"quantreg.RowCodec"
Rows = CFUNCTYPE(c_ssize_t, c_void_p, c_void_p)
Prepare = CFUNCTYPE(None)


class Args(ctypes.Structure):
    """EncodeArgs; DecodeArgs and ScoreArgs begin alike."""

    _fields_ = (
        ("struct_size", c_ssize_t),
        ("src", c_void_p),
        ("dst", c_void_p),
        ("n_rows", c_ssize_t),
        ("n_cols", c_ssize_t),
        ("src_stride", c_ssize_t),
        ("dst_stride", c_ssize_t),
        ("importance", c_void_p),
        ("importance_kind", c_int32),
        ("importance_stride", c_ssize_t),
    )


class RowCodec(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_ssize_t),
        ("abi_major", c_int32),
        ("type_id", c_int32),
        ("block_size", c_ssize_t),
        ("type_size", c_ssize_t),
        ("row_header_size", c_ssize_t),
        ("prepare", c_void_p),
        ("encode_rows", c_void_p),
        ("decode_rows", c_void_p),
        ("score_rows", c_void_p),
        ("whole_rows", c_int32),
        ("takes_nonfinite", c_int32),
    )


def module_of(name, level):
    """The compiled module of a type's codec, at a level at which it was loaded."""
    ending = f"._{name.lower()}_{level}"
    return next(module for key, module in list(sys.modules.items()) if key.endswith(ending))


def row_codec_of(name, level):
    """The struct in that module."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = c_void_p, [py_object, c_char_p]
    return RowCodec.from_address(pointer(module_of(name, level).codec, NAME))


def as_capsule(codec):
    """What `Codec` takes; the struct must live longer."""
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
    return capsule(ctypes.addressof(codec), NAME, None)
