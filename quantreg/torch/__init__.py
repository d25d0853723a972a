"""Quantized weights in PyTorch: lazy state dicts, decoding to any dtype and device, and modules that hold GGUF bytes.

It needs PyTorch, which `import quantreg` does not load: ``pip install torch``.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "quantreg.torch needs PyTorch, which is not installed: pip install torch", name="torch"
    ) from None

from quantreg.torch.decode import dequantize
from quantreg.torch.embeddings import QuantEmbedding
from quantreg.torch.files import StateDict, from_gguf
from quantreg.torch.lazy import GGUFTensor
from quantreg.torch.linear import QuantLinear
from quantreg.torch.loading import load_into
from quantreg.torch.modules import ModuleReport, quantize_module

__all__ = [
    "GGUFTensor",
    "ModuleReport",
    "QuantEmbedding",
    "QuantLinear",
    "StateDict",
    "dequantize",
    "from_gguf",
    "load_into",
    "quantize_module",
]
