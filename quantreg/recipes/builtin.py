"""The built-in file types, each as the rows that define it.

Read a recipe from the top: the first row that fits a tensor decides its type, and a tensor that no row fits gets the
type in the third column. `mixture` puts the rows that nearly all recipes share around a recipe's own. Tensors that are
never quantized (norms, biases and so on) are in `keep.py`. `planner.py` handles rows that do not divide into blocks.

llama-quantize makes no dense models of `MXFP4` and `NVFP4`: these two recipes are quantreg's own.
"""

from typing import TYPE_CHECKING

from quantreg.ggml import TYPES
from quantreg.recipes.filetype import FileType
from quantreg.recipes.rules import ATTENTION_V as V
from quantreg.recipes.rules import FFN, Candidate, Choice, Condition, Row, Rule, condition, unless

if TYPE_CHECKING:
    from quantreg.qtype import QuantType

__all__ = ["BUILT_IN", "CANNOT_WITHOUT", "NEEDS_IMATRIX", "recipe_for"]

# Types that are useless without importance. Calibration does not see the inputs of the output tensor and the token
# embeddings, so these may still use such a type without it.
NEEDS_IMATRIX: frozenset[str] = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
# The types among these whose encoder does not work at all without importance.
CANNOT_WITHOUT: frozenset[str] = frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"})

# --- Conditions ---


@condition("row length not a multiple of the block size")
def indivisible(t: Candidate) -> bool:
    return t.dims[0] % t.default_block_size != 0


@condition("Falcon")
def falcon(t: Candidate) -> bool:
    return t.model.architecture == "falcon"


@condition("8 experts")
def eight_experts(t: Candidate) -> bool:
    return t.model.expert_count == 8


@condition("4 or more query heads per value head")
def shared_values(t: Candidate) -> bool:
    return t.model.gqa >= 4


@condition("4 or more query heads per value head, or 4 or more experts")
def shared_values_or_experts(t: Candidate) -> bool:
    return t.model.gqa >= 4 or t.model.expert_count >= 4


@condition("a 70B model, where V is small")
def model_70b(t: Candidate) -> bool:
    return t.model.is_70b


@condition("with an imatrix")
def imatrix(t: Candidate) -> bool:
    return t.has_imatrix


@condition("without an imatrix")
def no_imatrix(t: Candidate) -> bool:
    return not t.has_imatrix


@condition("one of the first two")
def first_two(t: Candidate) -> bool:
    return t.count < 2


@condition("one of the first four")
def first_four(t: Candidate) -> bool:
    return t.count < 4


@condition("in the first sixteenth of the layers")
def first_16th(t: Candidate) -> bool:
    return t.index < t.group_size // 16


@condition("in the first eighth of the layers")
def first_8th(t: Candidate) -> bool:
    return t.index < t.group_size // 8


@condition("in the first eighth of the layers")
def first_8th_counted(t: Candidate) -> bool:  # by the running count even in a mixture of experts
    return t.count < t.group_size // 8


@condition("between the first and the last eighth of the layers")
def middle(t: Candidate) -> bool:
    return t.group_size // 8 <= t.index < 7 * t.group_size // 8


@condition("in the first or last eighth of the layers or every third layer between")
def more_bits(t: Candidate) -> bool:
    eighth = t.group_size // 8
    return t.index < eighth or t.index >= 7 * t.group_size // 8 or (t.index - eighth) % 3 == 2


@condition("a stack of experts")
def stack_of_experts(t: Candidate) -> bool:
    return t.n_experts > 1 and (t.model.architecture != "bailingmoe3" or t.role in FFN)


@condition("kept at 8 bits in GLM-5")
def glm5_sensitive(t: Candidate) -> bool:
    parts = ("attn_q_a", "attn_q_b", "nextn.eh_proj")
    return t.model.architecture == "glm5-next" and any(part in t.name for part in parts)


not_falcon: Condition = unless(falcon)
not_eight_experts: Condition = unless(eight_experts)

# --- Rows that recipes share ---

GLM5: Row = Row(None, glm5_sensitive, "Q8_0")


def output_rows(type_name: str) -> tuple[Row, ...]:
    """The rows for the output tensor, and for token embeddings that serve as the output too."""
    return Row("output", indivisible, "Q8_0"), Row("output", falcon, "Q8_0"), Row("output", None, type_name)


def placed(t: Candidate, chosen: Choice | None) -> None:
    """Give no type, but refuse an FFN tensor of a mixture of experts whose name does not tell its layer (PlanError)."""
    if t.role in FFN:
        t.index  # noqa: B018


def mixture(*rows: Row, output: str = "Q6_K") -> tuple[Rule, ...]:
    """A recipe's own rows between the rows that nearly all recipes share."""
    return (
        GLM5,
        *output_rows(output),
        placed,
        Row(V, eight_experts, "Q8_0"),
        Row("attn_k", eight_experts, "Q8_0"),
        *rows,
        Row(V, model_70b, "Q5_K", instead_of=("Q3_K", "Q4_K")),
    )


def very_low(high: str, *rows: Row, token_embd: str) -> tuple[Rule, ...]:
    """The rows of IQ1_* and IQ2_*. ``high`` is the type of the tensors that matter most."""
    return (
        GLM5,
        *output_rows("Q5_K"),
        Row("token_embd", None, token_embd),
        Row(V, shared_values_or_experts, "Q4_K"),
        Row(V, None, high),
        Row("attn_k", eight_experts, "Q4_K"),
        Row("ffn_down", first_8th_counted, high),
        Row("attn_output", eight_experts, "Q5_K"),
        *rows,
    )


ATTN_OUTPUT_OF_8: Row = Row("attn_output", (eight_experts, not_falcon), "Q5_K")

# --- The recipes ---
# fmt: off

BUILT_IN: tuple[FileType, ...] = (
    FileType("F32", 0, "F32", "32 bits per weight, lossless"),
    FileType("F16", 1, "F16", "16 bits per weight"),
    FileType("BF16", 32, "BF16", "16 bits per weight, with the range of F32"),
    FileType("COPY", None, "F32", "tensors unchanged, metadata rewritten", only_copy=True),

    FileType("Q4_0", 2, "Q4_0", "4 bits, one scale per 32 weights; the most portable", rules=mixture(
        Row("ffn_down", (imatrix, first_8th), "Q4_1"),
    )),
    FileType("Q4_1", 3, "Q4_1", "4 bits, one scale and one min per 32 weights", rules=mixture()),
    FileType("Q5_0", 8, "Q5_0", "5 bits, one scale per 32 weights", rules=mixture(
        Row("ffn_down", (imatrix, first_8th), "Q5_1"),
    )),
    FileType("Q5_1", 9, "Q5_1", "5 bits, one scale and one min per 32 weights", rules=mixture()),
    FileType("Q8_0", 7, "Q8_0", "8 bits, nearly lossless", rules=mixture(output="Q8_0")),

    FileType("Q2_K", 10, "Q2_K", "2-bit K-quant mix", rules=mixture(
        Row(V,             shared_values,           "Q4_K"),
        Row(V,             None,                    "Q3_K"),
        Row("ffn_down",    None,                    "Q3_K"),
        ATTN_OUTPUT_OF_8,
        Row("attn_output", not_falcon,              "Q3_K"),
    )),
    FileType("Q2_K_S", 21, "Q2_K", "2-bit K-quant mix, small; needs an imatrix", needs_imatrix=("Q2_K",), rules=mixture(
        Row(V,             shared_values,           "Q4_K"),
        Row("ffn_down",    first_8th,               "Q4_K"),
    )),
    FileType("Q3_K_S", 11, "Q3_K", "3-bit K-quant mix, small", rules=mixture(ATTN_OUTPUT_OF_8)),
    FileType("Q3_K_M", 12, "Q3_K", "3-bit K-quant mix, medium", aliases=("Q3_K",), rules=mixture(
        Row(V,             first_two,               "Q5_K"),
        Row(V,             None,                    "Q4_K"),
        Row("ffn_down",    first_16th,              "Q5_K"),
        Row("ffn_down",    (falcon, unless(more_bits)), "Q3_K"),
        Row("ffn_down",    None,                    "Q4_K"),
        ATTN_OUTPUT_OF_8,
        Row("attn_output", not_falcon,              "Q4_K"),
    )),
    FileType("Q3_K_L", 13, "Q3_K", "3-bit K-quant mix, large", rules=mixture(
        Row(V,             None,                    "Q5_K"),
        Row("ffn_down",    falcon,                  "Q4_K"),
        Row("ffn_down",    None,                    "Q5_K"),
        Row("attn_output", falcon,                  "Q4_K"),
        Row("attn_output", not_eight_experts,       "Q5_K"),
    )),
    FileType("Q4_K_S", 14, "Q4_K", "4-bit K-quant mix, small", rules=mixture(
        Row(V,             first_four,              "Q5_K"),
        Row("ffn_down",    (first_8th, not_falcon), "Q5_K"),
        ATTN_OUTPUT_OF_8,
    )),
    FileType("Q4_K_M", 15, "Q4_K", "4-bit K-quant mix, medium; the usual choice", aliases=("Q4_K",), rules=mixture(
        Row(V,             more_bits,               "Q6_K"),
        Row("ffn_down",    (falcon, first_16th),    "Q6_K"),
        Row("ffn_down",    (falcon, more_bits),     "Q5_K"),
        Row("ffn_down",    falcon,                  "Q4_K"),
        Row("ffn_down",    more_bits,               "Q6_K"),
        ATTN_OUTPUT_OF_8,
    )),
    FileType("Q5_K_S", 16, "Q5_K", "5-bit K-quant mix, small", rules=mixture()),
    FileType("Q5_K_M", 17, "Q5_K", "5-bit K-quant mix, medium", aliases=("Q5_K",), rules=mixture(
        Row(V,             more_bits,               "Q6_K"),
        Row("ffn_down",    more_bits,               "Q6_K"),
    )),
    FileType("Q6_K", 18, "Q6_K", "6-bit K-quant", rules=mixture()),

    FileType("IQ1_S", 24, "IQ1_S", "1.56 bits, codebook; needs an imatrix", rules=very_low(
        "Q2_K", Row("attn_output", None, "IQ2_XXS"), token_embd="Q2_K",
    )),
    FileType("IQ1_M", 31, "IQ1_M", "1.75 bits, codebook; needs an imatrix", rules=very_low(
        "Q2_K", Row("attn_output", None, "IQ2_XXS"), token_embd="Q2_K",
    )),
    FileType("IQ2_XXS", 19, "IQ2_XXS", "2.06 bits, codebook; needs an imatrix", rules=very_low(
        "Q2_K", token_embd="Q2_K",
    )),
    FileType("IQ2_XS", 20, "IQ2_XS", "2.31 bits, codebook; needs an imatrix", rules=very_low(
        "Q2_K", token_embd="Q2_K",
    )),
    FileType("IQ2_S", 28, "IQ2_XS", "2.5 bits, codebook mix; needs an imatrix", rules=very_low(
        "IQ3_S", Row("attn_output", None, "IQ3_S"), token_embd="IQ3_S",
    )),
    FileType("IQ2_M", 29, "IQ2_S", "2.7 bits, codebook mix; needs an imatrix", rules=very_low(
        "IQ3_S", Row("attn_output", None, "IQ3_S"), token_embd="IQ3_S",
    )),
    FileType("IQ3_XXS", 23, "IQ3_XXS", "3.06 bits, codebook mix; needs an imatrix", rules=mixture(
        Row("token_embd",  None,                    "IQ3_S"),
        Row(V,             shared_values,           "Q4_K"),
        Row(V,             no_imatrix,              "IQ3_S"),
        Row(("attn_k", "attn_q"), None,             "IQ2_S"),
        Row("ffn_down",    (no_imatrix, first_8th), "Q4_K"),
        Row("ffn_down",    no_imatrix,              "Q3_K"),
        ATTN_OUTPUT_OF_8,
        Row("attn_output", not_falcon,              "IQ3_S"),
        output="Q5_K",
    )),
    FileType("IQ3_XS", 22, "IQ3_S", "3.3 bits, codebook mix; needs an imatrix", rules=mixture(
        Row(V,             shared_values,           "Q4_K"),
        Row(("attn_k", "attn_q"), None,             "IQ3_XXS"),
        Row(("ffn_gate", "ffn_up"), middle,         "IQ3_XXS"),
        ATTN_OUTPUT_OF_8,
    )),
    FileType("IQ3_S", 26, "IQ3_S", "3.44 bits, codebook", rules=mixture(
        Row(V,             shared_values,           "Q4_K"),
        ATTN_OUTPUT_OF_8,
    )),
    FileType("IQ3_M", 27, "IQ3_S", "3.66 bits, codebook mix", rules=mixture(
        Row(V,             None,                    "Q4_K"),
        Row("ffn_down",    first_8th,               "Q4_K"),
        Row("ffn_down",    (eight_experts, more_bits), "Q4_K"),
        ATTN_OUTPUT_OF_8,
        Row("attn_output", not_falcon,              "Q4_K"),
    )),
    FileType("IQ4_NL", 25, "IQ4_NL", "4.5 bits, non-linear, blocks of 32", rules=mixture(
        Row(V,             shared_values,           "Q5_K"),
        Row("ffn_down",    (no_imatrix, first_8th), "Q5_K"),
        ATTN_OUTPUT_OF_8,
    )),
    FileType("IQ4_XS", 30, "IQ4_XS", "4.25 bits, non-linear", rules=mixture(
        Row(V,             shared_values,           "Q5_K"),
        Row("ffn_down",    (no_imatrix, first_8th), "Q5_K"),
        ATTN_OUTPUT_OF_8,
    )),

    FileType("TQ1_0", 36, "TQ1_0", "1.69 bits, for ternary models", rules=mixture(Row("token_embd", None, "Q4_K"))),
    FileType("TQ2_0", 37, "TQ2_0", "2.06 bits, for ternary models", rules=mixture(Row("token_embd", None, "Q4_K"))),
    FileType("Q1_0", 40, "Q1_0", "1.125 bits, for binary models", rules=mixture()),
    FileType("Q2_0", 41, "Q2_0", "2.25 bits, blocks of 64", rules=mixture(Row("token_embd", None, "Q4_K"))),

    FileType("MXFP4_MOE", 38, "MXFP4", "4-bit floats for the experts, Q8_0 for the rest", rules=(
        GLM5,
        Row("output",      None,                    "Q8_0"),
        Row(None,          stack_of_experts,        "MXFP4"),
        Row(None,          None,                    "Q8_0"),
    )),
    FileType("MXFP4", 38, "MXFP4", "4-bit floats, one scale per 32 weights; quantreg's own recipe", rules=mixture()),
    FileType("NVFP4", 39, "NVFP4", "4-bit floats, one scale per 16 weights; quantreg's own recipe", rules=mixture()),
)
# fmt: on


# --- The recipe for a type that has none ---

_LAYOUTS = {layout.name: layout for layout in TYPES.values()}


def recipe_for(qtype: "QuantType") -> FileType:
    """Return the recipe for a type whose name is given as a file type, although no file type has this name.

    A type of ggml's, such as Q8_K, is used for every quantized tensor. A type of a plugin follows the rules that the
    built-in file types share: the output gets Q6_K, and the token embeddings get Q4_K, as with the built-in types of
    few bits. Each keeps the plugin's type if that type takes as many bits itself.
    """
    name = qtype.name
    if name in _LAYOUTS:
        return FileType(name, None, name, f"{name} for every quantized tensor")
    output, embeddings = (other if _is_smaller(qtype, other) else name for other in ("Q6_K", "Q4_K"))
    described = f"{name} by the standard rules: {output} for the output, {embeddings} for token embeddings"
    return FileType(name, None, name, described, rules=mixture(Row("token_embd", None, embeddings), output=output))


def _is_smaller(qtype: "QuantType", other: str) -> bool:
    """Whether a type takes fewer bits per weight than this type of ggml's. Row headers do not count."""
    layout = _LAYOUTS[other]
    return qtype.type_size * layout.block_size < layout.type_size * qtype.block_size
