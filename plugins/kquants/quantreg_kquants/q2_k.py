"""The Q2_K plugin."""

import quantreg
from quantreg_kernels import load_codec

Q2_K = quantreg.QuantType(
    "Q2_K",
    type_id=10,
    block_size=256,
    type_size=84,
    fallback="Q4_0",
    codec=lambda: load_codec(__name__, "_q2_k"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q2_K)
