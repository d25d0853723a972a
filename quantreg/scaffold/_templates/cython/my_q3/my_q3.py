"""The MY_Q3 plugin."""

import quantreg
from quantreg_kernels import load_codec

MY_Q3 = quantreg.QuantType(
    "MY_Q3",
    type_id=4242,
    block_size=32,
    type_size=14,
    fallback="Q4_0",
    codec=lambda: load_codec(__name__, "_my_q3"),
)


@quantreg.hookimpl
def register_types(register):
    register(MY_Q3)


@quantreg.hookimpl
def score_importance(qtype, tensor, weights, columns):
    return MY_Q3.score(weights, columns) if qtype is MY_Q3 and columns is not None else None
