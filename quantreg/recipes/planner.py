"""From a header and a file type to a `Plan`.

The order of decisions is the reference's: what is never quantized; types given for embeddings and output; types given
by pattern; the recipe's rules; the fallback for rows that do not divide into blocks.
"""

import re
from collections import Counter

from quantreg.errors import PlanError, QuantregError
from quantreg.ggml import PLAIN_TYPES
from quantreg.recipes.assumed import Watched
from quantreg.recipes.calibration import EMBEDDINGS, Calibration, decided
from quantreg.recipes.catalog import file_types
from quantreg.recipes.checks import Checks
from quantreg.recipes.edits import metadata_edits
from quantreg.recipes.filetype import FileType
from quantreg.recipes.keep import kept_because
from quantreg.recipes.model import model_facts
from quantreg.recipes.options import PlanOptions
from quantreg.recipes.order import arrange, trimmed
from quantreg.recipes.plans import Plan, TensorPlan
from quantreg.recipes.rules import ATTENTION_V, Candidate, Choice, role_of

__all__ = ["plan_header"]


def plan_header(header, file_type, *, imatrix=None, options=None, types=None, check=True) -> Plan:
    """Decide the type of every tensor of a model; reads no tensor data.

    ``header`` has ``.metadata`` (a mapping) and ``.tensors`` (TensorInfo). ``file_type`` is a FileType or its name,
    alias or number, or a type's name for that type everywhere. ``imatrix`` is an ImportanceMatrix. ``types`` maps
    type names to QuantType (default: the registry).

    Raises UnknownFileTypeError and UnknownTypeError for names, ImportanceError for an imatrix of another shape, and
    PlanError for what cannot be done: a type that fits no row, importance that is missing, a source that is quantized
    already. With ``check=False`` the last two are listed in ``Plan.problems`` instead, so that sizes can be shown.
    """
    if types is None:
        from quantreg.registry import types

    planned = _Planner(header, file_types.find(file_type, types), imatrix, options or PlanOptions(), types).run(header)
    if check and planned.problems:
        raise PlanError("; ".join(planned.problems))
    return planned


class _Planner:
    """The state of one run. Counters advance only where the recipe's rules are asked."""

    def __init__(self, header, file_type: FileType, imatrix, options: PlanOptions, types):
        self.file_type, self.options, self.types = file_type, options, types
        self.model = model_facts(header.metadata, options.override_kv, [tensor.name for tensor in header.tensors])
        self.watched = Watched(self.model)
        self.tensors, self.block_count = arrange(header.tensors, options.prune_layers)
        if options.keep_split:
            place = {tensor.name: i for i, tensor in enumerate(header.tensors)}
            self.tensors.sort(key=lambda named: place[named[1].name])
        self.decodable = {qtype.type_id for qtype in types.values()}
        self.default = types[file_type.type]
        self.output_type = self._optional(options.output_tensor_type)
        self.embedding_type = self._optional(options.token_embedding_type)
        self.patterns = [(_compiled(pattern), types[name]) for pattern, name in options.tensor_types]
        self.imatrix = imatrix
        self.calibration = Calibration(file_type, imatrix, options)

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
        arch, count = self.model.architecture, len(self.calibration.names)
        edits = metadata_edits(self.file_type, header, self.options, arch, self.imatrix, count, self.block_count)
        checked = Checks(self.file_type, self.options, self.decodable, bool(self.calibration.names))
        warnings = (*self.watched.assumptions(planned), *checked.warnings(planned), *self._idle_patterns())
        return Plan(
            self.file_type, tuple(planned), edits, warnings, checked.problems(planned),
            imatrix=self.imatrix.path if self.imatrix else None, options=self.options,
        )  # fmt: skip

    def _plan_tensor(self, name, source) -> TensorPlan:
        dims = trimmed(source.dims)
        choice, wanted = self._choose(name, dims)
        qtype = None if choice.type is None else self.types[choice.type]
        if qtype is not None and qtype.type_id != source.type_id:
            other = self.calibration.replacement(name, source, dims, qtype)
            if other is not None:
                choice = Choice(other, f"no importance for it: {other} instead ({choice.reason})")
                wanted, qtype = wanted or qtype, self.types[other]
        return decided(name, source, dims, qtype, choice.reason, self.calibration, wanted)

    def _idle_patterns(self):
        for pattern, qtype in self.patterns:
            if not any(pattern.search(name) for name, _ in self.tensors):
                yield f"tensor type {pattern.pattern}={qtype.name} has no effect: no tensor's name holds it"

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
        if self.default.name in PLAIN_TYPES:
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
        group = "attn_v" if role in ATTENTION_V else role
        candidate = Candidate(
            name=name,
            dims=dims,
            role=role,
            model=self.watched,
            default_type=self.default.name,
            default_block_size=self.default.block_size,
            has_imatrix=bool(self.calibration.names),
            count=self.counts[group],
            n_attention_v=self.n_attention_v,
            planned=self.planned,
        )
        choice = None
        for rule in self.file_type.rules:
            choice = self._asked(rule, candidate, choice) or choice
        self.counts[group] += 1
        return choice or Choice(self.default.name, f"{self.file_type.name} by default: {self.default.name}")

    def _asked(self, rule, candidate, choice) -> Choice | None:
        """What a rule says; PlanError if it fails or answers with something else: it may be a plugin's."""
        who = f"{candidate.name}: rule {getattr(rule, '__name__', repr(rule))} of file type {self.file_type.name}"
        try:
            found = rule(candidate, choice)
        except QuantregError:
            raise
        except Exception as error:
            raise PlanError(f"{who} failed: {type(error).__name__}: {error}") from error
        if found is not None and not isinstance(found, Choice):
            raise PlanError(f"{who} returned {found!r}, expected a quantreg.recipes.Choice or None")
        return found

    def _divided(self, name, dims, choice) -> tuple[Choice, object]:
        """The choice, or its fallback where the row length is no multiple of the block."""
        qtype, columns = self.types[choice.type], dims[0]
        if columns % qtype.block_size == 0:
            return choice, None
        why = f"{columns} is not a multiple of {qtype.block_size}"
        if self.options.no_fallback or (qtype.fallback is None and qtype.block_size > 32):
            cause = "no_fallback is set" if self.options.no_fallback else "it has no fallback"
            raise PlanError(
                f"{name}: {qtype.name} does not fit rows of {columns} values ({why}), and {cause}: give this tensor "
                f"another type with tensor_types (--tensor-type), for instance Q8_0 or F16"
            )
        fallback = self.types[qtype.fallback] if qtype.fallback else qtype
        if columns % fallback.block_size:
            why, fallback = f"{columns} is not a multiple of {fallback.block_size}", self.types["F16"]
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
        return None if name is None else self.types[name]


# Classes that C++ knows within brackets: [[:digit:]_] is [0-9_].
CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f", "digit": "0-9", "graph": "!-~",
    "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\s", "upper": "A-Z", "xdigit": "0-9a-fA-F",
}  # fmt: skip
BRACKETS = re.compile(r"\\.|\[(?:\[:\w*:\]|\\.|[^\]\\])*\]", re.DOTALL)


def _compiled(pattern: str):
    """A pattern of tensor_types, written as for C++'s std::regex, as a regular expression."""

    def in_brackets(found):
        return found[0][0] + re.sub(r"\[:(\w*):\]", lambda named: CLASSES[named[1]], found[0][1:])

    try:
        return re.compile(BRACKETS.sub(in_brackets, pattern), re.ASCII)
    except KeyError as error:
        known = ", ".join(CLASSES)
        raise PlanError(f"tensor type pattern {pattern!r}: unknown class {error}, known are {known}") from None
    except (re.error, OverflowError, RecursionError) as error:
        raise PlanError(f"tensor type pattern {pattern!r} is no regular expression: {error}") from None
