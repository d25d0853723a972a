"""The IQ2_XXS plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ2_XXS = quantreg.QuantType(
    "IQ2_XXS",
    type_id=16,
    block_size=256,
    type_size=66,
    fallback="IQ4_NL",
    requires_importance=True,
    codec=lambda: load_codec(__name__, "_iq2_xxs"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ2_XXS)
