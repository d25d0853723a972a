"""The structs of quantreg_kernels/abi.pxd in ctypes."""

import ctypes
import sys
from ctypes import CFUNCTYPE, c_char_p, c_int32, c_ssize_t, c_void_p, py_object

__all__ = [
    "Args",
    "DotArgs",
    "Prepare",
    "RowCodec",
    "Rows",
    "as_capsule",
    "module_of",
    "new_capsule",
    "row_codec_of",
    "with_scratch",
]

NAME = b"quantreg.RowCodec"
Rows = CFUNCTYPE(c_ssize_t, c_void_p, c_void_p)
Prepare = CFUNCTYPE(None)


class Args(ctypes.Structure):
    """EncodeArgs. The members before `importance` are also those of DecodeArgs and ScoreArgs."""

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
        ("scratch", c_void_p),
    )


class DotArgs(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_ssize_t),
        ("src", c_void_p),
        ("x", c_void_p),
        ("dst", c_void_p),
        ("n_rows", c_ssize_t),
        ("n_cols", c_ssize_t),
        ("n_x", c_ssize_t),
        ("src_stride", c_ssize_t),
        ("x_stride", c_ssize_t),
        ("dst_stride", c_ssize_t),
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
        ("dot_rows", c_void_p),
        ("scratch_size", c_ssize_t),
    )


def module_of(name, level):
    """Return the compiled module of a type's codec, which must have been loaded at this level."""
    ending = f"._{name.lower()}_{level}"
    return next(module for key, module in list(sys.modules.items()) if key.endswith(ending))


def row_codec_of(name, level):
    """Return the RowCodec in that module."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = c_void_p, [py_object, c_char_p]
    return RowCodec.from_address(pointer(module_of(name, level).codec, NAME))


SCRATCH = (ctypes.c_char * ((1 << 20) + 64))()  # more than any codec's scratch_size


def with_scratch(args):
    """Let Args point at memory that the encoder may work with. All of them share it: call one encoder at a time."""
    args.scratch = ctypes.addressof(SCRATCH) + -ctypes.addressof(SCRATCH) % 64
    return args


def as_capsule(codec):
    """The capsule of a struct, which `Codec` takes. The struct must live longer."""
    return new_capsule(ctypes.addressof(codec), NAME)


def new_capsule(address, name):
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
    return make(address, name, None)
