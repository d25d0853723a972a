"""The Q6_K plugin."""

import quantreg
from quantreg_kernels import load_codec

Q6_K = quantreg.QuantType(
    "Q6_K",
    type_id=14,
    block_size=256,
    type_size=210,
    fallback="Q8_0",
    codec=lambda: load_codec(__name__, "_q6_k"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q6_K)
