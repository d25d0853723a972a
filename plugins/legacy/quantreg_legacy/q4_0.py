"""The Q4_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q4_0 = quantreg.QuantType(
    "Q4_0",
    type_id=2,
    block_size=32,
    type_size=18,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_q4_0"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q4_0)
