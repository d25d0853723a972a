"""Quantizing with a calibration text: it gives the importance of columns, and tensors get error feedback."""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from quantreg import files
from quantreg.dispatch import cpu_count
from quantreg.errors import ModelError, PlanError
from quantreg.events import Calibrating, Probing
from quantreg.ggml import PLAIN_TYPES
from quantreg.importance import ImportanceMatrix
from quantreg.inference.model import Model
from quantreg.jobs.adapted import adapt
from quantreg.jobs.budget import budget_for
from quantreg.jobs.inputs import open_imatrix, open_source
from quantreg.jobs.outputs import check_outputs
from quantreg.jobs.rehearsal import Rehearsal, rehearse
from quantreg.jobs.resume import identity_of
from quantreg.jobs.told import told
from quantreg.jobs.tuned_importance import Collected, foreseen, kept_matrix
from quantreg.jobs.tuned_model import calibration_of, identity_with_text, model_of
from quantreg.jobs.tuned_parts import Elsewhere
from quantreg.jobs.tuning_folder import Folder
from quantreg.recipes import OpenPlan, Plan, PlanOptions
from quantreg.recipes.calibration import EMBEDDINGS
from quantreg.recipes.options import pairs
from quantreg.recipes.retyped import retyped
from quantreg.registry import types
from quantreg.sizes import parse_bytes
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.rows import Runner
from quantreg.tuning.search import Found, search
from quantreg.tuning.store import Store
from quantreg.tuning.tune import Job, Tuned
from quantreg.words import named

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from quantreg.events import Event
    from quantreg.importance import ImatrixLike
    from quantreg.jobs.tuning_options import TuningOptions
    from quantreg.jobs.writing import Ready

__all__ = ["Tuning"]

_BASE = "Q4_K_M"  # with a target, the file type whose rules say which tensors keep their types


class Tuning:
    """What a calibration text does to one output: its plan, and tensors that are encoded before it is written.

    A context manager. First comes `rehearse`, which yields events, and then
    `quantreg.jobs.tuned_together.encode_together`. ``layout`` are the arguments of `quantreg.jobs.rehearsal.rehearse`
    about the output. ``like`` is another output of the same model and text, whose model and tokens serve here, too.
    Without ``checks``, the caller looks whether outputs exist. On entry, everything is checked that can be known before
    the text runs: raises ModelError if the model cannot run, QualityError if the text is too short, TokenizerError,
    OutputError, and what `rehearse` raises.
    """

    rehearsal: Rehearsal
    model: Model
    calibration: Calibration
    found: Found | None = None

    def __init__(
        self,
        src: str | bytes | os.PathLike[str],
        file_type: Any,
        imatrix: "ImatrixLike | None",
        options: PlanOptions,
        tuning: "TuningOptions",
        layout: Mapping[str, Any],
        *,
        threads: int | None = None,
        force: bool = False,
        resumable: bool = False,
        resume: bool = False,
        inputs: Sequence[str] = (),
        writes: bool = True,
        like: "Tuning | None" = None,
        checks: bool = True,
    ) -> None:
        self._src, self._file_type, self._given, self._options = src, file_type, imatrix, options
        self._tuning, self._layout, self._threads, self._inputs = tuning, layout, threads, inputs
        self._force, self._resume, self._writes, self._checks = force, resume, writes, checks
        self._like = like
        out = layout["dst"] if writes else None
        self._folder = Folder(out, resumable=resumable, resume=resume, force=force)
        self._stack = ExitStack()
        if isinstance(file_type, Plan) and imatrix is None:
            self._given = file_type.imatrix
        self.identity: dict[str, Any] = {}
        self._tuned: list[Tuned] = []
        self._owes_importance = False
        self._notes: list[str] = []  # what the user should know about the choice of types

    def __enter__(self) -> Self:
        first = self.rehearsal = self._first()
        if self._writes:
            first.check()
        if self._writes and self._checks:
            check_outputs([first], self._inputs, force=self._force, resume=self._resume)
        with ExitStack() as stack:
            if self._like is not None:
                self.model, self.calibration = self._like.model, self._like.calibration
                self._begin(stack)
                return self
            self._file = stack.enter_context(files.File(self._src, dict(pairs(self._options.override_kv))))
            if self._tuning.calibration is None:
                self._stack = stack.pop_all()
                return self
            try:
                self.model = model_of(self._file, first, self._threads, self._tuning.device)
            except ModelError as error:
                if not self._tuning.has_target:
                    raise ModelError(
                        f"{error}; without a calibration text, the model need not run: leave --calibration out, and "
                        "give --imatrix if you have one"
                    ) from None
                self._give_up_calibration(error)
                self._stack = stack.pop_all()
                return self
            self.calibration = calibration_of(self.model, self._tuning)
            self._begin(stack)
        return self

    def _begin(self, stack: ExitStack) -> None:
        """Open the folder for results of this model and text."""
        stack.enter_context(self._folder)
        self._names = {tensor.source.name: tensor.name for tensor in self.rehearsal.plan.tensors}
        self.identity = identity_with_text(self.rehearsal, self.calibration, self.model, self.across_layers)
        self._folder.agree(self.identity)
        self._stack = stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _give_up_calibration(self, why: ModelError) -> None:
        """Go on as without a text: types can be chosen for a target by the error of the weights alone."""
        self._notes.append(f"the calibration text is not used, and there is no error feedback, because {why}")
        self._tuning = self._tuning.without_text()
        self.rehearsal = self._rehearsal(self._given)

    def _first(self) -> Rehearsal:
        """The run as it can be planned before the text runs."""
        if self._given is not None or self._tuning.calibration is None:
            return self._rehearsal(self._given)
        bare = rehearse(self._src, "COPY", None, replace(self._options, imatrix_floor=0.0), **self._layout)
        return self._rehearsal(foreseen(bare.plan))

    def _rehearsal(self, imatrix: "ImatrixLike | None") -> Rehearsal:
        """The run with this importance. With a target, every tensor that is free has its type from `_BASE`."""
        found = open_imatrix(imatrix)
        file_type = _BASE if self._tuning.has_target else self._file_type
        if isinstance(file_type, Plan):
            source = adapt(open_source(self._src, self._layout["names"]))
            file_type = retyped(file_type, source, found)
        return rehearse(self._src, file_type, found, self._options, **self._layout)

    def planning(self) -> "Iterator[Event]":
        """Plan the output as far as the plan shows. Without a target the text need not run for it."""
        if not self._tuning.has_target:
            return
        yield from self.rehearse()

    def rehearse(self) -> "Iterator[Event]":
        """Plan the output. For a target, this collects the importance, unless it is given, and chooses types.

        Without a target, the plan depends on which tensors have importance, and not on how much of it: it is collected
        while the tensors are encoded, and the text runs through the model only once.
        """
        self._owes_importance = self._given is None and self._tuning.calibration is not None
        if self._owes_importance and self._tuning.has_target:
            yield from self._collect()
            self.rehearsal = self._rehearsal(self._matrix())
        elif self._owes_importance:
            self.rehearsal = self._rehearsal(foreseen(self.rehearsal.plan, self.model))
        if self._tuning.has_target:
            self.rehearsal.check()
            yield from self._choose()

    def _choose(self) -> "Generator[Event, None, None]":
        """Find the types for the target."""
        base, tuning = self.rehearsal, self._tuning
        size = None if tuning.target_size is None else parse_bytes(tuning.target_size, "target_size")
        budget = budget_for(base, size=size, bpw=tuning.target_bpw)
        draft = OpenPlan(base.plan, base.source, base.imatrix)
        missing = [tensor.source.name for tensor in draft.free.values() if tensor.source.name not in self._file]
        if missing:
            raise PlanError(
                f"{base.source.paths[0]}: {missing[0]} has another name in the output, and a target needs a model that "
                "is GGUF already: convert it first (quantreg quantize IN model.gguf F16)"
            )
        runs: dict[str, Any] = {}
        if tuning.calibration is not None:
            runs = {"model": self.model, "calibration": self.calibration}
        cache: Any = tuning.tuning_cache
        if cache is None and tuning.calibration is not None and self._writes:
            cache = self._folder.path / "search.npz"  # a run that goes on measures nothing again

        def searched(**runs: Any) -> "Generator[Event, None, Found]":
            return told(
                lambda tell: search(
                    draft, dict(self._file), budget, imatrix=base.imatrix, types=tuning.types or None, cache=cache,
                    progress=lambda *step: tell(Calibrating(*step)), announce=lambda cost: tell(Probing(cost)), **runs,
                )
            )  # fmt: skip

        try:
            found = yield from searched(**runs)
        except ModelError as error:  # the predictions are not finite, so nothing can be measured on them
            self._notes.append(f"types cannot be chosen by running the model, because {error}")
            cache = None  # it is for measurements with this text
            found = yield from searched()
        self.found = found
        chosen = draft.retyped(found.decisions)
        notes = (*self._notes, f"types for the target: by {found.how}", *([found.gap] if found.gap else []))
        chosen = replace(chosen, warnings=(*chosen.warnings, *notes))
        self.rehearsal = rehearse(self._src, chosen, base.imatrix, PlanOptions(), **self._layout)

    def _collect(self) -> "Iterator[Event]":
        """Run the tokens that fit through the model, and keep the importance of the columns in the folder."""
        self._owes_importance = False
        if self._folder.importance.exists():
            return
        collected = Collected(self.model)
        done, total = 0, self.calibration.part("fit").size
        yield Calibrating("importance", done, total)
        for tokens in collected.whole_passes(self.calibration):
            done += tokens
            yield Calibrating("importance", done, total)
        collected.write(self._folder.importance, self.calibration, self._tuning.datasets)

    def _matrix(self) -> ImportanceMatrix:
        """The importance that was kept in the folder."""
        return kept_matrix(self._folder.importance, self._names)

    @property
    def across_layers(self) -> bool:
        """Whether matrices make up for the errors of earlier ones."""
        return self._tuning.across_layers

    @property
    def has_text(self) -> bool:
        """Whether tensors are encoded with error feedback."""
        return self._tuning.calibration is not None

    def job(self) -> Job:
        """What is to be encoded with error feedback for the plan, and where it goes: the folder."""
        planned = self.rehearsal.plan
        self.identity |= identity_of(self.rehearsal.source, planned, self.rehearsal.imatrix)
        self._folder.agree(self.identity)
        spare = () if self.model.graph.generates else (self.model.output_name,)
        wanted = {
            tensor.name: types[tensor.to_id]
            for tensor in planned.tensors
            if tensor.converted and tensor.to_type not in PLAIN_TYPES and tensor.name not in spare
        }
        self._store = self._folder.store(self.identity)
        self._tuned = [Tuned(**self._store.facts(name)) for name in self._store]
        return Job(wanted, self._store)

    def runner(self, executor: "Executor | None") -> Runner | None:
        """What encodes rows on an executor; None without one."""
        if executor is None:
            return None
        rehearsal, threads = self.rehearsal, self._threads or cpu_count()
        return Elsewhere(self.model, executor, threads, self._folder.path, rehearsal.source, rehearsal.plan)

    def collector(self) -> Collected | None:
        """What collects the importance while tensors are encoded; None if it is there, or nobody needs it."""
        needed = self._owes_importance and not self._folder.importance.exists()
        return Collected(self.model) if needed else None

    def add(self, one: Tuned) -> None:
        """Take note of what became of a tensor."""
        self._tuned.append(one)

    def keep_importance(self, collected: Collected) -> None:
        """Write the importance that was collected to the folder."""
        collected.write(self._folder.importance, self.calibration, self._tuning.datasets)

    def encoded(self, like: "Tuning | None" = None) -> "Ready":
        """The tensors that were encoded. Afterwards, the plan is that with the importance collected on the way.

        ``like`` has collected it, if this run has not.
        """
        if self._owes_importance:
            if like is not None and not self._folder.importance.exists():
                self._folder.take_importance(like._folder)
            self.rehearsal = self._rehearsal(self._matrix())
        # Where feedback did not help, the ordinary bytes are made as ever.
        final = self.rehearsal.plan
        kept = frozenset(one.name for one in self._tuned if one.kept and final[one.name].to_type == one.type)
        return _Part(self._store, kept)

    @property
    def results(self) -> tuple[Tuned, ...]:
        """What became of each tensor that the text reached."""
        return tuple(self._tuned)

    def warnings(self, planned: Plan) -> Iterator[str]:
        """Sentences about the tensors that have no feedback, for the user."""
        if self._tuning.calibration is None:
            return
        why: dict[str, list[str]] = {}
        partly: dict[str, list[str]] = {}
        for one in self._tuned:
            if one.reason:
                (partly if one.kept else why).setdefault(one.reason, []).append(one.name)
        seen = {one.name for one in self._tuned}
        missed = [
            tensor.name
            for tensor in planned.tensors
            if tensor.converted
            and tensor.to_type not in PLAIN_TYPES
            and tensor.name not in seen
            and tensor.name not in EMBEDDINGS  # no product reads them in any model
            and len(tensor.dims) > 1
        ]
        if missed:
            why["no matrix product reads them on this text"] = missed
        for reason, names in why.items():
            noun = "tensor keeps its" if len(names) == 1 else "tensors keep their"
            yield f"{len(names)} {noun} ordinary bytes, because {reason} ({named(names)})"
        for reason, names in partly.items():
            noun = "tensor keeps" if len(names) == 1 else "tensors keep"
            yield f"{len(names)} {noun} ordinary bytes in part, because {reason} ({named(names)})"


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the tensors of a store."""

    store: Store
    names: frozenset[str]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Path:
        return self.store[name]

    def parameters(self, name: str) -> Any:
        return self.store.parameters(name)
