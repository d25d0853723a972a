"""The TQ2_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

TQ2_0 = quantreg.QuantType(
    "TQ2_0",
    type_id=35,
    block_size=256,
    type_size=66,
    fallback="Q4_0",
    codec=lambda: load_codec(__name__, "_tq2_0"),
)


@quantreg.hookimpl
def register_types(register):
    register(TQ2_0)
