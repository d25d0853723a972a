"""From a header and a file type to a `Plan`.

The order of decisions is the reference's: what is never quantized; types given for embeddings and output; types given
by pattern; the recipe's rules; the fallback for rows that do not divide into blocks.
"""

import math
import re
from collections import Counter

from quantreg.errors import ImportanceError, PlanError
from quantreg.recipes import checks
from quantreg.recipes.builtin import CANNOT_WITHOUT, NEEDS_IMATRIX
from quantreg.recipes.edits import metadata_edits
from quantreg.recipes.filetype import FileType, find_type
from quantreg.recipes.keep import kept_because
from quantreg.recipes.model import model_facts
from quantreg.recipes.options import PlanOptions
from quantreg.recipes.order import arrange, trimmed
from quantreg.recipes.plans import Plan, TensorPlan
from quantreg.recipes.rules import ATTENTION_V, Candidate, Choice, role_of

__all__ = ["plan"]

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
UNCALIBRATED = ("output.weight", *EMBEDDINGS)


def plan(header, file_type, *, imatrix=None, options=None, types=None, check=True, **keywords) -> Plan:
    """Decide the type of every tensor of a model; reads no tensor data.

    ``header`` has ``.metadata`` (a mapping) and ``.tensors`` (TensorInfo). ``file_type`` is a FileType or its name,
    alias or number, or a type's name for that type everywhere. ``imatrix`` is an ImportanceMatrix. Options come as
    `PlanOptions` or as its fields by keyword. ``types`` maps type names to QuantType (default: the registry).

    Raises UnknownFileTypeError and UnknownTypeError for names, ImportanceError for an imatrix of another shape, and
    PlanError for what cannot be done: a type that fits no row, importance that is missing, a source that is quantized
    already. With ``check=False`` the last two are listed in ``Plan.problems`` instead, so that sizes can be shown.
    """
    if options is None:
        options = PlanOptions(**keywords)
    elif keywords:
        raise TypeError("plan: give options or keywords, not both")
    if types is None:
        from quantreg.registry import types
    from quantreg.recipes import file_types

    planned = _Planner(header, file_types.find(file_type, types), imatrix, options, types).run(header)
    if check and planned.problems:
        raise PlanError("; ".join(planned.problems))
    return planned


class _Planner:
    """The state of one run. Counters advance only where the recipe's rules are asked."""

    def __init__(self, header, file_type: FileType, imatrix, options: PlanOptions, types):
        self.file_type, self.options, self.types = file_type, options, types
        self.model = model_facts(header.metadata, options.override_kv)
        self.tensors, self.block_count = arrange(header.tensors, options.prune_layers)
        self.decodable = {qtype.type_id for qtype in types.values()}
        self.default = find_type(types, file_type.type)
        self.output_type = self._optional(options.output_tensor_type)
        self.embedding_type = self._optional(options.token_embedding_type)
        self.patterns = [(_compiled(pattern), find_type(types, name)) for pattern, name in options.tensor_types]
        self.imatrix = imatrix
        self.entries = _selected(imatrix, options)

        roles = Counter(role_of(name) for name, _ in self.tensors)
        self.n_attention_v = sum(roles[role] for role in ATTENTION_V)
        self.tied = not roles["output"]
        self.counts: Counter = Counter()
        self.planned: dict[str, str] = {}

    def run(self, header) -> Plan:
        """Plan every tensor, in order."""
        planned = []
        for name, source in self.tensors:
            planned.append(self._plan_tensor(name, source))
            self.planned[name] = planned[-1].to_type
        arch, count = self.model.architecture, len(self.entries)
        edits = metadata_edits(self.file_type, header, self.options, arch, self.imatrix, count, self.block_count)
        checked = checks.Checks(self.file_type, self.options, self.decodable, bool(self.entries))
        return Plan(self.file_type, tuple(planned), edits, checked.warnings(planned), checked.problems(planned))

    def _plan_tensor(self, name, source) -> TensorPlan:
        dims = trimmed(source.dims)
        choice, wanted = self._choose(name, dims)
        qtype = None if choice.type is None else find_type(self.types, choice.type)
        from_type = {"from_type": source.type_name, "from_id": source.type_id}
        rows = math.prod(dims[1:])
        ideal = {}
        if wanted is not None:
            size = rows * (wanted.row_header_size + dims[0] / wanted.block_size * wanted.type_size)
            ideal = {"wanted": wanted.name, "wanted_bytes": size}
        if qtype is None or qtype.type_id == source.type_id:
            return TensorPlan(
                name, dims, source, **from_type, to_type=source.type_name, to_id=source.type_id, reason=choice.reason,
                bytes=source.nbytes, **ideal,
            )  # fmt: skip
        return TensorPlan(
            name, dims, source, **from_type, to_type=qtype.name, to_id=qtype.type_id, reason=choice.reason,
            bytes=rows * (qtype.row_header_size + dims[0] // qtype.block_size * qtype.type_size), **ideal,
            needs_importance=self._needs_importance(name, qtype), importance=self._importance(name, source, dims),
        )  # fmt: skip

    # --- the type ---

    def _choose(self, name, dims) -> tuple[Choice, object]:
        """The choice (type None: keep the source's), and the QuantType that was wanted if it is a fallback."""
        if self.file_type.only_copy:
            return Choice(None, "COPY: as it is"), None
        if reason := kept_because(name, dims, self.model.architecture):
            return Choice(None, f"{reason}: kept"), None
        if self.options.leave_output_tensor and name == "output.weight":
            return Choice(None, "leave_output_tensor: kept"), None

        by_pattern = next((found for found in self.patterns if found[0].search(name)), None)
        if self.embedding_type and name in EMBEDDINGS and not (by_pattern and name == "per_layer_token_embd.weight"):
            return self._exactly(name, dims, self.embedding_type, "token_embedding_type"), None
        if self.output_type and name == "output.weight":
            return self._exactly(name, dims, self.output_type, "output_tensor_type"), None
        if self.default.name in checks.PLAIN:
            return Choice(self.default.name, f"{self.file_type.name}: {self.default.name}"), None
        if by_pattern:
            pattern, qtype = by_pattern
            choice = Choice(qtype.name, f"tensor type {pattern.pattern}: {qtype.name}")
        elif self.options.pure:
            choice = Choice(self.default.name, f"pure: {self.default.name}")
        else:
            choice = self._by_rules(name, dims)
        return self._divided(name, dims, choice)

    def _by_rules(self, name, dims) -> Choice:
        role = role_of(name)
        if self.tied and role == "token_embd":
            role = "output"
            if self.output_type:
                return Choice(self.output_type.name, f"output_tensor_type, tied to the output: {self.output_type.name}")
        is_v = role in ATTENTION_V
        group = "attn_v" if is_v else role
        candidate = Candidate(
            name=name,
            dims=dims,
            role=role,
            model=self.model,
            default_type=self.default.name,
            default_block_size=self.default.block_size,
            has_imatrix=bool(self.entries),
            count=self.counts[group],
            group_size=self.n_attention_v if is_v else self.model.block_count,
            planned=self.planned,
        )
        choice = None
        for rule in self.file_type.rules:
            choice = rule(candidate, choice) or choice
        self.counts[group] += 1
        return choice or Choice(self.default.name, f"{self.file_type.name} by default: {self.default.name}")

    def _divided(self, name, dims, choice) -> tuple[Choice, object]:
        """The choice, or its fallback where the row length is no multiple of the block."""
        qtype, columns = find_type(self.types, choice.type), dims[0]
        if columns % qtype.block_size == 0:
            return choice, None
        why = f"{columns} is not a multiple of {qtype.block_size}"
        if self.options.no_fallback or (qtype.fallback is None and qtype.block_size > 32):
            cause = "no_fallback is set" if self.options.no_fallback else "it has no fallback"
            raise PlanError(
                f"{name}: {qtype.name} does not fit rows of {columns} values ({why}), and {cause}: give this tensor "
                f"another type with tensor_types (--tensor-type), for instance Q8_0 or F16"
            )
        fallback = find_type(self.types, qtype.fallback) if qtype.fallback else qtype
        if columns % fallback.block_size:
            why, fallback = f"{columns} is not a multiple of {fallback.block_size}", find_type(self.types, "F16")
        return Choice(fallback.name, f"{why}: {fallback.name} instead ({choice.reason})"), qtype

    def _exactly(self, name, dims, qtype, option) -> Choice:
        """A type the user named for this very tensor: it must fit, there is no fallback."""
        if dims[0] % qtype.block_size:
            raise PlanError(
                f"{name}: {option} {qtype.name} does not fit rows of {dims[0]} values, not a multiple of "
                f"{qtype.block_size}; choose {qtype.fallback or 'Q8_0'} or F16"
            )
        return Choice(qtype.name, f"{option}: {qtype.name}")

    def _optional(self, name):
        return None if name is None else find_type(self.types, name)

    # --- importance ---

    def _needs_importance(self, name, qtype) -> bool:
        if qtype.name in (*NEEDS_IMATRIX, *self.file_type.needs_imatrix) and name not in UNCALIBRATED:
            return True
        return qtype.name in CANNOT_WITHOUT or (qtype.requires_importance and qtype.name not in NEEDS_IMATRIX)

    def _importance(self, name, source, dims) -> str | None:
        """The entry of the imatrix to use. Its length must be right, but for embeddings, where it is ignored if not."""
        if source.name not in self.entries:
            return None
        found, expected = self.imatrix.n_values(source.name), dims[0] * (dims[2] if len(dims) > 2 else 1)
        if found == expected:
            return source.name
        if name in EMBEDDINGS:
            return None
        raise ImportanceError(
            f"imatrix {self.imatrix.path or ''}: entry {source.name} has {found} values, the tensor of dims {dims} "
            f"needs {expected}: the imatrix was made for another model"
        )


def _compiled(pattern: str):
    """A pattern of tensor_types as a regular expression."""
    if "[:" in pattern:
        raise PlanError(f"tensor type pattern {pattern!r}: classes such as [:digit:] are not supported, write [0-9]")
    try:
        return re.compile(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise PlanError(f"tensor type pattern {pattern!r} is no regular expression: {error}") from None


def _selected(imatrix, options) -> frozenset[str]:
    """Names of the imatrix entries to use."""
    names = () if imatrix is None else imatrix.entries
    if options.include_weights:
        names = (name for name in names if any(part in name for part in options.include_weights))
    return frozenset(name for name in names if not any(part in name for part in options.exclude_weights))
