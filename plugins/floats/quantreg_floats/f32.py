"""The F32 plugin."""

import quantreg
from quantreg_kernels import load_codec

F32 = quantreg.QuantType(
    "F32",
    type_id=0,
    block_size=1,
    type_size=4,
    codec=lambda: load_codec(__name__, "_f32"),
)


@quantreg.hookimpl
def register_types(register):
    register(F32)
