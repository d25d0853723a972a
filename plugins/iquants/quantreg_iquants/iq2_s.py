"""The IQ2_S plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ2_S = quantreg.QuantType(
    "IQ2_S",
    type_id=22,
    block_size=256,
    type_size=82,
    fallback="IQ4_NL",
    codec=lambda: load_codec(__name__, "_iq2_s"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ2_S)
