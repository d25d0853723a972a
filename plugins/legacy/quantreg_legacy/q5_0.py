"""The Q5_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q5_0 = quantreg.QuantType(
    "Q5_0",
    type_id=6,
    block_size=32,
    type_size=22,
    fallback="F16",
    # Limited by memory: 16 lanes encode a little slower than 8 on a Zen 4, and at the same speed on a Sapphire Rapids.
    # The search with importance gains from 16 lanes.
    codec=lambda: load_codec(__name__, "_q5_0", faster_at={"plain": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(Q5_0)
