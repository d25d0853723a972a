"""The parameters that types fit to tensors: those that an output keeps, and those of the source that become useless."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from quantreg.errors import PlanError
from quantreg.parameters import TensorContext, without_tokenizer
from quantreg.recipes.builtin import BUILT_IN
from quantreg.recipes.filetype import FileType
from quantreg.recipes.plans import MetadataEdit, StoredParameter, TensorPlan, edited

if TYPE_CHECKING:  # gguf loads NumPy, which planning does not need
    from quantreg.gguf import TensorInfo
    from quantreg.qtype import QuantType

__all__ = ["Kept", "with_parameters"]


class Kept(NamedTuple):
    """The tensors of a plan, with the parameters that each keeps, and the parameters of the whole model.

    ``stale`` names the tensors of the source that were parameters and have become useless.
    """

    tensors: tuple[TensorPlan, ...]
    parameters: tuple[StoredParameter, ...] = ()
    stale: frozenset[str] = frozenset()


def with_parameters(
    planned: Sequence[TensorPlan],
    sources: "Iterable[TensorInfo]",
    metadata: Mapping[str, Any],
    edits: Iterable[MetadataEdit],
    types: "Mapping[str, QuantType]",
    file_type: FileType,
) -> Kept:
    """Add the parameters of the new types, and leave out those that belonged to a type that a tensor no longer has.

    ``sources`` and ``metadata`` are those of the source, and ``edits`` make the metadata of the output, which decides.
    Parameters that a type can do without are left out if the file type is one of llama-quantize's own, whose files must
    not differ. Raises PlanError if the model already has a tensor under the name of a parameter that a type cannot do
    without.
    """
    by_id = {qtype.type_id: qtype for qtype in types.values() if qtype.parameters is not None}
    if not any(tensor.from_id in by_id or tensor.to_id in by_id for tensor in planned):
        return Kept(tuple(planned))
    given = {info.name: info for info in sources}
    stale = {
        name
        for tensor in planned
        if tensor.converted and tensor.from_id in by_id
        for name in by_id[tensor.from_id].stored_names(tensor.source.name, tensor.source.shape).values()
        if name in given
    }
    for tensor in planned:  # a parameter of the model stays while any tensor still needs it
        if not tensor.converted and tensor.from_id in by_id:
            stale -= set(by_id[tensor.from_id].stored_names(tensor.source.name, tensor.source.shape).values())
    stays = [tensor for tensor in planned if tensor.source.name not in stale]
    names = {tensor.name for tensor in stays}
    facts = edited(without_tokenizer(metadata), edits)
    of_model: dict[str, StoredParameter] = {}
    tensors = []
    for tensor in stays:
        qtype = by_id.get(tensor.to_id)
        if tensor.converted and qtype is not None:
            context = TensorContext(tensor.name, tensor.shape, facts)
            parameters = _parameters(qtype, context, names, file_type)
            if qtype.parameters is not None and qtype.parameters.scope == "model":
                of_model |= {parameter.name: parameter for parameter in parameters}
            else:
                tensor = replace(tensor, parameters=parameters)
        tensors.append(tensor)
    return Kept(tuple(tensors), tuple(of_model.values()), frozenset(stale))


def _parameters(
    qtype: "QuantType", context: TensorContext, names: Collection[str], file_type: FileType
) -> tuple[StoredParameter, ...]:
    spec = qtype.parameters
    assert spec is not None
    assert context.name is not None
    if not spec.required and file_type in BUILT_IN and file_type.type != qtype.name:
        return ()
    if spec.applies is not None and not spec.applies(context, names):
        return ()
    places = qtype.stored_names(context.name, context.shape)
    found = tuple(
        StoredParameter(places[name], name, qtype.name, shape, math.prod(shape) * 4)
        for name, shape in spec.shapes_for(context).items()
    )
    taken = [parameter.name for parameter in found if parameter.name in names]
    if taken and spec.required:
        raise PlanError(
            f"{context.name}: {qtype.name} keeps its parameters under the name {taken[0]}, but the model has a tensor "
            "of that name: choose another type for this tensor with tensor_types (--tensor-type)"
        )
    return () if taken else found
