"""`matmul`: activations times weights that stay quantized."""

from quantreg.products.blas import one_blas_thread
from quantreg.products.multiply import matmul

__all__ = ["matmul", "one_blas_thread"]
