"""The IQ2_XS plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ2_XS = quantreg.QuantType(
    "IQ2_XS",
    type_id=17,
    block_size=256,
    type_size=74,
    fallback="IQ4_NL",
    requires_importance=True,
    codec=lambda: load_codec(__name__, "_iq2_xs"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ2_XS)
