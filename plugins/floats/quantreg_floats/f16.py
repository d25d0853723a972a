"""The F16 plugin."""

import quantreg
from quantreg_kernels import load_codec

F16 = quantreg.QuantType(
    "F16",
    type_id=1,
    block_size=1,
    type_size=2,
    # Limited by memory: on a Zen 4, 16 lanes encode a little slower than 8, on a Sapphire Rapids at the same speed.
    codec=lambda: load_codec(__name__, "_f16", faster_at={"plain": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(F16)
