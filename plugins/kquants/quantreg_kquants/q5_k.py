"""The Q5_K plugin."""

import quantreg
from quantreg_kernels import load_codec

Q5_K = quantreg.QuantType(
    "Q5_K",
    type_id=13,
    block_size=256,
    type_size=176,
    fallback="Q5_1",
    codec=lambda: load_codec(__name__, "_q5_k"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q5_K)
