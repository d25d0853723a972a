"""The IQ4_XS plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ4_XS = quantreg.QuantType(
    "IQ4_XS",
    type_id=23,
    block_size=256,
    type_size=136,
    fallback="IQ4_NL",
    codec=lambda: load_codec(__name__, "_iq4_xs"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ4_XS)
