"""The I32 plugin."""

import quantreg
from quantreg_kernels import load_codec

I32 = quantreg.QuantType(
    "I32",
    type_id=26,
    block_size=1,
    type_size=4,
    codec=lambda: load_codec(__name__, "_i32"),
)


@quantreg.hookimpl
def register_types(register):
    register(I32)
