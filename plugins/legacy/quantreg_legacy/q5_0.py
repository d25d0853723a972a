"""The Q5_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q5_0 = quantreg.QuantType(
    "Q5_0",
    type_id=6,
    block_size=32,
    type_size=22,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_q5_0"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q5_0)
