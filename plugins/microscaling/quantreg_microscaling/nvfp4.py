"""The NVFP4 plugin."""

import quantreg
from quantreg_kernels import load_codec

NVFP4 = quantreg.QuantType(
    "NVFP4",
    type_id=40,
    block_size=64,
    type_size=36,
    codec=lambda: load_codec(__name__, "_nvfp4"),
)


@quantreg.hookimpl
def register_types(register):
    register(NVFP4)
