"""The F64 plugin."""

import quantreg
from quantreg_kernels import load_codec

F64 = quantreg.QuantType(
    "F64",
    type_id=28,
    block_size=1,
    type_size=8,
    codec=lambda: load_codec(__name__, "_f64"),
)


@quantreg.hookimpl
def register_types(register):
    register(F64)
