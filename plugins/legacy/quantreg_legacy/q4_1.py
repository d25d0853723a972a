"""The Q4_1 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q4_1 = quantreg.QuantType(
    "Q4_1",
    type_id=3,
    block_size=32,
    type_size=20,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_q4_1"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q4_1)
