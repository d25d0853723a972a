"""The I16 plugin."""

import quantreg
from quantreg_kernels import load_codec

I16 = quantreg.QuantType(
    "I16",
    type_id=25,
    block_size=1,
    type_size=2,
    codec=lambda: load_codec(__name__, "_i16"),
)


@quantreg.hookimpl
def register_types(register):
    register(I16)
