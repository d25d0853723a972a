"""ggml's tensor types as the container sees them: how many bytes a row takes."""

from typing import NamedTuple

__all__ = ["REMOVED_TYPES", "TYPES", "TypeLayout", "layout"]


class TypeLayout(NamedTuple):
    """A row of n values takes row_header_size + n / block_size * type_size bytes."""

    name: str
    block_size: int
    type_size: int
    row_header_size: int = 0


TYPES = {
    0: TypeLayout("F32", 1, 4),
    1: TypeLayout("F16", 1, 2),
    2: TypeLayout("Q4_0", 32, 18),
    3: TypeLayout("Q4_1", 32, 20),
    6: TypeLayout("Q5_0", 32, 22),
    7: TypeLayout("Q5_1", 32, 24),
    8: TypeLayout("Q8_0", 32, 34),
    9: TypeLayout("Q8_1", 32, 36),  # two f16 scales; gguf-py still lists the 40 bytes of the older two f32
    10: TypeLayout("Q2_K", 256, 84),
    11: TypeLayout("Q3_K", 256, 110),
    12: TypeLayout("Q4_K", 256, 144),
    13: TypeLayout("Q5_K", 256, 176),
    14: TypeLayout("Q6_K", 256, 210),
    15: TypeLayout("Q8_K", 256, 292),
    16: TypeLayout("IQ2_XXS", 256, 66),
    17: TypeLayout("IQ2_XS", 256, 74),
    18: TypeLayout("IQ3_XXS", 256, 98),
    19: TypeLayout("IQ1_S", 256, 50),
    20: TypeLayout("IQ4_NL", 32, 18),
    21: TypeLayout("IQ3_S", 256, 110),
    22: TypeLayout("IQ2_S", 256, 82),
    23: TypeLayout("IQ4_XS", 256, 136),
    24: TypeLayout("I8", 1, 1),
    25: TypeLayout("I16", 1, 2),
    26: TypeLayout("I32", 1, 4),
    27: TypeLayout("I64", 1, 8),
    28: TypeLayout("F64", 1, 8),
    29: TypeLayout("IQ1_M", 256, 56),
    30: TypeLayout("BF16", 1, 2),
    34: TypeLayout("TQ1_0", 256, 54),
    35: TypeLayout("TQ2_0", 256, 66),
    39: TypeLayout("MXFP4", 32, 17),
    40: TypeLayout("NVFP4", 64, 36),
    41: TypeLayout("Q1_0", 128, 18),
    42: TypeLayout("Q2_0", 64, 18),
}

# Ids that once were in files and that ggml gave up.
REMOVED_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


def layout(type_id: int) -> TypeLayout | None:
    """Layout of one of ggml's types, or None for an id that is not (or no longer) one."""
    return TYPES.get(type_id)
