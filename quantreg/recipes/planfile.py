"""A plan as a file that a person can read and edit: JSON, one tensor a line."""

import json
import os

from quantreg.errors import PlanError
from quantreg.recipes.calibration import Calibration, decided
from quantreg.recipes.catalog import file_types
from quantreg.recipes.checks import Checks
from quantreg.recipes.options import PlanOptions
from quantreg.recipes.order import trimmed
from quantreg.recipes.plans import MetadataEdit, Plan
from quantreg.storage import AtomicFile

__all__ = ["PlanFile", "write_plan"]

VERSION = 1
KEPT_OPTIONS = ("allow_requantize", "include_weights", "exclude_weights", "on_missing_importance", "keep_split")


def write_plan(plan: Plan, path, *, force: bool = False, source=None) -> None:
    """Write a plan as JSON. ``to`` of each tensor is there to be edited, and a tensor without a line is left out.

    ``metadata`` lists the changes in order: [key, type, value] to set, [key] to remove. ``warnings`` say, among others,
    what was assumed. Raises OutputError, also if path is ``source`` (a path or several, such as the model's).
    """
    data = plan.to_dict()
    head = {
        "quantreg_plan": VERSION,
        "file_type": plan.file_type.name,
        "imatrix": plan.imatrix,
        "options": {name: getattr(plan.options, name) for name in KEPT_OPTIONS},
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
    parts += [f"  {json.dumps(key)}: {_lines(items)}" for key, items in (("metadata", edits), ("tensors", rows))]
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    with AtomicFile(path, force=force, source=source) as file:
        file.write(text.encode())


def _lines(items):
    return "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in items) + "\n  ]" if items else "[]"


class PlanFile:
    """A plan that was written by `write_plan` and perhaps edited.

    ``imatrix`` is the path of the importance matrix that the plan names, or None. Raises PlanError, naming the entry,
    for anything wrong in the file; OSError if it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._data = _parsed(self.path)
        self.options = _options(self.path, self._data)
        self.imatrix: str | None = self._field("imatrix", (str, type(None)))

    def plan_for(self, header, imatrix=None, *, types=None) -> Plan:
        """The plan for the model with this header (``.tensors``), checked against it.

        ``imatrix`` is an ImportanceMatrix or None, ``types`` maps names to QuantType (default: the registry). Sizes and
        reasons are recomputed for types that were edited. Raises PlanError, UnknownTypeError, ImportanceError.
        """
        if types is None:
            from quantreg.registry import types  # loads pluggy, which recipes alone do not need
        file_type = file_types.find(self._field("file_type", str), types)
        calibration = Calibration(file_type, imatrix, self.options)
        sources = {info.name: info for info in header.tensors}
        tensors, seen = [], set()
        for row in self._field("tensors", list):
            tensors.append(_tensor(self.path, row, sources, seen, types, calibration))
        warnings = []
        planned = {tensor.source.name for tensor in tensors}
        unused = [info.name for info in header.tensors if info.name not in planned]
        if unused:
            warnings.append(
                f"{self.path}: {len(unused)} tensors of the model have no line in the plan and are left out (the first "
                f"is {unused[0]})"
            )
        checks = Checks(file_type, self.options, {qtype.type_id for qtype in types.values()}, bool(calibration.names))
        return Plan(
            file_type, tuple(tensors), _edits(self.path, self._field("metadata", list)),
            (*warnings, *checks.warnings(tensors)), checks.problems(tensors),
            imatrix=imatrix.path if imatrix else None, options=self.options,
        )  # fmt: skip

    def _field(self, key, kind):
        return _field(self.path, self._data, key, kind)


def _parsed(name):
    with open(name, "rb") as file:
        raw = file.read()
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{name}: is no JSON: {error}") from None
    if not isinstance(data, dict) or "quantreg_plan" not in data:
        raise PlanError(f"{name}: is no plan: make one with `quantreg plan IN TYPE -o {name}`")
    if data["quantreg_plan"] != VERSION:
        raise PlanError(f"{name}: is a plan of version {data['quantreg_plan']!r}, this quantreg reads {VERSION}")
    return data


def _options(name, data):
    given = _field(name, data, "options", dict)
    if unknown := sorted(set(given) - set(KEPT_OPTIONS)):
        raise PlanError(f"{name}: options: {unknown[0]!r} is none of {', '.join(KEPT_OPTIONS)}")
    try:
        return PlanOptions(**given)
    except TypeError as error:
        raise PlanError(f"{name}: options: {error}") from None


def _tensor(name, row, sources, seen, types, calibration):
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise PlanError(f'{name}: tensors: {row!r:.120}: expected an object with "name" and "to"')
    tensor = row["name"]
    if tensor in seen:
        raise PlanError(f"{name}: {tensor} has two lines")
    seen.add(tensor)
    source = sources.get(row.get("source", tensor))
    if source is None:
        raise PlanError(f"{name}: {row.get('source', tensor)}: the model has no such tensor: plan this model anew")
    dims = trimmed(source.dims)
    if row.get("shape", list(dims[::-1])) != list(dims[::-1]) or row.get("from", source.type_name) != source.type_name:
        raise PlanError(
            f"{name}: {tensor} is {row.get('from')} of shape {row.get('shape')} there, but {source.type_name} of shape "
            f"{list(dims[::-1])} in the model: plan this model anew"
        )
    to = row.get("to")
    if not isinstance(to, str):
        raise PlanError(f'{name}: {tensor}: "to" is {to!r}, expected the name of a type')
    reason = str(row.get("reason", ""))
    if to == source.type_name:
        return decided(tensor, source, dims, None, reason or "as it is", calibration)
    qtype = types[to]
    if dims[0] % qtype.block_size:
        raise PlanError(
            f"{name}: {tensor}: {qtype.name} does not fit rows of {dims[0]} values, not a multiple of "
            f"{qtype.block_size}; choose {qtype.fallback or 'Q8_0'} or F16"
        )
    wanted = types[str(row["wanted"])] if "wanted" in row else None
    if qtype.name not in reason:
        reason, wanted = f"{os.path.basename(name)}: {qtype.name}", None
    return decided(tensor, source, dims, qtype, reason, calibration, wanted)


def _edits(name, rows):
    edits = []
    for row in rows:
        if not isinstance(row, list) or len(row) not in (1, 3) or not all(isinstance(text, str) for text in row[:2]):
            raise PlanError(f"{name}: metadata: {row!r:.120}: expected [key, type, value], or [key] to remove it")
        edits.append(MetadataEdit(*row))
    return tuple(edits)


def _field(name, data, key, kind):
    if not isinstance(data.get(key), kind) or (key not in data):
        raise PlanError(f"{name}: {key!r} is {data.get(key)!r:.80}: plan the model anew with `quantreg plan`")
    return data[key]
