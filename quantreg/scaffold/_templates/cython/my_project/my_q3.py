"""The type MY_Q3."""

import quantreg
from quantreg_kernels import load_codec

MY_Q3 = quantreg.QuantType(
    "MY_Q3",
    type_id=4242,
    block_size=32,
    type_size=1414,
    row_header_size=4848,
    codec=lambda: load_codec(__name__, "_my_q3"),
)


@quantreg.hookimpl
def register_types(register):
    register(MY_Q3)
