"""The Q4_K plugin."""

import quantreg
from quantreg_kernels import load_codec

Q4_K = quantreg.QuantType(
    "Q4_K",
    type_id=12,
    block_size=256,
    type_size=144,
    fallback="Q5_0",
    codec=lambda: load_codec(__name__, "_q4_k"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q4_K)
