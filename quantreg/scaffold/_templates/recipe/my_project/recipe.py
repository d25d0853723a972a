"""MY_PROJECT: Q4_K_M, but the token embeddings and the last layer's ffn_down get more bits."""

import quantreg
from quantreg.recipes import Row, condition, file_types


@condition("in the last layer")
def last_layer(tensor):
    """Whether a tensor is in the last layer. `quantreg.recipes.Candidate` says what else a condition can ask."""
    return tensor.layer == tensor.model.block_count - 1


# A tensor gets the type of the first row that fits: its role, its conditions (or None), the type. If none of these
# fits, the rows of Q4_K_M follow.
RULES = (
    Row("token_embd", None, "Q6_K"),
    Row("ffn_down", last_layer, "Q8_0"),
)


@quantreg.hookimpl
def register_recipes(register):
    register(file_types["Q4_K_M"].derive("MY_PROJECT", *RULES, description="Q4_K_M with better embeddings"))
