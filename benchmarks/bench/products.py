"""Measure products with quantized weights against the limit: the same BLAS on float32 weights."""

from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

import quantreg
from bench import targets
from bench.timing import interleave, pinned

__all__ = ["measure"]

ROWS, COLS = 4096, 4096
BATCHES = (512, 1)
INTEGERS = ("I8", "I16", "I32", "I64")


def measure(types=None, rounds=5, tell=print):
    """Multiply (batch, 4096) by (4096, 4096) on one core. Returns {"rows", "notes", "failures"}.

    Each round measures a type and BLAS on float32 weights in turn. The error is the largest difference from the product
    in float64, as a share of what rounding in a float32 sum can cause.
    """
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((ROWS, COLS), np.float32) * np.float32(0.02)
    names = types or [t for t in quantreg.types if t not in INTEGERS and quantreg.types[t].codec.can_encode]
    rows, failures = [], []
    with pinned(), threadpool_limits(1, user_api="blas"):
        for name in names:
            tell(f"matmul {name}")
            needs = quantreg.types[name].requires_importance
            tensor = quantreg.QuantizedTensor.from_array(
                "w", weights, name, np.ones(COLS, np.float32) if needs else None
            )
            decoded = tensor.dequantize().astype(np.float64)
            row = {"": name}
            for batch in BATCHES:
                x = rng.standard_normal((batch, COLS), np.float32)
                samples = interleave(
                    {
                        "ours": lambda x=x, tensor=tensor: quantreg.matmul(x, tensor, threads=1),
                        "sgemm": lambda x=x: x @ weights.T,
                    },
                    rounds,
                )
                share = median(s / o for s, o in zip(samples["sgemm"], samples["ours"], strict=True))
                work = 2 * batch * ROWS * COLS
                row |= {
                    f"batch {batch}, GFLOP/s": work / median(samples["ours"]) / 1e9,
                    f"batch {batch}, share of sgemm": share,
                }
                if batch in targets.MATMUL:
                    row[f"batch {batch}, met"] = share >= targets.MATMUL[batch]
            exact = x.astype(np.float64) @ decoded.T
            rounding = np.finfo(np.float32).eps * (np.abs(x).astype(np.float64) @ np.abs(decoded).T)
            row["error / rounding"] = float((np.abs(quantreg.matmul(x, tensor) - exact) / rounding).max())
            if row["error / rounding"] > 8:
                failures.append(f"matmul {name}: the error is {row['error / rounding']:.1f} times float32 rounding")
            rows.append(row)
    return {"rows": rows, "notes": [], "failures": failures}
