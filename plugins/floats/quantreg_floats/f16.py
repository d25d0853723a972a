"""The F16 plugin."""

import quantreg
from quantreg_kernels import load_codec

F16 = quantreg.QuantType(
    "F16",
    type_id=1,
    block_size=1,
    type_size=2,
    codec=lambda: load_codec(__name__, "_f16"),
)


@quantreg.hookimpl
def register_types(register):
    register(F16)
