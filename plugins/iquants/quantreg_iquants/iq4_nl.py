"""The IQ4_NL plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ4_NL = quantreg.QuantType(
    "IQ4_NL",
    type_id=20,
    block_size=32,
    type_size=18,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_iq4_nl"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ4_NL)
