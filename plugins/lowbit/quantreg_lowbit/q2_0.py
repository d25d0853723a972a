"""The Q2_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q2_0 = quantreg.QuantType(
    "Q2_0",
    type_id=42,
    block_size=64,
    type_size=18,
    fallback="Q4_0",
    codec=lambda: load_codec(__name__, "_q2_0"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q2_0)
