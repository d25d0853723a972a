"""The NVFP4 plugin."""

import quantreg
from quantreg_kernels import load_codec

NVFP4 = quantreg.QuantType(
    "NVFP4",
    type_id=40,
    block_size=64,
    type_size=36,
    # The machines disagree. Times the reference's speed at avx2 / avx512: 37 / 23 on a Zen 4, 20 / 28 on a Sapphire
    # Rapids. The choice that costs the other machine less is avx2.
    codec=lambda: load_codec(__name__, "_nvfp4", faster_at={"plain": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(NVFP4)
