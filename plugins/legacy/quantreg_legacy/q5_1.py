"""The Q5_1 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q5_1 = quantreg.QuantType(
    "Q5_1",
    type_id=7,
    block_size=32,
    type_size=24,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_q5_1"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q5_1)
