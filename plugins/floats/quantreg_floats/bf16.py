"""The BF16 plugin."""

import quantreg
from quantreg_kernels import load_codec

BF16 = quantreg.QuantType(
    "BF16",
    type_id=30,
    block_size=1,
    type_size=2,
    codec=lambda: load_codec(__name__, "_bf16"),
)


@quantreg.hookimpl
def register_types(register):
    register(BF16)
