"""The Q1_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q1_0 = quantreg.QuantType(
    "Q1_0",
    type_id=41,
    block_size=128,
    type_size=18,
    codec=lambda: load_codec(__name__, "_q1_0"),
)


@quantreg.hookimpl
def register_types(register):
    register(Q1_0)
