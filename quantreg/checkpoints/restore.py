"""The way back: a GGUF model as the tensors and the config.json of a folder that transformers loads."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from quantreg.checkpoints.checkpoint import Checkpoint, Row
from quantreg.checkpoints.config import Config
from quantreg.checkpoints.described import Described
from quantreg.checkpoints.layout import Layout
from quantreg.checkpoints.matching import further_name, match, steps_of
from quantreg.checkpoints.metadata import architecture_metadata
from quantreg.checkpoints.restore_config import config_of, differences
from quantreg.checkpoints.transforms import Generated, Mxfp4, Transform, arranged, shape_before
from quantreg.errors import CheckpointError
from quantreg.recipes import Architecture, architectures
from quantreg.words import count, named

__all__ = ["Old", "Place", "Restored", "restore"]

_WHERE = "config.json, as it would be written,"


class Place(NamedTuple):
    """Where the values of a GGUF tensor from number ``start`` on go in a tensor of the checkpoint, in their order.

    ``changes`` are the transforms that changed them.
    """

    new: str
    start: int
    layout: Layout
    changes: tuple[Transform, ...]


@dataclass
class Old:
    """A tensor of the checkpoint: its name, its shape in NumPy order, and the values that fill it."""

    name: str
    shape: tuple[int, ...]
    places: list[Place] = field(default_factory=list)


class Restored(NamedTuple):
    """What a folder holds of a GGUF model.

    ``config`` is config.json, and ``lost`` names the keys of the metadata that it cannot say. ``left_out`` are tensors
    that follow from the configuration.
    """

    architecture: Architecture
    checkpoint: Checkpoint
    config: dict[str, Any]
    tensors: list[Old]
    lost: list[str]
    left_out: list[str]


def restore(model: Described, dtype: str, spare: Iterable[str] = ()) -> Restored:
    """Say what the folder of a GGUF model holds. ``dtype`` is the type of its weights, as config.json names it.

    ``spare`` are names of tensors that belong to others, such as fitted parameters. Of the checkpoints of the
    architecture the one is taken that fits all tensors and says most of the metadata.

    Raises CheckpointError, which names what cannot go back and why.
    """
    architecture = architectures.get(model.architecture)
    if architecture is None or not architecture.checkpoints:
        known = ", ".join(sorted(name for name, each in architectures.items() if each.checkpoints))
        raise CheckpointError(
            f"no plugin knows how a model of the architecture {model.architecture!r:.80} is published: known are "
            f"{known}. Export it to a file, OUT.safetensors, which keeps the names of GGUF, or write a plugin whose "
            "Architecture has a Checkpoint (docs/checkpoints.md)"
        )
    found: list[Restored] = []
    errors: list[CheckpointError] = []
    for checkpoint in architecture.checkpoints:
        try:
            found.append(_restored(model, architecture, checkpoint, dtype, set(spare)))
        except CheckpointError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return min(found, key=lambda each: len(each.lost))


def _restored(
    model: Described, architecture: Architecture, checkpoint: Checkpoint, dtype: str, spare: set[str]
) -> Restored:
    kind = checkpoint.classes[0]
    if checkpoint.one_way:
        raise CheckpointError(
            f"a model of the architecture {architecture.name!r} cannot go back to {kind}: {checkpoint.one_way}. Export "
            "it to a file, OUT.safetensors, which keeps the names of GGUF"
        )
    data = config_of(model, checkpoint, dtype)
    config = Config(data, _WHERE).filled(checkpoint.defaults)
    config.further = model.get("nextn_predict_layers") or 0 if checkpoint.further else 0
    tensors, left_out = _tensors(model, checkpoint, config, kind, spare)
    try:
        every = match(sorted(tensors), checkpoint, config, kind)
    except CheckpointError as error:
        raise CheckpointError(f"the model cannot go back to {kind}: {error}") from None
    wanted = {one.name for one in every if not (one.how and isinstance(one.how[0], Generated))}
    wrong = wanted ^ {place.new for old in tensors.values() for place in old.places}
    if wrong:
        raise CheckpointError(
            f"the model cannot go back to {kind}: a conversion of the folder would not give {named(sorted(wrong))} "
            "as the model has it: correct the table of the plugin"
        )
    made = architecture_metadata(config, architecture.name, checkpoint, ())
    differ, lost = differences(model, {key: value.data for key, value in made.items()})
    if differ:
        raise CheckpointError(f"the model cannot go back to {kind}, whose config.json cannot say that {differ[0]}")
    return Restored(architecture, checkpoint, data, list(tensors.values()), lost, left_out)


def _tensors(
    model: Described, checkpoint: Checkpoint, config: Config, kind: str, spare: set[str]
) -> tuple[dict[str, Old], list[str]]:
    """The tensors of the checkpoint by name, and the names of tensors that it does not hold."""
    rows: dict[str, list[Row]] = {}
    for row in checkpoint.rows:
        rows.setdefault(row.new, []).append(row)
    tensors: dict[str, Old] = {}
    left_out, unknown = [], []
    for name in model.infos:
        if name in spare:
            continue
        template, layer = _template(name)
        spellings = rows.get(template, [])
        if not spellings:
            unknown.append(name)
            continue
        chosen = next((pair for row in spellings if (pair := _usable(row, config)) is not None), None)
        if chosen is None:
            raise CheckpointError(
                f"{name} cannot go back to {kind}: its table has no row for the way back: every spelling holds blocks "
                "of MXFP4, or config.json speaks against it"
            )
        row, how = chosen
        if how and isinstance(how[0], Generated):
            left_out.append(name)
        else:
            _place(model, name, layer, row, how, tensors, kind)
    if unknown:
        raise CheckpointError(
            f"the model has {count(len(unknown), 'tensor')} that {kind} has no name for ({named(unknown)}): a folder "
            "without them would be another model. Export it to a file, OUT.safetensors, which keeps the names of GGUF"
        )
    for old in tensors.values():
        have = sum(math.prod(place.layout.shape) for place in old.places)
        if have != math.prod(old.shape):
            names = named(list(dict.fromkeys(place.new for place in old.places)))
            raise CheckpointError(
                f"{old.name} of {kind} has the shape {list(old.shape)}, and {names} fill {have} of its "
                f"{math.prod(old.shape)} values: a tensor of the model is missing"
            )
    if checkpoint.further:  # transformers knows by their names that it does not need these
        for old in tensors.values():
            old.name = further_name(old.name, checkpoint, config)
        tensors = {old.name: old for old in tensors.values()}
    return tensors, left_out


def _template(name: str) -> tuple[str, int | None]:
    """The name of a row for a GGUF tensor, and the number of its layer."""
    parts = name.split(".")
    place = next((k for k, part in enumerate(parts) if part.isascii() and part.isdecimal()), None)
    if place is None:
        return name, None
    return ".".join([*parts[:place], "{i}", *parts[place + 1 :]]), int(parts[place])


def _usable(row: Row, config: Config) -> tuple[Row, tuple[Transform, ...]] | None:
    """The row with its transforms, if the way back may use it."""
    if not (row.back(config) if callable(row.back) else row.back):
        return None
    how = steps_of(row, config)
    if how is None or any(isinstance(step, Mxfp4) for step in how):
        return None
    return row, how


def _place(
    model: Described,
    name: str,
    layer: int | None,
    row: Row,
    how: tuple[Transform, ...],
    tensors: dict[str, Old],
    kind: str,
) -> None:
    """Put the values of a GGUF tensor where they go."""
    if len(row.olds) != 1:
        raise CheckpointError(
            f"{name} cannot go back to {kind}: {named(list(row.olds))} are joined in it, and the model does not say "
            "where one ends"
        )
    old = row.olds[0] if layer is None else row.olds[0].replace("{i}", str(layer))
    shape = model.shape(name)
    stacked = "{e}" in old
    inner = shape[1:] if stacked else shape
    try:
        after, before, layouts = _arranged(how, inner)
    except (CheckpointError, IndexError) as error:
        raise CheckpointError(f"{name} has the shape {list(shape)}, which {kind} cannot have: {error}") from None
    if after != inner:
        raise CheckpointError(f"{name} has the shape {list(shape)}, but {kind} would make {list(after)} of it")
    changes, start = tuple(step for step in how if step.changes), 0
    for expert in range(shape[0] if stacked else 1):
        known = tensors.setdefault(old.replace("{e}", str(expert)), Old(old.replace("{e}", str(expert)), before))
        if known.shape != before:
            raise CheckpointError(
                f"{known.name} of {kind} would have the shape {list(before)} for {name}, and {list(known.shape)} for "
                f"{known.places[0].new}: the tensors do not belong together"
            )
        for layout in layouts:
            known.places.append(Place(name, start, layout, changes))
            start += math.prod(layout.shape)


def _arranged(
    how: tuple[Transform, ...], inner: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Layout, ...]]:
    """The shape that a tensor of this shape would have again, its shape in the checkpoint, and where its values lie."""
    for outer in (0, 1):  # GGUF files leave axes of length 1 out
        try:
            before = shape_before(how, (1,) * outer + inner)
            after, layouts = arranged(before, how)
        except (CheckpointError, IndexError):
            if outer:
                raise
            continue
        if after == (1,) * outer + inner:
            return inner, before, layouts
    return after, before, layouts
