"""The Q5_1 plugin."""

import quantreg
from quantreg_kernels import load_codec

Q5_1 = quantreg.QuantType(
    "Q5_1",
    type_id=7,
    block_size=32,
    type_size=24,
    fallback="F16",
    # Limited by memory: 16 lanes encode a little slower than 8 on a Zen 4 and, at 4.6 against 4.8 times the reference's
    # speed, on a Sapphire Rapids. The search with importance gains from 16 lanes.
    codec=lambda: load_codec(__name__, "_q5_1", faster_at={"plain": "avx2"}),
)


@quantreg.hookimpl
def register_types(register):
    register(Q5_1)
