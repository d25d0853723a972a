"""The Q4_1 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q4_1 = quantreg.QuantType(
    "Q4_1",
    type_id=3,
    block_size=32,
    type_size=20,
    fallback="F16",
    # Limited by memory. Times the reference's speed at avx2 / avx512: 3.1 / 2.8 on a Zen 4, 3.2 / 3.1 on a Sapphire
    # Rapids. The search with importance gains from 16 lanes.
    codec=lambda: load_codec(__name__, "_q4_1", faster_at={"plain": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(Q4_1)
