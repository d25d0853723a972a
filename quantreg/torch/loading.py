"""Load a GGUF file into a model of transformers, whose tensors have other names and sometimes another order."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from quantreg.checkpoints import Checkpoint, Config, Row, Share, Transform
from quantreg.checkpoints.folder import find
from quantreg.checkpoints.layout import Layout
from quantreg.checkpoints.matching import Match, match
from quantreg.checkpoints.transforms import Generated, arranged
from quantreg.errors import CheckpointError, ShapeError
from quantreg.ggml import PLAIN_TYPES
from quantreg.registry import registry, types
from quantreg.torch.encoded import Encoded
from quantreg.torch.files import StateDict, from_gguf
from quantreg.torch.lazy import GGUFTensor
from quantreg.torch.modules import ModuleReport, replace_module, why_not
from quantreg.torch.packed import Packed
from quantreg.words import count, named

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["load_into"]

# What models of transformers 5 call experts, which they stack; published files have a matrix for each.
_STACKED = (
    Row("blk.{i}.ffn_gate_inp.weight", "model.layers.{i}.mlp.gate.weight", optional=True),
    *(
        Row(f"blk.{{i}}.ffn_{new}_exps.weight", f"model.layers.{{i}}.{part}.experts.{old}", how, optional=True)
        for part in ("mlp", "feed_forward")
        for new, old, how in (
            ("gate", "gate_up_proj", Share(0, 2, 1)),
            ("up", "gate_up_proj", Share(1, 2, 1)),
            ("down", "down_proj", None),
        )
    ),
)
# Published name -> the name in models of transformers 5.
_MIXTURE = "model.layers.{i}.block_sparse_moe."
_RENAMED = {
    "embed_out.weight": "lm_head.weight",
    f"{_MIXTURE}e_score_correction_bias": "model.layers.{i}.mlp.e_score_correction_bias",
    "model.layers.{i}.mlp.moe_statics.e_score_correction_bias": (
        "model.layers.{i}.mlp.gate.moe_statics.e_score_correction_bias"
    ),
    f"{_MIXTURE}router.layer.weight": f"{_MIXTURE}router.weight",
    f"{_MIXTURE}input_linear.weight": f"{_MIXTURE}experts.gate_up_proj",
    f"{_MIXTURE}output_linear.weight": f"{_MIXTURE}experts.down_proj",
}


class _Part(NamedTuple):
    """A tensor of the model that a tensor of the file has values for: its name, and where they go in it."""

    name: str
    layouts: tuple[Layout, ...]

    @property
    def size(self) -> int:
        """How many values go there."""
        return sum(math.prod(layout.shape) for layout in self.layouts)


def load_into(
    model: torch.nn.Module,
    path: "str | bytes | os.PathLike[str]",
    *,
    quantized: bool = False,
    embeddings: bool = False,
) -> ModuleReport:
    """Load the weights of a GGUF file into a model of transformers of the same architecture, in place.

    ::

        model = LlamaForCausalLM(config)
        quantreg.torch.load_into(model, "model-Q4_K_M.gguf")

    - ``model``: a model whose class a plugin knows: see `quantreg.Checkpoint`. It has its weights in memory; one on the
      meta device has no place for them.
    - ``path``: a GGUF file, or any shard of a split model.
    - ``quantized``: replace each torch.nn.Linear by a `QuantLinear` that holds the bytes of the file, if the layer has
      the rows of one quantized tensor of the file, in the same or another order. All other tensors are decoded.
    - ``embeddings``: with ``quantized``, replace each torch.nn.Embedding by a `QuantEmbedding`, too. Layers that are
      tied to the embeddings stay tied: they keep the bytes only if the embeddings do.

    Tensors are decoded one at a time, to the dtype and the device of the model. What GGUF changes is undone: norms plus
    one, stacked experts, the order of rows. The report says which modules were replaced and why others were not.

    Raises CheckpointError if no plugin knows the class, if the file is of another architecture, or if it has not the
    tensors that the model has, before anything is loaded; ShapeError if a shape differs; GGUFFormatError, OSError.
    """
    state = from_gguf(path)
    where = os.fsdecode(path)
    own = model.state_dict()
    _check_memory(own)
    tied = _tied(own)
    matches = _matches(model, [name for name in own if name not in tied], own, state, where)
    plans = {found.name: _parts(found, state[found.name], own, where) for found in matches}
    report = ModuleReport()
    users = _users(model)
    before = after = 0
    for found in matches:
        tensor, parts = state[found.name], plans[found.name]
        changes = tuple(step for step in found.how if step.changes)
        flat: torch.Tensor | None = None
        at = 0
        for part in parts:
            target = own[part.name]
            packed: Packed | str = "the model is decoded"
            if quantized:
                layers = users.get(part.name, [])
                packed = _packed(tensor, found.how, target, at, len(parts), layers, model, embeddings)
            if isinstance(packed, Packed):
                before += target.numel() * target.element_size()
                after += packed.bytes.numel()
                for name in users[part.name]:
                    replace_module(model, name, model.get_submodule(name), packed)
                    report.replaced[name] = tensor.type_name if isinstance(tensor, GGUFTensor) else ""
                    report.reasons[name] = f"the bytes of {found.name}, {report.replaced[name]}"
            else:
                if quantized and target.ndim > 1:
                    report.left.update((name, f"decoded: {packed}") for name in users.get(part.name, []))
                if flat is None and not (len(parts) == 1 and _is_whole(part, target, changes)):
                    flat = _decoded(tensor)
                _fill(target, part, tensor if flat is None else flat[at : at + part.size], changes)
            at += part.size
    filled = {part.name for parts in plans.values() for part in parts}
    for name in own:
        if name not in filled and name not in tied:
            report.left[name.rpartition(".")[0]] = "the file has no tensor for it"
    return ModuleReport(report.replaced, report.reasons, report.left, before, after)


def _check_memory(own: dict[str, torch.Tensor]) -> None:
    meta = [name for name, tensor in own.items() if tensor.device.type == "meta"]
    if meta:
        raise CheckpointError(
            f"the model is on the meta device, where its tensors ({named(meta)}) have no memory: make it on the CPU, "
            "in bfloat16 to save memory"
        )


def _tied(own: dict[str, torch.Tensor]) -> dict[str, str]:
    """The tensors that share their memory with one before them: name -> that one."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    found = {}
    for name, tensor in own.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and first.setdefault(key, name) != name:
            found[name] = first[key]
    return found


def _matches(
    model: torch.nn.Module, names: Sequence[str], own: dict[str, torch.Tensor], state: StateDict, where: str
) -> list[Match]:
    """Which tensors of the model each tensor of the file is for. Raises CheckpointError if they do not correspond."""
    kind = type(model).__name__
    given = getattr(model, "config", None)
    if given is None or not hasattr(given, "to_dict"):
        raise CheckpointError(f"the model, a {kind}, has no config: pass a model of transformers")
    config = Config({**given.to_dict(), "architectures": [kind]}, f"the configuration of {kind}")
    architecture, checkpoint = find(config)
    config = config.filled(checkpoint.defaults)
    found = str(state.metadata.get("general.architecture"))
    if found != architecture.name:
        raise CheckpointError(
            f"{where} is a model of the architecture {found!r:.80}, but {kind} is {architecture.name!r}: make a model "
            "of the class that belongs to the file"
        )
    table = _with_names_in_memory(checkpoint, names)
    every = match(names, table, config, kind)
    wanted = [one for one in every if not (one.how and isinstance(one.how[0], Generated))]
    missing = [one.name for one in wanted if one.name not in state]
    if missing:
        raise CheckpointError(
            f"{where} lacks {count(len(missing), 'tensor')} that the model has ({named(missing)}): make the model with "
            "the configuration that belongs to the file"
        )
    used = {one.name for one in every}
    fitted = {
        stored
        for name, tensor in state.items()
        if isinstance(tensor, GGUFTensor) and tensor.type_name in types
        for stored in types[tensor.type_name].stored_names(name, tuple(tensor.shape)).values()
    }
    # An output matrix that is tied to the embeddings is stored once or twice; frequencies follow from the config.
    spare = {"output.weight", "rope_freqs.weight"} if len(names) < len(own) else {"rope_freqs.weight"}
    if checkpoint.further:  # transformers has no use for layers that predict further tokens
        layer = re.compile(r"blk\.(\d+)\.")
        found_layers = {name: layer.match(name) for name in state}
        spare |= {name for name, at in found_layers.items() if at is not None and int(at[1]) >= config.n_layers}
    left = [name for name in state if name not in used | fitted | spare]
    if left:
        raise CheckpointError(
            f"{where} has {count(len(left), 'tensor')} that the model does not have ({named(left)}): make the model "
            "with the configuration that belongs to the file"
        )
    return wanted


def _with_names_in_memory(checkpoint: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """The table of a checkpoint with the names of transformers 5, where they differ from those in published files."""
    there = {re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name, count=1) for name in names}
    rows = [
        replace(row, old=_RENAMED[row.old])
        if isinstance(row.old, str) and _RENAMED.get(row.old) in there and row.old not in there
        else row
        for row in checkpoint.rows
    ]
    known = {old for row in rows for old in row.olds}
    rows += [row for row in _STACKED if row.olds[0] in there - known]
    return replace(checkpoint, rows=tuple(rows))


def _parts(found: Match, tensor: torch.Tensor, own: dict[str, torch.Tensor], where: str) -> list[_Part]:
    """Where the values of a tensor of the file go. Raises ShapeError if they are not as many as the model has."""
    parts = []
    shapes: list[tuple[int, ...]] = []
    for names, stacked in zip(found.parts, found.stacked, strict=True):
        for name in names:
            shape, layouts = arranged(tuple(own[name].shape), found.how)
            parts.append(_Part(name, layouts))
        shapes.append((len(names), *shape) if stacked else shape)
    total = shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if tuple(tensor.shape) != total:
        own_names = [part.name for part in parts]
        raise ShapeError(
            f"{where}: {found.name} has the shape {tuple(tensor.shape)}, but {named(own_names)} of the model make "
            f"{total}: make the model with the configuration that belongs to the file"
        )
    return parts


def _users(model: torch.nn.Module) -> dict[str, list[str]]:
    """The modules that have each tensor of the state dict; under the name that comes first, if it is tied."""
    places: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{module_name}.{key}" if module_name else key
                found.setdefault(places.setdefault(id(parameter), name), []).append(module_name)
    return found


def _is_whole(part: _Part, target: torch.Tensor, changes: Sequence[Transform]) -> bool:
    """Whether a tensor of the file has the values of the model's tensor in the same order."""
    return part.layouts == (Layout.whole(tuple(target.shape)),) and not changes


def _decoded(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor).reshape(-1)


def _fill(target: torch.Tensor, part: _Part, values: torch.Tensor, changes: Sequence[Transform]) -> None:
    """Put the values of a tensor of the file, in its order, into a tensor of the model."""
    with torch.no_grad():
        if _is_whole(part, target, changes):
            target.copy_(values.reshape(target.shape) if values.ndim == 1 else values)
            return
        dense = target if target.is_contiguous() else torch.empty_like(target, memory_format=torch.contiguous_format)
        at = 0
        for layout in part.layouts:
            n = math.prod(layout.shape)
            place = dense.as_strided(layout.shape, layout.strides, dense.storage_offset() + layout.start)
            piece = values[at : at + n].reshape(layout.shape)
            for step in reversed(changes):
                piece = torch.from_numpy(step.unchanged(piece.float().cpu().numpy()))
            place.copy_(piece)
            at += n
        if dense is not target:
            target.copy_(dense)


def _packed(
    tensor: torch.Tensor, how: tuple[Transform, ...], target: torch.Tensor, at: int, n_parts: int, users: list[str],
    model: torch.nn.Module, embeddings: bool,
) -> Packed | str:  # fmt: skip
    """The bytes of the file for the layers that have a tensor of the model, or why they must be decoded."""
    for name in users:
        why = why_not(name, model.get_submodule(name), "weight", [], embeddings)
        if why is not None:
            return why if len(users) == 1 else f"it is tied to {name}: {why}"
    if not users:
        return "it is no parameter"
    if not isinstance(tensor, GGUFTensor):
        return "the file stores plain numbers"
    if target.ndim != 2 or tensor.ndim != 2:
        return "it is no matrix"
    order = _row_order(tuple(target.shape), how)
    if order is None:
        return "its values are in another order in the file"
    encoded, cols = tensor.encoded, target.shape[1]
    whole = n_parts == 1 and np.array_equal(order, np.arange(len(order)))
    if not whole and registry.get(encoded.type_id).by_matrix:
        return f"rows of {encoded.type_name} cannot be moved"
    if encoded.type_name in PLAIN_TYPES:
        return "the file stores plain numbers"
    if not whole:
        first = at // cols
        rows = encoded.bytes[first : first + len(order)]
        rows = rows[torch.from_numpy(np.argsort(order))]
        encoded = Encoded(encoded.name, tuple(target.shape), encoded.type_id, encoded.type_name, rows)
    if encoded.bytes.device != target.device:
        encoded = Encoded(
            encoded.name, encoded.shape, encoded.type_id, encoded.type_name, encoded.bytes.to(target.device),
            encoded.parameters,
        )  # fmt: skip
    return Packed.of(encoded, target.dtype)


def _row_order(shape: tuple[int, ...], how: tuple[Transform, ...]) -> "NDArray[np.int64] | None":
    """The row of the model that each row of the file is, or None if that is not all that differs."""
    rows, cols = shape
    if any(step.changes for step in how):
        return None
    after, layouts = arranged(shape, how)
    if after != shape:
        return None
    found = []
    for layout in layouts:
        if not layout.shape or layout.shape[-1] != cols or layout.strides[-1] != 1:
            return None
        starts = np.zeros(layout.shape[:-1], np.int64) + layout.start
        for axis, (n, step) in enumerate(zip(layout.shape[:-1], layout.strides[:-1], strict=True)):
            starts += (np.arange(n) * step).reshape(-1, *[1] * (len(layout.shape) - 2 - axis))
        found.append(starts.reshape(-1))
    starts = np.concatenate(found)
    if (starts % cols).any() or len(starts) != rows:
        return None
    order: NDArray[np.int64] = starts // cols
    return order
