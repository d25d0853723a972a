"""The BF16 plugin."""

import quantreg
from quantreg_kernels import load_codec

BF16 = quantreg.QuantType(
    "BF16",
    type_id=30,
    block_size=1,
    type_size=2,
    # Limited by memory. Times the reference's speed at avx2 / avx512: decoding 1.22 / 0.60 on a Zen 4, 1.62 / 1.63 on a
    # Sapphire Rapids. Encoding is a little slower at avx512 on the Zen 4 and equal on the other.
    codec=lambda: load_codec(__name__, "_bf16", faster_at={"plain": "avx2", "decode": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(BF16)
