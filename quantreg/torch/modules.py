"""Replace the layers of a model by quantized ones."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from quantreg.errors import PlanError, ShapeError
from quantreg.ggml import FLOAT_TYPES, TYPES
from quantreg.gguf import TensorInfo
from quantreg.importance import ImportanceMatrix
from quantreg.recipes import FileType, plan_header
from quantreg.recipes.plans import TensorPlan
from quantreg.torch.embeddings import QuantEmbedding
from quantreg.torch.linear import QuantLinear
from quantreg.torch.naming import gguf_names, model_metadata
from quantreg.torch.packed import Packed, encode
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg.importance.matrix import ImatrixLike
    from quantreg.qtype import QuantType

__all__ = ["ModuleReport", "quantize_module", "replace_module", "why_not"]

_F32, _F16, _BF16 = (next(i for i, known in TYPES.items() if known.name == name) for name in ("F32", "F16", "BF16"))


@dataclass(frozen=True)
class ModuleReport:
    """What `quantize_module` did.

    - ``replaced``: for each module that was replaced, the type of its weights.
    - ``reasons``: for each of these, why it has this type, fallbacks included.
    - ``left``: for each module whose weights stay as they were, the reason. Modules with vectors only are not listed.
    - ``bytes_before``, ``bytes_after``: the size of the weights that were replaced; tied weights count once.
    """

    replaced: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    bytes_before: int = 0
    bytes_after: int = 0

    def __str__(self) -> str:
        lines = [
            f"{count(len(self.replaced), 'module')} replaced: {self.bytes_before:,} bytes became {self.bytes_after:,}"
        ]
        lines += [f"  {name}: {self.reasons[name]}" for name in self.replaced]
        if self.left:
            lines.append(f"{count(len(self.left), 'module')} left unchanged:")
            lines += [f"  {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


@dataclass(eq=False)
class _Group:
    """The modules that use one weight, and the plan for it."""

    weight: torch.nn.Parameter
    names: list[str]
    modules: list[torch.nn.Module]
    plan: TensorPlan | None = None


def quantize_module(
    model: torch.nn.Module,
    recipe: "str | int | QuantType | FileType | Mapping[str, str | QuantType]" = "Q4_K_M",
    *,
    skip: str | Iterable[str] = (),
    imatrix: "ImatrixLike | None" = None,
    embeddings: bool = False,
) -> ModuleReport:
    """Replace each torch.nn.Linear of a model by a `QuantLinear`, in place, and say what was done.

    - ``recipe``: a file type such as "Q4_K_M" or a type, as for `quantreg.quantize_file`; or a mapping from regular
      expressions to types, whose first expression that is found in the name of a module decides. A file type decides by
      what a layer does, which the names of the modules say: those of transformers are known, and other layers get the
      file type's default. The ``config`` of a model of transformers gives the facts that some file types ask for.
    - ``skip``: regular expressions; a module in whose name one is found stays as it is, as in ``["lm_head"]``.
    - ``imatrix``: an importance matrix, for the names of a GGUF file or those of the modules.
    - ``embeddings``: replace each torch.nn.Embedding by a `QuantEmbedding`, too.

    Layers that share their weights go on sharing them. If one of these stays, all stay: an output layer that is tied to
    the embeddings is quantized only with ``embeddings=True``. Subclasses of nn.Linear and nn.Embedding stay, because
    they may compute something else; and so do layers with hooks. A row length that does not divide into the blocks of
    a type gets the type that llama-quantize falls back to. The report gives the reason for each.

    One matrix is encoded at a time, and its old weights are freed afterwards if nobody else holds them. Raises
    UnknownFileTypeError or UnknownTypeError for an unknown recipe, PlanError for one that cannot be followed (for
    example, importance is missing), before anything is replaced; ShapeError for a model without weights (on the meta
    device), and for a model that is itself a linear layer: use `QuantLinear.from_linear`.
    """
    if isinstance(model, torch.nn.Linear | torch.nn.Embedding):
        kind = "QuantLinear.from_linear" if isinstance(model, torch.nn.Linear) else "QuantEmbedding.from_embedding"
        raise ShapeError(f"the model is a single layer, which cannot be replaced in place: use {kind}")
    patterns = [re.compile(text) for text in ([skip] if isinstance(skip, str) else skip)]
    report = ModuleReport()
    groups = _groups(model, patterns, embeddings, report)
    names = gguf_names([group.names[0] for group in groups])
    matrix = None if imatrix is None else _renamed(ImportanceMatrix.of(imatrix), groups, names)
    _plan(groups, names, recipe, matrix, model, report)
    before = after = 0
    for group in groups:
        if group.plan is None:
            continue
        cols = group.weight.shape[1]
        entry = group.plan.importance
        columns = None if entry is None or matrix is None else matrix.row(entry, cols)
        before += group.weight.numel() * group.weight.element_size()
        encoded = encode(group.weight, group.plan.to_type, columns, name=names[group.names[0]])
        packed = Packed.of(encoded, group.weight.dtype)
        after += encoded.nbytes
        for name, module in zip(group.names, group.modules, strict=True):
            replace_module(model, name, module, packed)
            report.replaced[name] = group.plan.to_type
            report.reasons[name] = group.plan.reason
        group.modules.clear()
        del group.weight, module
    return ModuleReport(report.replaced, report.reasons, report.left, before, after)


def _groups(
    model: torch.nn.Module, skip: list[re.Pattern[str]], embeddings: bool, report: ModuleReport
) -> list[_Group]:
    """The weights that can be quantized, with the modules that use them. What stays goes into the report."""
    users: dict[int, list[str]] = {}
    groups: dict[int, _Group] = {}
    blocked: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.ndim > 1:
                users.setdefault(id(parameter), []).append(name)
                why = why_not(name, module, key, skip, embeddings)
                if why is None:
                    group = groups.setdefault(id(parameter), _Group(parameter, [], []))
                    group.names.append(name)
                    group.modules.append(module)
                else:
                    report.left[name] = why
                    blocked.setdefault(id(parameter), name)
    for key_, name in blocked.items():
        if key_ in groups:
            for tied in groups.pop(key_).names:
                hint = ": pass embeddings=True" if not embeddings and "embeddings=True" in report.left[name] else ""
                report.left[tied] = f"its weights are tied to {name}, which stays{hint}"
    for group in groups.values():
        if group.weight.device.type == "meta":
            raise ShapeError(f"{group.names[0]} is on the meta device, where tensors have no values: load the weights")
    return list(groups.values())


def why_not(
    name: str, module: torch.nn.Module, parameter: str, skip: list[re.Pattern[str]], embeddings: bool
) -> str | None:
    """Why a module must not be replaced by a quantized one, or None."""
    kind = type(module).__name__
    if any(pattern.search(name) for pattern in skip):
        return "skip names it"
    if isinstance(module, torch.nn.Embedding) and not embeddings:
        return "embeddings stay unless embeddings=True"
    if type(module) not in (torch.nn.Linear, torch.nn.Embedding) or parameter != "weight":
        is_like = isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        return f"{kind} is a subclass, which may compute something else" if is_like else f"{kind} is no nn.Linear"
    if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
        return "it has hooks, which would be lost"
    if isinstance(module, torch.nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return "it has max_norm or scale_grad_by_freq, which change or train the table"
    if not module._parameters["weight"].dtype.is_floating_point:  # type: ignore[union-attr, unused-ignore]
        return "its weights are not floating-point"
    if not module._parameters["weight"].numel():  # type: ignore[union-attr, unused-ignore]
        return "it has no weights"
    return None


def _plan(
    groups: list[_Group],
    names: dict[str, str],
    recipe: Any,
    matrix: ImportanceMatrix | None,
    model: torch.nn.Module,
    report: ModuleReport,
) -> None:
    """Give each group a plan, or a reason in the report for staying as it is."""
    if not isinstance(recipe, Mapping):
        _ask(groups, names, recipe, matrix, model_metadata(model), report)
        return
    by_type: dict[Any, list[_Group]] = {}
    for group in groups:
        chosen = next((to for pattern, to in recipe.items() for n in group.names if re.search(pattern, n)), None)
        if chosen is None:
            for name in group.names:
                report.left[name] = "no pattern of the recipe is found in its name"
        else:
            by_type.setdefault(chosen, []).append(group)
    for type_, some in by_type.items():
        name = getattr(type_, "name", type_)
        uniform = FileType(str(name), None, str(name), f"{name} for every matrix")
        _ask(some, names, uniform, matrix, {}, report)


def _ask(
    groups: list[_Group],
    names: dict[str, str],
    recipe: Any,
    matrix: ImportanceMatrix | None,
    metadata: Mapping[str, Any],
    report: ModuleReport,
) -> None:
    infos = [_info(names[group.names[0]], group.weight) for group in groups]
    plan = plan_header(SimpleNamespace(metadata=metadata, tensors=infos), recipe, imatrix=matrix)
    for group, info in zip(groups, infos, strict=True):
        tensor = plan[info.name]
        if tensor.to_type in FLOAT_TYPES:
            for name in group.names:
                report.left[name] = tensor.reason
        else:
            group.plan = tensor


def _info(name: str, weight: torch.Tensor) -> TensorInfo:
    """A weight as a header of a file describes it."""
    type_id = {torch.float16: _F16, torch.bfloat16: _BF16}.get(weight.dtype, _F32)
    dims = tuple(weight.shape)[::-1]
    size = TYPES[type_id].type_size
    return TensorInfo(name, dims, type_id, TYPES[type_id].name, 0, size * math.prod(dims), size * dims[0], True)


def _renamed(matrix: ImportanceMatrix, groups: list[_Group], names: dict[str, str]) -> ImportanceMatrix:
    """The matrix under the names that the plan uses; entries may have the names of modules or of their weights."""
    found = {name: matrix.entries[name] for name in matrix.entries}
    changed = False
    for group in groups:
        target = names[group.names[0]]
        for own in (name for module in group.names for name in (f"{module}.weight", module)):
            if target not in found and own in found:
                found[target] = found.pop(own)
                changed = True
    return ImportanceMatrix(found, dataset=matrix.dataset, path=matrix.path) if changed else matrix


def replace_module(model: torch.nn.Module, name: str, old: torch.nn.Module, packed: Packed) -> None:
    """Put a layer with these bytes in the place of another."""
    made: torch.nn.Module
    if isinstance(old, torch.nn.Embedding):
        made = QuantEmbedding.from_packed(packed, old.padding_idx)
    elif isinstance(old, torch.nn.Linear):
        made = QuantLinear.from_packed(packed, old.bias)
    else:
        raise PlanError(f"{name} is a {type(old).__name__}")
    made.train(old.training)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, made)
