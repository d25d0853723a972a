"""Which tensors of a checkpoint each tensor of GGUF is made of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from typing import NamedTuple

from quantreg.checkpoints.checkpoint import Checkpoint, Row
from quantreg.checkpoints.common import IGNORED
from quantreg.checkpoints.config import Config
from quantreg.checkpoints.transforms import Transform
from quantreg.errors import CheckpointError
from quantreg.words import count, listed, named

__all__ = ["Match", "further_layers", "further_name", "match", "steps_of"]

_MOST = 10_000  # experts of a layer that are looked at
_BY_HEAD = ("attn_q_norm", "attn_k_norm")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_DIGITS = 9  # a longer number in a name is not that of a layer


class Match(NamedTuple):
    """A tensor of GGUF: its name, what is done to its parts, and the parts.

    ``parts`` holds, for each name in ``old`` of the row, the tensors of the checkpoint: one, or one for each expert.
    ``stacked`` says for each whether they are stacked.
    """

    name: str
    how: tuple[Transform, ...]
    parts: tuple[tuple[str, ...], ...]
    stacked: tuple[bool, ...]


# row -> layer (None outside of layers) -> for each name in `old`: expert (None without) -> name in the checkpoint
_Found = dict[int, dict[int | None, list[dict[int | None, str]]]]


def match(names: Sequence[str], checkpoint: Checkpoint, config: Config, where: str) -> list[Match]:
    """Say how each tensor of GGUF is made from the tensors with these names; in the order of the rows' layers.

    Raises CheckpointError that names what is missing, and what no row takes. ``where`` is the path that it names.
    """
    kind = " or ".join(config.classes) or checkpoint.classes[0]
    beyond = [each.replace("{layers}", str(config.n_layers)) for each in checkpoint.ignored if "{layers}" in each]
    starts = _starts(checkpoint, config)
    names = [name for name in names if not any(fnmatchcase(_begun(name, starts), each) for each in beyond)]
    found, unknown = _sorted_in(names, checkpoint, starts)
    n_layers = config.n_layers if any("{i}" in row.new for row in checkpoint.rows) else 0
    _check_layers(found, n_layers + config.further, config, where)
    hows = [steps_of(row, config) for row in checkpoint.rows]
    matches, missing, taken = _chosen(checkpoint.rows, hows, found, n_layers, config)
    if missing:
        missing = [further_name(name, checkpoint, config) for name in missing]
        raise CheckpointError(
            f"{where}: the checkpoint lacks {count(len(missing), 'tensor')} that {_a(kind)} has ({named(missing)}): "
            "download the model again, or correct config.json if it is that of another model"
        )
    unknown += [
        name
        for layers in found.values()
        for olds in layers.values()
        for experts in olds
        for name in experts.values()
        if name not in taken
    ]
    if unknown:
        unknown = list(dict.fromkeys(unknown))
        raise CheckpointError(
            f"{where}: the checkpoint has {count(len(unknown), 'tensor')} that {_a(kind)} does not have, as far as "
            f"quantreg knows ({listed(unknown)}): a model that lacks a part would be wrong. If these are not needed, "
            "add them to `ignored` of the Checkpoint in the plugin (see docs/checkpoints.md), or remove them from the "
            "files"
        )
    return matches


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "AEIOU" else f"a {kind}"


def further_layers(names: Iterable[str], checkpoint: Checkpoint, config: Config) -> int:
    """How many layers come after the last and predict further tokens, for `Config.further`."""
    if not checkpoint.further:
        return 0
    olds = {old for row in checkpoint.rows for old in row.olds}
    starts = _starts(checkpoint, config)
    found = (i for name in names for old, i, _ in _templates(_begun(name, starts)) if i is not None and old in olds)
    return max(0, 1 + max(found, default=0) - config.n_layers)


def further_name(name: str, checkpoint: Checkpoint, config: Config) -> str:
    """The name as it is published, if it is that of a layer that predicts further tokens and begins differently."""
    for old, new in sorted(checkpoint.starts, key=lambda pair: -len(pair[1])):
        start = new.replace("{layers}", str(config.n_layers)) if "{layers}" in new else ""
        if start and name.startswith(start):
            return old + name[len(start) :]
    return name


def _starts(checkpoint: Checkpoint, config: Config) -> tuple[tuple[str, str], ...]:
    if not any("{layers}" in new for _, new in checkpoint.starts):
        return checkpoint.starts
    return tuple((old, new.replace("{layers}", str(config.n_layers))) for old, new in checkpoint.starts)


def _sorted_in(
    names: Iterable[str], checkpoint: Checkpoint, starts: Iterable[tuple[str, str]]
) -> tuple[_Found, list[str]]:
    """Find the rows that take each name; also the names that none takes and that are not ignored."""
    takers: dict[str, list[tuple[int, int]]] = {}
    for number, row in enumerate(checkpoint.rows):
        for k, old in enumerate(row.olds):
            takers.setdefault(old, []).append((number, k))
    found: _Found = {}
    unknown = []
    ignored = (*IGNORED, *checkpoint.ignored)
    for name in names:
        known = _begun(name, starts)
        for template, i, e in _templates(known):
            if template in takers:
                for number, k in takers[template]:
                    n_olds = len(checkpoint.rows[number].olds)
                    experts = found.setdefault(number, {}).setdefault(i, [{} for _ in range(n_olds)])[k]
                    if experts.setdefault(e, name) != name:  # two names that begin differently
                        unknown.append(name)
                break
        else:
            if not any(fnmatchcase(known, pattern) or fnmatchcase(name, pattern) for pattern in ignored):
                unknown.append(name)
    return found, unknown


def _begun(name: str, starts: Iterable[tuple[str, str]]) -> str:
    for old, new in starts:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def _templates(name: str) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield the names of rows that may stand for a name, with the layer and the expert."""
    parts = name.split(".")
    places = [
        place
        for place, part in enumerate(parts)
        if part.isascii() and part.isdecimal() and len(part) <= _DIGITS and part == str(int(part))
    ]
    for layer, expert in combinations(places, 2):
        new = list(parts)
        new[layer], new[expert] = "{i}", "{e}"
        yield ".".join(new), int(parts[layer]), int(parts[expert])
    for place in places:
        for mark in ("{i}", "{e}"):
            new = list(parts)
            new[place] = mark
            number = int(parts[place])
            yield ".".join(new), number if mark == "{i}" else None, number if mark == "{e}" else None
    yield name, None, None


def _check_layers(found: _Found, n_layers: int, config: Config, where: str) -> None:
    """Raise CheckpointError if the number of layers is not that of the configuration."""
    there = {i for layers in found.values() for i in layers if i is not None}
    if n_layers > len(there):  # also a number so large that a loop over the layers would not end
        raise CheckpointError(
            f"{config.path} says that the model has {count(n_layers, 'layer')}, but {where} has tensors of "
            f"{len(there)}: download the missing files, or correct config.json"
        )


def steps_of(row: Row, config: Config) -> tuple[Transform, ...] | None:
    """The transforms of a row; None if it has no tensors in the checkpoint and makes none."""
    how = row.how
    if callable(how):
        try:
            how = how(config)
        except CheckpointError:
            raise
        except Exception as error:  # what a table computes from numbers that nobody checked
            raise CheckpointError(
                f"{config.path}: cannot tell how {row.new} is made: {error!r:.200}: correct config.json"
            ) from error
    if how is None:
        return () if row.olds else None
    steps = how if isinstance(how, tuple) else (how,)
    wrong = next((step for step in steps if not isinstance(step, Transform)), None)
    if wrong is not None:
        raise CheckpointError(
            f"{row.new}: {wrong!r:.80} in `how` is not a quantreg.checkpoints.Transform: correct the table"
        )
    return steps


def _chosen(
    rows: Sequence[Row],
    hows: Sequence[tuple[Transform, ...] | None],
    found: _Found,
    n_layers: int,
    config: Config,
) -> tuple[list[Match], list[str], set[str]]:
    """Choose the row of each tensor. Also returns the names of what is missing, and the names that are used."""
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.new, []).append(number)
    matches: list[Match] = []
    missing: list[str] = []
    taken: set[str] = set()
    wanted: list[tuple[str, str, int | None]] = []  # tensors that another may stand in for
    done: set[str] = set()
    for new, numbers in groups.items():
        every = range(n_layers if rows[numbers[0]].further else 0, n_layers + config.further)
        for i in every if "{i}" in new else (None,):
            name = _at(new, i)
            for number in numbers:
                how = hows[number]
                if how is None:
                    continue
                olds = found.get(number, {}).get(i, []) if rows[number].olds else []
                if rows[number].olds and not any(olds):
                    continue
                gaps = list(_gaps(rows[number], olds, i, config))
                if gaps:
                    missing += gaps
                    taken.update(part for experts in olds for part in experts.values())
                    done.add(name)
                    break
                parts = tuple(tuple(experts[e] for e in sorted(experts, key=_order)) for experts in olds)
                matches.append(Match(name, how, parts, tuple("{e}" in old for old in rows[number].olds)))
                taken.update(part for names in parts for part in names)
                done.add(name)
                break
            else:
                first = rows[next((number for number in numbers if number in found), numbers[0])]  # as in other layers
                if first.olds and not any(_may_lack(rows[number], config, i) for number in numbers):
                    wanted.append((_at(first.unless, i), _at(_at(first.olds[0], i), 0, "{e}"), i))
    missing += [old for unless, old, _ in wanted if not unless or unless not in done]
    return matches, missing, taken


def _at(pattern: str, number: int | None, mark: str = "{i}") -> str:
    return pattern if number is None else pattern.replace(mark, str(number))


def _order(expert: int | None) -> int:
    return -1 if expert is None else expert


def _may_lack(row: Row, config: Config, layer: int | None) -> bool:
    found = row.optional(config) if callable(row.optional) else row.optional
    return found if isinstance(found, bool) else layer in found


def _gaps(row: Row, olds: Sequence[Mapping[int | None, str]], i: int | None, config: Config) -> Iterator[str]:
    """Yield the names of the parts that are missing beside those that are there."""
    there = {e for experts in olds for e in experts if e is not None}
    most = max(_stacked(row, config), *(e + 1 for e in there), 0)
    for old, experts in zip(row.olds, olds, strict=True):
        if "{e}" not in old:
            if not experts:
                yield _at(old, i)
            continue
        for e in range(min(_MOST, most)):
            if e not in experts:
                yield _at(_at(old, i), e, "{e}")


def _stacked(row: Row, config: Config) -> int:
    """How many tensors config.json wants stacked: one for each expert or head; 0 if it does not say it."""
    role = row.new.rsplit(".", 2)[-2]
    if role in _BY_HEAD:
        return config.heads if role == "attn_q_norm" else config.kv_heads
    found = config.first_of(_EXPERTS, 0) if role.endswith("_exps") else 0
    return found if isinstance(found, int) else 0
