"""The IQ1_M plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ1_M = quantreg.QuantType(
    "IQ1_M",
    type_id=29,
    block_size=256,
    type_size=56,
    fallback="IQ4_NL",
    codec=lambda: load_codec(__name__, "_iq1_m"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ1_M)
