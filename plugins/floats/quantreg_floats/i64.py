"""The I64 plugin."""

import quantreg
from quantreg_kernels import load_codec

I64 = quantreg.QuantType(
    "I64",
    type_id=27,
    block_size=1,
    type_size=8,
    codec=lambda: load_codec(__name__, "_i64"),
)


@quantreg.hookimpl
def register_types(register):
    register(I64)
