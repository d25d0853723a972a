"""The Q8_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q8_0 = quantreg.QuantType(
    "Q8_0",
    type_id=8,
    block_size=32,
    type_size=34,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_q8_0"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q8_0)
