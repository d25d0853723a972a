"""The Q2_0 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q2_0 = quantreg.QuantType(
    "Q2_0",
    type_id=42,
    block_size=64,
    type_size=18,
    fallback="Q4_0",
    # Limited by memory. Times the reference's speed at avx2 / avx512: 8.5 / 4.4 on a Zen 4, 7.2 / 7.1 on a Sapphire
    # Rapids.
    codec=lambda: load_codec(__name__, "_q2_0", faster_at={"plain": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(Q2_0)
