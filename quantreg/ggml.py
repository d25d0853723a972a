"""What ggml has fixed: its tensor types and how many bytes a row takes, its file types, the keys of split models.

Pure data, so that a plugin can be registered and a header can be checked without loading anything else.
"""

from typing import NamedTuple

from quantreg.errors import ShapeError

__all__ = [
    "EXACT_TYPES",
    "FILE_TYPE_NAMES",
    "FLOAT_TYPES",
    "INTEGER_TYPES",
    "PLAIN_TYPES",
    "REMOVED_FILE_TYPES",
    "REMOVED_LAYOUTS",
    "REMOVED_TYPES",
    "SPLIT_KEYS",
    "TYPES",
    "TypeLayout",
    "layout_of",
]


class TypeLayout(NamedTuple):
    """How a type stores a row: ``row_header_size`` bytes, then ``type_size`` bytes per ``block_size`` weights."""

    name: str
    block_size: int
    type_size: int
    row_header_size: int = 0

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of a row of n_cols weights. Raises ShapeError if n_cols is not a multiple of block_size."""
        if n_cols % self.block_size:
            raise ShapeError(
                f"{self.name} packs {self.block_size} weights per block, so a row of {n_cols} weights does not divide "
                "into blocks"
            )
        return self.row_header_size + n_cols // self.block_size * self.type_size

    def row_weights(self, row_bytes: int) -> int:
        """Weights in a row of row_bytes bytes. Raises ShapeError if the row does not hold a whole number of blocks."""
        body = row_bytes - self.row_header_size
        if body < 0 or body % self.type_size:
            raise ShapeError(
                f"a row of {row_bytes} bytes does not hold a whole number of {self.name} blocks of {self.type_size} "
                "bytes"
            )
        return body // self.type_size * self.block_size


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

# Ids that were once used in files and that ggml has given up.
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

# How the removed types stored a row, so that old files can be inspected. The types with two numbers at the end of their
# names hold the blocks of several rows of Q4_0 and IQ4_NL interleaved.
REMOVED_LAYOUTS = {
    type_id: TypeLayout(name, *((16, 10) if name == "Q4_2" else (16, 12) if name == "Q4_3" else (32, 18)))
    for type_id, name in REMOVED_TYPES.items()
}

# Types that store one plain number per weight: type name -> NumPy's name of the dtype (bfloat16 is ml_dtypes').
FLOAT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
INTEGER_TYPES = {"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}
PLAIN_TYPES = FLOAT_TYPES | INTEGER_TYPES
# Those whose values float32, which codecs take and give, cannot hold.
EXACT_TYPES = {"F64": "float64"} | INTEGER_TYPES

# The metadata keys that say how a model is split into files.
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")

# File type numbers that ggml has given up: number -> (name, what to use instead).
REMOVED_FILE_TYPES = {
    4: ("Q4_1_SOME_F16", "Q4_1"),
    5: ("Q4_2", "Q4_0"),
    6: ("Q4_3", "Q4_1"),
    33: ("Q4_0_4_4", "Q4_0"),
    34: ("Q4_0_4_8", "Q4_0"),
    35: ("Q4_0_8_8", "Q4_0"),
}

# File types that are not also the name of a type. A third party's type must not take one of these names.
# Loading the recipes instead of this list would add 12 ms to every process; a test keeps the two equal.
FILE_TYPE_NAMES = {
    "COPY", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "IQ2_M", "IQ3_XS", "IQ3_M",
    "MXFP4_MOE", *(name for name, _ in REMOVED_FILE_TYPES.values()),
}  # fmt: skip


def layout_of(type_id: int) -> TypeLayout | None:
    """The layout of one of ggml's types, or None if ggml does not define this id."""
    return TYPES.get(type_id)
