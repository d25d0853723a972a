"""Measure products with quantized weights: against BLAS on float32 weights, and against a native build of ggml."""

import time
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

import quantreg
from bench import ggml_products, targets
from bench.timing import aligned, cache_bytes, interleave, pinned

__all__ = ["measure"]

ROWS, COLS = 4096, 4096  # for many rows of activations
FEW_ROWS, FEW_COLS, FEW_MATRICES = 2048, 2048, 8  # for one: more than the inner caches hold
MANY = 512
INTEGERS = ("I8", "I16", "I32", "I64")


def measure(types=None, rounds=5, tell=print):
    """Measure each type. Returns {"rows", "notes", "failures"}.

    In each round the works run in turn. On one core the clock is the CPU time of the process, so that other processes
    do not count; with two threads it is the wall time. The error is the largest difference from the product in float64,
    as a share of what rounding in a float32 sum can cause.
    """
    rng = np.random.default_rng(0)
    names = types or [t for t in quantreg.types if t not in INTEGERS and quantreg.types[t].codec.can_encode]
    notes = [] if ggml_products.load() else [ggml_products.MISSING]
    rows, failures = [], []
    for name in names:
        tell(f"matmul {name}")
        row = {"": name} | _many(name, rng, rounds) | _cached(name, rng, rounds) | _from_memory(name, rng, rounds)
        if row["error / rounding"] > 8:
            failures.append(f"matmul {name}: the error is {row['error / rounding']:.1f} times float32 rounding")
        rows.append(row)
    return {"rows": rows, "notes": notes, "failures": failures}


def _tensor(name, rng, rows, cols):
    weights = rng.standard_normal((rows, cols), np.float32) * np.float32(0.02)
    importance = np.ones(cols, np.float32) if quantreg.types[name].requires_importance else None
    return weights, quantreg.QuantizedTensor.from_array("w", weights, name, importance)


def _copies(tensor, count):
    return [
        quantreg.QuantizedTensor("w", tensor.shape, tensor.type_name, np.copy(tensor.data), tensor.parameters)
        for _ in range(count)
    ]


def _activations(rng, rows, cols):
    x = aligned(4 * rows * cols).view(np.float32).reshape(rows, cols)
    x[...] = rng.standard_normal((rows, cols), np.float32)
    return x


def _ratio(theirs, ours):
    return median(t / o for t, o in zip(theirs, ours, strict=True))


def _error(found, x, decoded):
    exact = x.astype(np.float64) @ decoded.T
    rounding = np.finfo(np.float32).eps * (np.abs(x).astype(np.float64) @ np.abs(decoded).T)
    return float((np.abs(found - exact) / rounding).max())


def _many(name, rng, rounds):
    """Many rows of activations, one core."""
    weights, tensor = _tensor(name, rng, ROWS, COLS)
    x = _activations(rng, MANY, COLS)
    works = {
        "ours": lambda: quantreg.matmul(x, tensor, threads=1),
        "sgemm": lambda: x @ weights.T,
    }
    with pinned(), threadpool_limits(1, user_api="blas"), _ggml(name, x, [tensor.data]) as graph:
        if graph:
            works["ggml"] = graph.run
        samples = interleave(works, rounds)
    share = _ratio(samples["sgemm"], samples["ours"])
    found = {
        f"batch {MANY}, GFLOP/s": 2 * MANY * ROWS * COLS / median(samples["ours"]) / 1e9,
        "share of sgemm": share,
        "share met": share >= targets.MATMUL,
    }
    if graph:
        found["x ggml"] = _ratio(samples["ggml"], samples["ours"])
    return found


def _cached(name, rng, rounds):
    """One row of activations, one core, weights in the last-level cache. The rate is that of float32 weights."""
    _, tensor = _tensor(name, rng, FEW_ROWS, FEW_COLS)
    tensors = _copies(tensor, FEW_MATRICES)
    x = _activations(rng, 1, FEW_COLS)
    works = {"ours": lambda: [quantreg.matmul(x, one, threads=1) for one in tensors]}
    with pinned(), _ggml(name, x, [one.data for one in tensors]) as graph:
        if graph:
            works["ggml"] = graph.run
        samples = interleave(works, 3 * rounds)
        decoded = tensor.dequantize().astype(np.float64)
        found = {"batch 1, float32 GB/s": 4 * tensor.size * FEW_MATRICES / median(samples["ours"]) / 1e9}
        if graph:
            found["x ggml, batch 1"] = _ratio(samples["ggml"], samples["ours"])
            found["error of ggml"] = _error(graph.product(), x, decoded)
    return found | {"error / rounding": _error(quantreg.matmul(x, tensor), x, decoded)}


def _from_memory(name, rng, rounds):
    """One row of activations, weights from memory: a set of matrices of twice the last-level cache, each read once."""
    _, tensor = _tensor(name, rng, FEW_ROWS, FEW_COLS)
    count = -(-2 * cache_bytes() // tensor.nbytes)
    tensors = _copies(tensor, count)
    x = _activations(rng, 1, FEW_COLS)

    def ours(threads):
        for one in tensors:
            quantreg.matmul(x, one, threads=threads)

    works = {"two": lambda: ours(2), "one": lambda: ours(1)}
    with pinned(2), _ggml(name, x, [one.data for one in tensors]) as graph:
        if graph:
            works["ggml"] = lambda: graph.run(2)
        samples = interleave(works, rounds, time.perf_counter)
    found = {
        "from memory, two threads, GB/s": count * tensor.nbytes / median(samples["two"]) / 1e9,
        "x one thread": _ratio(samples["one"], samples["two"]),
    }
    return found | ({"x ggml, from memory": _ratio(samples["ggml"], samples["two"])} if graph else {})


class _ggml:  # noqa: N801 - it reads as a function
    """The graph of ggml for these products inside a with statement; None without a build, or for a type it lacks."""

    def __init__(self, name, x, matrices):
        type_id = quantreg.types[name].type_id
        known = ggml_products.load() and ggml_products.multiplies(type_id)
        self.graph = ggml_products.Graph(type_id, x, matrices) if known else None

    def __enter__(self):
        return self.graph

    def __exit__(self, *exception):
        if self.graph:
            self.graph.__exit__(*exception)
