"""The I8 plugin."""

import quantreg
from quantreg_kernels import load_codec

I8 = quantreg.QuantType(
    "I8",
    type_id=24,
    block_size=1,
    type_size=1,
    codec=lambda: load_codec(__name__, "_i8"),
)


@quantreg.hookimpl
def register_types(register):
    register(I8)
