"""The TQ1_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

TQ1_0 = quantreg.QuantType(
    "TQ1_0",
    type_id=34,
    block_size=256,
    type_size=54,
    fallback="Q4_0",
    codec=lambda: load_codec(__name__, "_tq1_0"),
)


@quantreg.hookimpl
def register_types(register):
    register(TQ1_0)
