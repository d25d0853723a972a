"""The IQ1_S plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ1_S = quantreg.QuantType(
    "IQ1_S",
    type_id=19,
    block_size=256,
    type_size=50,
    fallback="IQ4_NL",
    requires_importance=True,
    codec=lambda: load_codec(__name__, "_iq1_s"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ1_S)
