"""The Q3_K plugin."""

import quantreg
from quantreg_kernels import load_codec

Q3_K = quantreg.QuantType(
    "Q3_K",
    type_id=11,
    block_size=256,
    type_size=110,
    fallback="Q4_0",
    codec=lambda: load_codec(__name__, "_q3_k"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q3_K)
