"""The Q4_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q4_0 = quantreg.QuantType(
    "Q4_0",
    type_id=2,
    block_size=32,
    type_size=18,
    fallback="F16",
    # Limited by memory: 16 lanes encode a little slower than 8 on a Zen 4 and, at 3.4 against 3.5 times the reference's
    # speed, on a Sapphire Rapids. The search with importance gains from 16 lanes.
    codec=lambda: load_codec(__name__, "_q4_0", faster_at={"plain": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(Q4_0)
