"""A plan as a JSON file with one tensor per line, for people to read and edit."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from quantreg.errors import PlanError
from quantreg.recipes.calibration import Calibration, Importance, decided
from quantreg.recipes.catalog import file_types
from quantreg.recipes.checks import Checks
from quantreg.recipes.fitted import with_parameters
from quantreg.recipes.model import ModelHeader
from quantreg.recipes.options import PlanOptions
from quantreg.recipes.order import dropped_dims, trimmed
from quantreg.recipes.plans import MetadataEdit, Plan, TensorPlan
from quantreg.storage import AtomicFile

if TYPE_CHECKING:  # gguf loads NumPy, which planning does not need
    from quantreg.gguf import TensorInfo
    from quantreg.qtype import QuantType

__all__ = ["PlanFile", "write_plan"]

_VERSION = 1
_KEPT_OPTIONS = (
    "allow_requantize", "include_weights", "exclude_weights", "on_missing_importance", "keep_split", "keep_dims",
    "imatrix_floor",
)  # fmt: skip
_AGAIN = "make a new plan of this model with `quantreg plan`"


def write_plan(
    plan: Plan,
    path: str | bytes | os.PathLike[str],
    *,
    force: bool = False,
    source: str | bytes | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]] | None = None,
) -> None:
    """Write a plan as JSON.

    Users may edit ``to`` of each tensor, and may delete a tensor's line to leave the tensor out. ``metadata`` lists the
    changes in order: [key, type, value] sets a key, [key] removes it. ``source`` is one path or several (such as the
    model's) that must not be overwritten.

    Raises OutputError if a file exists at path and ``force`` is not set, or if path is one of ``source``.
    """
    data = plan.to_dict()
    head = {
        "quantreg_plan": _VERSION,
        "file_type": plan.file_type.name,
        "imatrix": plan.imatrix,
        "options": {name: getattr(plan.options, name) for name in _KEPT_OPTIONS},
        "warnings": plan.warnings,
        "bytes": data["bytes"],
        "bits_per_weight": data["bits_per_weight"],
    }
    rows = [
        {"name": tensor.name}
        | ({"source": tensor.source.name} if tensor.source.name != tensor.name else {})
        | row
        | ({"wanted": tensor.wanted} if tensor.wanted else {})
        for tensor, row in zip(plan.tensors, data["tensors"], strict=True)
    ]
    edits = [list(edit) if edit.type is not None else [edit.key] for edit in plan.metadata]
    parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    parts += [f'  "metadata": {_lines(edits)}', f'  "tensors": {_lines(rows)}']
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    with AtomicFile(path, force=force, source=source) as file:
        file.write(text.encode())


def _lines(items: Collection[object]) -> str:
    return "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in items) + "\n  ]" if items else "[]"


class PlanFile:
    """A plan that `write_plan` wrote and that may have been edited since.

    ``options`` are the options that the plan keeps. ``imatrix`` is the path of the importance matrix that the plan
    names, or None. Raises PlanError, naming the entry, for anything that is wrong in the file, and OSError if it
    cannot be read.
    """

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.path: str = os.fsdecode(path)
        self._data = _parsed(self.path)
        self.options: PlanOptions = _options(self.path, self._data)
        self.imatrix: str | None = self._field("imatrix", (str, type(None)))

    @property
    def edits(self) -> tuple[MetadataEdit, ...]:
        """The changes to the metadata. Raises PlanError if the file does not say them rightly."""
        return _edits(self.path, self._field("metadata", list))

    def plan_for(
        self,
        header: ModelHeader,
        imatrix: Importance | None = None,
        *,
        types: "Mapping[str, QuantType] | None" = None,
    ) -> Plan:
        """Return the plan for the model with this header, checked against it.

        ``imatrix`` is an ImportanceMatrix or None; ``types`` maps names to QuantTypes (default: the registry). The
        sizes are computed again, and so are the reasons of types that were edited. Raises PlanError, UnknownTypeError
        and ImportanceError.
        """
        if types is None:
            from quantreg.registry import types as registered  # loads pluggy, which takes more than 10 ms

            types = registered
        file_type = file_types.find(self._field("file_type", str), types)
        calibration = Calibration(file_type, imatrix, self.options)
        sources = {info.name: info for info in header.tensors}
        tensors: list[TensorPlan] = []
        seen: set[str] = set()
        keep_dims = self.options.keep_dims or getattr(header, "keeps_dims", False)
        for row in self._field("tensors", list):
            tensors.append(_tensor(self.path, row, sources, seen, types, calibration, keep_dims))
        edits = self.edits
        kept = with_parameters(tensors, header.tensors, header.metadata, edits, types, file_type)
        warnings = []
        planned = {tensor.source.name for tensor in tensors} | kept.stale
        unused = [info.name for info in header.tensors if info.name not in planned]
        if unused:
            warnings.append(
                f"{self.path}: left out tensors of the model that have no line in the plan: {unused[0]}"
                + (f" and {len(unused) - 1} more" if len(unused) > 1 else "")
            )
        decodable = {qtype.type_id for qtype in types.values()}
        checks = Checks(header, file_type, self.options, decodable, calibration)
        return Plan(
            file_type,
            kept.tensors,
            edits,
            (*warnings, *checks.warnings(tensors), *dropped_dims(tensors)),
            checks.problems(tensors),
            imatrix=None if imatrix is None else imatrix.path,
            options=self.options,
            parameters=kept.parameters,
        )

    def _field(self, key: str, kind: type | tuple[type, ...]) -> Any:
        return _field(self.path, self._data, key, kind)


def _parsed(name: str) -> dict[str, Any]:
    no_plan = f"{name}: is not a plan: make one with `quantreg plan MODEL TYPE -o PLAN.json`"
    with open(name, "rb") as file:
        raw = file.read(1 << 12)
        if b"\0\0\0\0" in raw:  # no text has this, but a model does: do not read all of it
            raise PlanError(no_plan)
        raw += file.read()
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{name}: is not JSON: {error}") from None
    if not isinstance(data, dict) or "quantreg_plan" not in data:
        raise PlanError(no_plan)
    if data["quantreg_plan"] != _VERSION:
        raise PlanError(
            f"{name}: is a plan of version {data['quantreg_plan']!r}, but this quantreg reads version {_VERSION}: "
            f"{_AGAIN}"
        )
    return data


def _options(name: str, data: Mapping[str, Any]) -> PlanOptions:
    given = _field(name, data, "options", dict)
    if unknown := sorted(set(given) - set(_KEPT_OPTIONS)):
        raise PlanError(f"{name}: options: {unknown[0]!r} is not one of {', '.join(_KEPT_OPTIONS)}")
    try:
        return PlanOptions(**given)
    except TypeError as error:
        raise PlanError(f"{name}: options: {error}") from None


def _tensor(
    name: str,
    row: Any,
    sources: "Mapping[str, TensorInfo]",
    seen: set[str],
    types: "Mapping[str, QuantType]",
    calibration: Calibration,
    keep_dims: bool,
) -> TensorPlan:
    """The TensorPlan for a line of the plan at ``name``; ``seen`` collects the names of the tensors."""
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise PlanError(f'{name}: tensors: {row!r:.120}: expected an object with "name" and "to"')
    tensor: str = row["name"]
    if tensor in seen:
        raise PlanError(f"{name}: {tensor} has two lines: delete one of them")
    seen.add(tensor)
    source_name = row.get("source", tensor)
    source = sources.get(source_name) if isinstance(source_name, str) else None
    if source is None:
        raise PlanError(f"{name}: {source_name}: the model has no such tensor: {_AGAIN}")
    dims = source.dims if keep_dims else trimmed(source.dims)
    if row.get("shape", list(dims[::-1])) != list(dims[::-1]) or row.get("from", source.type_name) != source.type_name:
        raise PlanError(
            f"{name}: {tensor} is {row.get('from')} of shape {row.get('shape')} in the plan, but {source.type_name} of "
            f"shape {list(dims[::-1])} in the model: {_AGAIN}"
        )
    to = row.get("to")
    if not isinstance(to, str):
        raise PlanError(f'{name}: {tensor}: "to" is {to!r}, expected the name of a type')
    reason = str(row.get("reason", ""))
    if to == source.type_name:
        return decided(tensor, source, dims, None, reason or "kept", calibration)
    qtype = types[to]
    cols = dims[0] if dims else 1
    if cols % qtype.block_size:
        raise PlanError(
            f"{name}: {tensor}: {qtype.name} does not fit rows of {cols} values, which is not a multiple of "
            f"{qtype.block_size}: choose {qtype.fallback or 'Q8_0'} or F16"
        )
    wanted = types[str(row["wanted"])] if "wanted" in row else None
    if qtype.name not in reason:
        reason, wanted = f"{os.path.basename(name)}: {qtype.name}", None
    return decided(tensor, source, dims, qtype, reason, calibration, wanted)


def _edits(name: str, rows: Iterable[Any]) -> tuple[MetadataEdit, ...]:
    edits = []
    for row in rows:
        if not isinstance(row, list) or len(row) not in (1, 3) or not all(isinstance(text, str) for text in row[:2]):
            raise PlanError(f"{name}: metadata: {row!r:.120}: expected [key, type, value], or [key] to remove it")
        edits.append(MetadataEdit(*row))
    return tuple(edits)


def _field(name: str, data: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    if key not in data:
        raise PlanError(f"{name}: {key!r} is missing: {_AGAIN}")
    if not isinstance(data[key], kind):
        raise PlanError(f"{name}: {key!r} is {data[key]!r:.80}, which has the wrong type: {_AGAIN}")
    return data[key]
