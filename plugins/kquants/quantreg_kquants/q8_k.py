"""The Q8_K plugin."""

import quantreg
from quantreg_kernels import load_codec

Q8_K = quantreg.QuantType(
    "Q8_K",
    type_id=15,
    block_size=256,
    type_size=292,
    codec=lambda: load_codec(__name__, "_q8_k"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q8_K)
