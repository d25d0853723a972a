"""Make a `Plan` from a model's header and a file type.

The order of decisions is the reference's: tensors that are never quantized, types given for embeddings and output,
types given by pattern, the recipe's rules, and last the fallback for rows that do not divide into blocks.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from quantreg.errors import PlanError, QuantregError, UnknownTypeError
from quantreg.faults import PLUGIN_ERRORS, describe
from quantreg.ggml import FLOAT_TYPES, PLAIN_TYPES
from quantreg.names import role_of
from quantreg.recipes.architecture import ORIGINAL_SHAPE, Architecture, Keep
from quantreg.recipes.assumed import Watched
from quantreg.recipes.calibration import EMBEDDINGS, Calibration, Importance, decided
from quantreg.recipes.catalog import architectures, file_types
from quantreg.recipes.checks import Checks
from quantreg.recipes.edits import metadata_edits
from quantreg.recipes.effects import without_effect
from quantreg.recipes.filetype import FileType
from quantreg.recipes.fitted import with_parameters
from quantreg.recipes.keep import kept_because
from quantreg.recipes.model import ModelHeader, model_facts
from quantreg.recipes.options import PlanOptions, pairs
from quantreg.recipes.order import arrange, dropped_dims, trimmed
from quantreg.recipes.plans import Plan, TensorPlan
from quantreg.recipes.rules import ATTENTION_V, Candidate, Choice, Rule

if TYPE_CHECKING:  # gguf loads NumPy, which planning does not need
    from quantreg.gguf import TensorInfo
    from quantreg.qtype import QuantType

__all__ = ["plan_header"]


def plan_header(
    header: ModelHeader,
    file_type: "str | int | QuantType | FileType",
    *,
    imatrix: Importance | None = None,
    options: PlanOptions | None = None,
    types: "Mapping[str, QuantType] | None" = None,
    check: bool = True,
) -> Plan:
    """Decide the type of every tensor of a model, without reading tensor data.

    ``header`` has ``.metadata`` (a mapping) and ``.tensors`` (TensorInfo objects). ``file_type`` is a FileType or its
    name, alias or number, or the name of a type (see `quantreg.recipes.builtin.recipe_for`). ``imatrix`` is an
    ImportanceMatrix or None. ``types`` maps type names to QuantTypes (default: the registry).

    Raises UnknownFileTypeError and UnknownTypeError for unknown names, ImportanceError for an imatrix that does not fit
    the tensors, and PlanError if the plan cannot be made (a type does not fit a row) or carried out (importance is
    missing, or the source is already quantized). With ``check=False``, what keeps the plan from being carried out is
    listed in ``Plan.problems`` instead, so that sizes can be shown.
    """
    if types is None:
        from quantreg.registry import types as registered  # loads pluggy, which takes more than 10 ms

        types = registered
    if options is not None and options.imatrix_floor and imatrix is None:
        raise PlanError("imatrix_floor raises the values of an imatrix: give one (--imatrix), or leave the floor out")
    planned = _Planner(header, file_types.find(file_type, types), imatrix, options or PlanOptions(), types).run()
    if check and planned.problems:
        raise PlanError("; ".join(planned.problems))
    return planned


class _Decision(NamedTuple):
    """The type of a tensor (None: keep the source's), why, and the type that it replaces as a fallback."""

    type: str | None
    reason: str
    wanted: "QuantType | None" = None


class _Planner:
    """The state of one run. The counters advance only for tensors whose type the recipe's rules decide."""

    def __init__(
        self,
        header: ModelHeader,
        file_type: FileType,
        imatrix: Importance | None,
        options: PlanOptions,
        types: "Mapping[str, QuantType]",
    ) -> None:
        self.header = header
        self.file_type = file_type
        self.imatrix = imatrix
        self.options = options
        self.keep_dims = options.keep_dims or getattr(header, "keeps_dims", False)
        self.types = types
        self.model = model_facts(header.metadata, pairs(options.override_kv), [info.name for info in header.tensors])
        self.watched = Watched(self.model)
        self.architecture = architectures.get(self.model.architecture, Architecture(self.model.architecture))
        self.tensors, self.block_count = arrange(header.tensors, options.prune_layers)
        if options.keep_split:
            place = {tensor.name: i for i, tensor in enumerate(header.tensors)}
            self.tensors.sort(key=lambda named: place[named[1].name])
        self.decodable = {qtype.type_id for qtype in types.values()}
        self.default = self._known(file_type.type, f"file type {file_type.name}")
        self.output_type = self._optional(options.output_tensor_type)
        self.embedding_type = self._optional(options.token_embedding_type)
        self.patterns = [(_compiled(pattern), types[name]) for pattern, name in pairs(options.tensor_types)]
        self.calibration = Calibration(file_type, imatrix, options)

        roles = Counter(self._role(name) for name, _ in self.tensors)
        self.n_attention_v = sum(roles[role] for role in ATTENTION_V)
        self.tied = not roles["output"]
        self.counts: Counter[str] = Counter()
        self.planned: dict[str, str] = {}
        self.obeyed: set[object] = set()  # the patterns and the names of the options that decided any type
        self.by_rules: set[str] = set()
        self.free: set[str] = set()  # the tensors whose types neither an option nor a rule that keeps them decides
        self.n_blocks: Counter[str] = Counter()
        for name, _ in self.tensors:
            blocks, number = self.architecture.block_of(name) or ("", -1)
            self.n_blocks[blocks] = max(self.n_blocks[blocks], number + 1)

    def run(self) -> Plan:
        """Plan every tensor, in order."""
        planned = []
        for name, source in self.tensors:
            planned.append(self._plan_tensor(name, source))
            self.planned[name] = planned[-1].to_type
        n_entries = len(self.calibration.names)
        edits = metadata_edits(
            self.file_type, self.header, self.options, self.model.architecture, self.imatrix, n_entries,
            self.block_count,
        )  # fmt: skip
        checks = Checks(self.header, self.file_type, self.options, self.decodable, self.calibration)
        kept = with_parameters(
            planned, self.header.tensors, self.header.metadata, edits, self.types, self.file_type
        )  # fmt: skip
        return Plan(
            self.file_type,
            kept.tensors,
            edits,
            (
                *self.watched.assumptions(planned),
                *checks.warnings(planned),
                *without_effect(self.options, self.patterns, self.obeyed, planned, self.imatrix),
                *dropped_dims(planned),
            ),
            checks.problems(planned, self.by_rules if self.file_type.rules else ()),
            imatrix=None if self.imatrix is None else self.imatrix.path,
            options=self.options,
            parameters=kept.parameters,
            free=frozenset(self.free),
        )

    def _plan_tensor(self, name: str, source: "TensorInfo") -> TensorPlan:
        dims = trimmed(source.dims)  # the rules are the same for a model whose dimensions were dropped
        choice, reason, wanted = self._choose(name, dims, source.type_name)
        qtype = None if choice is None else self.types[choice]
        if qtype is not None and qtype.type_id != source.type_id:
            other = self.calibration.replacement(name, source, dims, qtype)
            if other is not None:
                reason = f"no importance for this tensor: {other} instead ({reason})"
                wanted, qtype = wanted or qtype, self.types[other]
        kept = source.dims if self.keep_dims else dims
        return decided(name, source, kept, qtype, reason, self.calibration, wanted)

    # --- the type ---

    def _choose(self, name: str, dims: tuple[int, ...], source_type: str) -> _Decision:
        if self.file_type.only_copy:
            return _Decision(None, "COPY: kept")
        candidate = self._candidate(name, dims, source_type)
        keep = self._special(candidate)
        if keep is not None:
            to = keep.type if source_type in FLOAT_TYPES else None
            if to is not None:
                self._known(to, f"{name}: keep ({keep.reason}) of architecture {self.architecture.name}")
            return _Decision(to, f"{keep.reason}: {to or 'kept'}")
        if len(self.header.metadata.get(ORIGINAL_SHAPE + name) or ()) > 4:
            return _Decision(None, "convolution of more than four dimensions: kept")
        if reason := kept_because(name, dims, self.model.architecture):
            return _Decision(None, f"{reason}: kept")
        if self.options.leave_output_tensor and name == "output.weight":
            return _Decision(None, "leave_output_tensor: kept")

        by_pattern = next((found for found in self.patterns if found[0].search(name)), None)
        if self.embedding_type and name in EMBEDDINGS and not (by_pattern and name == "per_layer_token_embd.weight"):
            return self._exactly(name, dims, self.embedding_type, "token_embedding_type")
        if self.output_type and name == "output.weight":
            return self._exactly(name, dims, self.output_type, "output_tensor_type")
        if self.default.name in PLAIN_TYPES:
            return _Decision(self.default.name, f"{self.file_type.name}: {self.default.name}")
        if by_pattern:
            self.obeyed.add(by_pattern)
            pattern, qtype = by_pattern
            choice = Choice(qtype.name, f"tensor type {pattern.pattern}: {qtype.name}")
        elif self.options.pure:
            self.free.add(name)
            choice = Choice(self.default.name, f"pure: {self.default.name}")
        else:
            self.by_rules.add(name)
            choice = self._by_rules(candidate)
        return self._divided(name, dims, choice)

    def _candidate(self, name: str, dims: tuple[int, ...], source_type: str) -> Candidate:
        role = self._role(name)
        if self.tied and role == "token_embd":
            role = "output"
        facts: Any = self.watched  # it has the attributes of ModelFacts
        blocks, number = self.architecture.block_of(name) or ("", None)
        return Candidate(
            name=name,
            dims=dims,
            role=role,
            model=facts,
            default_type=self.default.name,
            default_block_size=self.default.block_size,
            has_imatrix=bool(self.calibration.names),
            count=self.counts[_group(role)],
            n_attention_v=self.n_attention_v,
            planned=self.planned,
            file_type=self.file_type.name,
            source_type=source_type,
            block=number,
            n_blocks=self.n_blocks[blocks],
        )

    def _special(self, candidate: Candidate) -> Keep | None:
        """The row of the architecture that keeps this tensor. Raises PlanError if a plugin's condition fails."""
        try:
            return next((keep for keep in self.architecture.keep if keep.applies(candidate)), None)
        except PLUGIN_ERRORS as error:
            who = f"{candidate.name}: keep of architecture {self.architecture.name}"
            raise PlanError(f"{who} failed: {describe(error)}") from error

    def _role(self, name: str) -> str:
        return self.architecture.role_of(name) or role_of(name)

    def _by_rules(self, candidate: Candidate) -> Choice:
        if self.output_type and self.tied and self._role(candidate.name) == "token_embd":
            self.obeyed.add("output_tensor_type")
            return Choice(self.output_type.name, f"output_tensor_type, tied to the output: {self.output_type.name}")
        self.free.add(candidate.name)
        choice = None
        for rule in (*self.architecture.rules, *self.file_type.rules):
            choice = self._asked(rule, candidate, choice) or choice
        self.counts[_group(candidate.role)] += 1
        return choice or Choice(self.default.name, f"default of {self.file_type.name}: {self.default.name}")

    def _asked(self, rule: Rule, candidate: Candidate, choice: Choice | None) -> Choice | None:
        """Call a rule, which may be a plugin's. Raises PlanError if it fails or does not return a Choice or None."""
        whose = f"file type {self.file_type.name}"
        if any(rule is own for own in self.architecture.rules):
            whose = f"architecture {self.architecture.name}"
        who = f"{candidate.name}: rule {getattr(rule, '__name__', repr(rule))} of {whose}"
        try:
            found = rule(candidate, choice)
        except QuantregError:
            raise
        except PLUGIN_ERRORS as error:
            raise PlanError(f"{who} failed: {describe(error)}") from error
        if found is not None and not isinstance(found, Choice):
            raise PlanError(f"{who} returned {found!r}, expected a quantreg.recipes.Choice or None")
        if found is not None:
            self._known(found.type, who)
        return found

    def _known(self, name: str, whose: str) -> "QuantType":
        """The type of this name. Raises UnknownTypeError, which says who named it."""
        try:
            return self.types[name]
        except UnknownTypeError as error:
            raise UnknownTypeError(f"{whose}: {error}") from None

    def _divided(self, name: str, dims: tuple[int, ...], choice: Choice) -> _Decision:
        """The choice, or its fallback if the row length is not a multiple of the block size."""
        qtype, columns = self.types[choice.type], dims[0]
        if columns % qtype.block_size == 0:
            return _Decision(*choice)
        why = f"{columns} is not a multiple of {qtype.block_size}"
        if self.options.no_fallback or (qtype.fallback is None and qtype.block_size > 32):
            cause = "no_fallback is set" if self.options.no_fallback else "it has no fallback"
            raise PlanError(
                f"{name}: {qtype.name} does not fit rows of {columns} values ({why}), and {cause}: give this tensor "
                "another type with tensor_types (--tensor-type), for example Q8_0 or F16"
            )
        fallback = self.types[qtype.fallback] if qtype.fallback else qtype
        if columns % fallback.block_size:
            why, fallback = f"{columns} is not a multiple of {fallback.block_size}", self.types["F16"]
        return _Decision(fallback.name, f"{why}: {fallback.name} instead ({choice.reason})", qtype)

    def _exactly(self, name: str, dims: tuple[int, ...], qtype: "QuantType", option: str) -> _Decision:
        """A type that the user gave for this very tensor. There is no fallback, so it must fit."""
        self.obeyed.add(option)
        if dims[0] % qtype.block_size:
            raise PlanError(
                f"{name}: {option} {qtype.name} does not fit rows of {dims[0]} values, which is not a multiple of "
                f"{qtype.block_size}: choose {qtype.fallback or 'Q8_0'} or F16"
            )
        return _Decision(qtype.name, f"{option}: {qtype.name}")

    def _optional(self, name: str | None) -> "QuantType | None":
        return None if name is None else self.types[name]


def _group(role: str) -> str:
    """The role under which a tensor is counted."""
    return "attn_v" if role in ATTENTION_V else role


# C++'s named classes within brackets and what they are in Python: [[:digit:]_] is [0-9_].
_CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f", "digit": "0-9", "graph": "!-~",
    "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\s", "upper": "A-Z", "xdigit": "0-9a-fA-F",
}  # fmt: skip
_BRACKETS = re.compile(r"\\.|\[(?:\[:\w*:\]|\\.|[^\]\\])*\]", re.DOTALL)


def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of tensor_types, which is written for C++'s std::regex."""

    def in_brackets(found: re.Match[str]) -> str:
        return found[0][0] + re.sub(r"\[:(\w*):\]", lambda named: _CLASSES[named[1]], found[0][1:])

    try:
        return re.compile(_BRACKETS.sub(in_brackets, pattern), re.ASCII)
    except KeyError as error:
        known = ", ".join(_CLASSES)
        raise PlanError(f"tensor type pattern {pattern!r}: unknown class {error}, the known ones are {known}") from None
    except (re.error, OverflowError, RecursionError) as error:
        raise PlanError(f"tensor type pattern {pattern!r} is not a regular expression: {error}") from None
