"""What to do about weights that a type cannot hold."""

from quantreg.errors import NonFiniteError
from quantreg.ggml import PLAIN_TYPES
from quantreg.recipes import Plan, TensorPlan

__all__ = ["with_advice"]

_DAMAGED = (
    "the model is damaged: download it again, or convert it again from its source (to BF16 if its weights exceed "
    "65504, the largest F16). `quantreg validate` lists every such tensor"
)


def with_advice(error: NonFiniteError, planned: Plan) -> NonFiniteError:
    """The same error with what to do next, which depends on what the plan does to the tensor that it names."""
    message = str(error)
    owners = [tensor for tensor in planned.tensors if message.startswith(f"{tensor.source.name}: ")]
    if not owners:
        return error
    tensor = max(owners, key=lambda owner: len(owner.source.name))
    if "score_importance" in message or ", parameters of " in message:
        return error  # a plugin is at fault, not the model
    if "too large" not in message:
        return NonFiniteError(f"{message.removesuffix(': repair or replace the weights')}: {_DAMAGED}")
    for general in ("; choose another type", ": choose BF16 or F32"):
        message = message.removesuffix(general)
    why = ""
    if tensor.fallback:
        why = f" (it gets {tensor.to_type} instead of {tensor.wanted}, because {tensor.reason.partition(':')[0]})"
    return NonFiniteError(f"{message}{why}: give it BF16, which has the range of F32: {_way_to_bf16(tensor, planned)}")


def _way_to_bf16(tensor: TensorPlan, planned: Plan) -> str:
    for option in ("token_embedding_type", "output_tensor_type"):
        if tensor.reason.startswith(option):
            return f'{option}="BF16" (--{option.replace("_", "-")} BF16)'
    if planned.file_type.type in PLAIN_TYPES:  # such a file type converts all tensors alike
        return "the file type BF16"
    return f'tensor_types={{"{tensor.name}": "BF16"}} (--tensor-type {tensor.name}=BF16)'
