"""Measure quantreg.torch.QuantLinear: against nn.Linear, and against decoding the weights for each call."""

from contextlib import contextmanager
from statistics import median

from threadpoolctl import threadpool_limits

from bench.timing import interleave, pinned

__all__ = ["BATCHES", "TYPES", "WIDTH", "measure"]

WIDTH = 4096
BATCHES = (1, 512)
TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS")
MISSING = "PyTorch is not installed (pip install '.[torch]'), so its layers were not measured"


def measure(types=None, rounds=5, tell=print):
    """Measure layers of WIDTH x WIDTH on one core. Returns {"rows", "notes", "failures"}; times are milliseconds.

    In each round the works run in turn, and the clock is the CPU time of the process.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return {"rows": [], "notes": [MISSING], "failures": []}
    import quantreg.torch

    torch.manual_seed(0)
    floats = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    halves = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16)
    rows, failures = [], []
    for name in types or TYPES:
        tell(f"torch {name}")
        layer = quantreg.torch.QuantLinear.from_linear(floats, name)
        row = {"": name, "MB": layer.packed.bytes.numel() / 1e6}
        for batch in BATCHES:
            x = torch.randn(batch, WIDTH)
            half = x.bfloat16()
            works = {
                "QuantLinear": lambda x=x, layer=layer: layer(x),
                "nn.Linear F32": lambda x=x: floats(x),
                "nn.Linear BF16": lambda x=half: halves(x),
                "decoded": lambda x=x, layer=layer: torch.nn.functional.linear(x, layer.weight.dequantize()),
            }
            with torch.inference_mode(), one_thread(torch), pinned():
                error = (works["QuantLinear"]() - works["decoded"]()).abs().max().item()
                samples = interleave(works, rounds)
            row |= {f"{work}, batch {batch}": median(times) * 1e3 for work, times in samples.items()}
            if error > 1e-3:
                failures.append(f"torch {name}: the product differs by {error:.2g} from that of the decoded weights")
        rows.append(row)
    return {"rows": rows, "notes": [f"PyTorch {torch.__version__}; milliseconds"], "failures": failures}


@contextmanager
def one_thread(torch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
