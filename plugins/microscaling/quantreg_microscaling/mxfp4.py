"""The MXFP4 plugin."""

import quantreg
from quantreg_kernels import load_codec

MXFP4 = quantreg.QuantType(
    "MXFP4",
    type_id=39,
    block_size=32,
    type_size=17,
    fallback="F16",
    codec=lambda: load_codec(__name__, "_mxfp4"),
)


@quantreg.hookimpl
def register_types(register):
    register(MXFP4)
