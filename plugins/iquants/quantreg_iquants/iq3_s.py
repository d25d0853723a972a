"""The IQ3_S plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ3_S = quantreg.QuantType(
    "IQ3_S",
    type_id=21,
    block_size=256,
    type_size=110,
    fallback="IQ4_NL",
    codec=lambda: load_codec(__name__, "_iq3_s"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ3_S)
