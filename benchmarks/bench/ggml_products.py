"""Products of the reference: a graph of ggml_mul_mat nodes, through ctypes, on a native build that the caller names."""

import ctypes
import os
from ctypes import Structure, c_bool, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import numpy as np

from bench.oracle import Ggml

__all__ = ["MISSING", "Graph", "load", "multiplies"]

MISSING = (
    "no ggml-cpu: QUANTREG_GGML_CPU=FOLDER names the folder with libggml-base.so and libggml-cpu.so, built natively"
)
NODES = 8192


class _Init(Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class _Plan(Structure):
    _fields_ = (
        ("work_size", c_size_t),
        ("work_data", c_void_p),
        ("n_threads", c_int),
        ("threadpool", c_void_p),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("use_ref", c_bool),
    )


class _Traits(Structure):
    _fields_ = (("from_float", c_void_p), ("vec_dot", c_void_p), ("vec_dot_type", c_int), ("nrows", c_int64))


@cache
def load():
    """Return (libggml-base, libggml-cpu) from the folder that QUANTREG_GGML_CPU names, or None."""
    folder = os.environ.get("QUANTREG_GGML_CPU")
    if not folder:
        return None
    base = ctypes.CDLL(str(Path(folder) / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(Path(folder) / "libggml-cpu.so"), mode=ctypes.RTLD_GLOBAL)
    for name, result, arguments in (
        ("ggml_init", c_void_p, [_Init]),
        ("ggml_free", None, [c_void_p]),
        ("ggml_new_tensor_2d", c_void_p, [c_void_p, c_int, c_int64, c_int64]),
        ("ggml_mul_mat", c_void_p, [c_void_p, c_void_p, c_void_p]),
        ("ggml_new_graph_custom", c_void_p, [c_void_p, c_size_t, c_bool]),
        ("ggml_build_forward_expand", None, [c_void_p, c_void_p]),
        ("ggml_get_data", c_void_p, [c_void_p]),
    ):
        function = getattr(base, name)
        function.restype, function.argtypes = result, arguments
    cpu.ggml_graph_plan.restype, cpu.ggml_graph_plan.argtypes = _Plan, [c_void_p, c_int, c_void_p]
    cpu.ggml_graph_compute.argtypes = [c_void_p, ctypes.POINTER(_Plan)]
    cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(_Traits)
    cpu.ggml_get_type_traits_cpu.argtypes = [c_int]
    cpu.ggml_cpu_init()
    return base, cpu


def multiplies(type_id):
    """Return whether the reference multiplies by weights of this type."""
    return 0 <= type_id < Ggml.COUNT and bool(load()[1].ggml_get_type_traits_cpu(type_id).contents.vec_dot)


class Graph:
    """Products of float32 (n, cols) with each of several matrices of encoded rows, uint8 (rows, bytes per row).

    It copies them all. The threads are started once for all products of a run, as for a token.
    """

    def __init__(self, type_id, x, matrices):
        self.base, self.cpu = load()
        n, cols = x.shape
        rows = len(matrices[0])
        size = sum(m.nbytes + rows * n * 4 + 2048 for m in matrices) + x.nbytes + (16 << 20)
        self.context = self.base.ggml_init(_Init(size, None, False))
        self.graph = self.base.ggml_new_graph_custom(self.context, NODES, False)
        self.shape = (n, rows)
        activations = self._tensor(0, x)
        self.products = []
        self.work = None
        for data in matrices:
            weights = self.base.ggml_new_tensor_2d(self.context, type_id, cols, rows)
            ctypes.memmove(self.base.ggml_get_data(weights), data.ctypes.data, data.nbytes)
            self.products.append(self.base.ggml_mul_mat(self.context, weights, activations))
            self.base.ggml_build_forward_expand(self.graph, self.products[-1])

    def _tensor(self, type_id, x):
        tensor = self.base.ggml_new_tensor_2d(self.context, type_id, x.shape[1], x.shape[0])
        ctypes.memmove(self.base.ggml_get_data(tensor), x.ctypes.data, x.nbytes)
        return tensor

    def run(self, threads=1):
        plan = self.cpu.ggml_graph_plan(self.graph, threads, None)
        if self.work is None or self.work.nbytes < plan.work_size:
            self.work = np.empty(plan.work_size, np.uint8)
        plan.work_data = self.work.ctypes.data
        self.cpu.ggml_graph_compute(self.graph, ctypes.byref(plan))

    def product(self, i=0):
        """Return the product with matrix i of the last run, float32 (n, rows)."""
        address = self.base.ggml_get_data(self.products[i])
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), self.shape).copy()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.base.ggml_free(self.context)
