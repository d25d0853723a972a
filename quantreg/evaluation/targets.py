"""What is measured: a type, which encodes every tensor, or a file type, which gives each tensor a type of its own."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from quantreg.errors import CodecError
from quantreg.files import File
from quantreg.importance import ImportanceMatrix
from quantreg.parameters import TensorContext, without_tokenizer
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanOptions, plan_header
from quantreg.recipes.shapes import Tensor
from quantreg.registry import registry, types

__all__ = ["Encoding", "FileTypeTarget", "Target", "TypeTarget", "make_target"]


class Encoding(NamedTuple):
    """A tensor of the model that is encoded anew.

    - ``qtype``: its new type.
    - ``importance``: whether the imatrix's entry is used, if it has one.
    - ``parameters``: whether parameters are fitted to it.
    - ``needs_importance``: whether it must not be encoded without importance.
    """

    tensor: str
    qtype: QuantType
    importance: bool
    parameters: bool
    needs_importance: bool


class TypeTarget:
    """A type, for every tensor."""

    file_type = False

    def __init__(self, qtype: QuantType, model: File, imatrix: ImportanceMatrix | None) -> None:
        if not qtype.codec.can_encode:
            raise CodecError(f"{qtype.name} can only be decoded: choose types that can be encoded")
        if qtype.requires_importance and imatrix is None:
            raise CodecError(f"{qtype.name} cannot be encoded without importance: give an imatrix")
        self.name: str = qtype.name
        self.qtype = qtype
        self._model, self._imatrix = model, imatrix

    def types(self) -> list[QuantType]:
        """Return all types that tensors are encoded in."""
        return [self.qtype]

    def type_of(self, tensor: str) -> QuantType | None:
        """Return the type that a tensor is encoded in; None if it is kept as it is."""
        return self.qtype

    def uses_importance(self, tensor: str) -> bool:
        """Say whether a tensor is encoded with the imatrix's entry for it."""
        return True

    def keeps_parameters(self, context: TensorContext, names: Collection[str]) -> bool:
        """Say whether a model with tensors of these names would keep fitted parameters for this one."""
        spec = self.qtype.parameters
        return spec is not None and (spec.required or spec.applies is None or spec.applies(context, names))

    def encodings(self) -> list[Encoding]:
        """Return the tensors of the whole model that are encoded if it gets this type. Raises PlanError.

        This is the pure recipe of `quantize_file`: a tensor whose rows the type does not fit, or that has no importance
        although the type needs it, gets a fallback.
        """
        uniform = FileType(self.name, None, self.name, f"{self.name} for every quantized tensor")
        options = PlanOptions(allow_requantize=True, pure=True, on_missing_importance="fallback")
        plan = plan_header(_header(self._model), uniform, imatrix=self._imatrix, options=options, check=False)
        found = _encodings(plan, self, self._model)
        return [entry if entry.qtype is self.qtype else entry._replace(parameters=False) for entry in found]

    bits_per_weight = None  # of the whole model; None: it is that of the sample


class FileTypeTarget:
    """A file type: each tensor gets the type that `quantreg quantize` would give it."""

    file_type = True

    def __init__(self, file_type: FileType, model: File, imatrix: ImportanceMatrix | None) -> None:
        options = PlanOptions(allow_requantize=True)
        self.plan: Plan = plan_header(_header(model), file_type, imatrix=imatrix, options=options)
        # A type and a file type may have one name, such as Q4_0, and both may be measured.
        self.name: str = file_type.name if registry.find(file_type.name) is None else f"{file_type.name} (file type)"
        self.bits_per_weight: float = self.plan.bits_per_weight
        self._model = model

    def types(self) -> list[QuantType]:
        """Return all types that tensors are encoded in."""
        return [
            types[name] for name in dict.fromkeys(tensor.to_type for tensor in self.plan.tensors if tensor.converted)
        ]

    def type_of(self, tensor: str) -> QuantType | None:
        """Return the type that a tensor is encoded in; None if it is kept as it is."""
        planned = self.plan[tensor]
        return types[planned.to_type] if planned.converted else None

    def uses_importance(self, tensor: str) -> bool:
        """Say whether a tensor is encoded with the imatrix's entry for it."""
        return self.plan[tensor].importance is not None

    def keeps_parameters(self, context: TensorContext, names: Collection[str]) -> bool:
        """Say whether the quantized model would keep fitted parameters for this tensor."""
        planned = self.plan[context.name or ""]
        return bool(planned.parameters) or any(kept.type == planned.to_type for kept in self.plan.parameters)

    def encodings(self) -> list[Encoding]:
        """Return the tensors of the whole model that `quantize_file` would encode anew."""
        return _encodings(self.plan, self, self._model)


Target = TypeTarget | FileTypeTarget


def make_target(found: QuantType | FileType, model: File, imatrix: ImportanceMatrix | None) -> Target:
    """Make the target. Raises CodecError or PlanError if nothing can be encoded in it, and what its plan raises."""
    return FileTypeTarget(found, model, imatrix) if isinstance(found, FileType) else TypeTarget(found, model, imatrix)


class _Header(NamedTuple):
    """The header of an open model of any format, as planning reads it."""

    metadata: Mapping[str, Any]
    tensors: list[Any]


def _header(model: File) -> _Header:
    return _Header(model.metadata, [_tensor(name, tensor) for name, tensor in model.items()])


def _encodings(plan: Plan, target: Target, model: File) -> list[Encoding]:
    metadata = without_tokenizer(model.metadata)
    names = model.keys()
    return [
        Encoding(
            planned.name,
            types[planned.to_type],
            planned.importance is not None,
            target.keeps_parameters(TensorContext(planned.name, planned.shape, metadata), names),
            planned.needs_importance,
        )
        for planned in plan.tensors
        if planned.converted
    ]


def _tensor(name: str, tensor: Any) -> Tensor:
    return Tensor(name, tensor.shape[::-1], tensor.type_id, tensor.type_name, tensor.nbytes)
