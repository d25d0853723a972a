"""The IQ3_XXS plugin."""

import quantreg
from quantreg_kernels import load_codec

IQ3_XXS = quantreg.QuantType(
    "IQ3_XXS",
    type_id=18,
    block_size=256,
    type_size=98,
    fallback="IQ4_NL",
    codec=lambda: load_codec(__name__, "_iq3_xxs"),
)


@quantreg.hookimpl
def register_types(register):
    register(IQ3_XXS)
