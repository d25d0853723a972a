"""The Q8_1 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q8_1 = quantreg.QuantType(
    "Q8_1",
    type_id=9,
    block_size=32,
    type_size=36,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_q8_1"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q8_1)
