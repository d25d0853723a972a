"""What a run finds out about weights while it encodes them, and what to do about those that a type cannot hold."""

from collections.abc import Generator, Iterator, Sequence

from quantreg.errors import NonFiniteError
from quantreg.events import Event, TensorDone
from quantreg.ggml import PLAIN_TYPES
from quantreg.jobs.verify import about_blank, is_matrix
from quantreg.loss import explain, is_lost
from quantreg.recipes import Plan, TensorPlan

__all__ = ["advised", "with_advice"]

_DAMAGED = (
    "the model is damaged: download it again, or convert it again from its source (to BF16 if its weights exceed "
    "65504, the largest F16). `quantreg validate` lists every such tensor"
)


def advised(events: Iterator[Event], plans: Sequence[Plan]) -> Generator[Event, None, list[tuple[str, ...]]]:
    """Pass on the events of a run. Returns for each plan what they say that the user should know.

    Raises what the run raises, with advice for weights that a type cannot hold.
    """
    lost: list[list[str]] = [[] for _ in plans]
    blank: list[list[str]] = [[] for _ in plans]
    try:
        for event in events:
            if isinstance(event, TensorDone):
                tensor = event.tensor
                if event.error is not None and is_lost(event.error):
                    lost[event.output].append(explain(tensor.name, tensor.to_type, event.error))
                if event.blank and is_matrix(tensor.source):
                    blank[event.output].append(tensor.source.name)
            yield event
    except NonFiniteError as error:
        raise with_advice(error, _concerned(error, plans)) from error
    return [(*told, *about_blank(names)) for told, names in zip(lost, blank, strict=True)]


def _concerned(error: NonFiniteError, plans: Sequence[Plan]) -> Plan:
    """The plan whose type cannot hold the weights: the first whose type the error names."""
    for planned in plans:
        for tensor in planned.tensors:
            if str(error).startswith(f"{tensor.source.name}: ") and f" {tensor.to_type}" in str(error):
                return planned
    return plans[0]


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
