"""Search for the types of a model's tensors: the least loss within so many bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Literal

import numpy as np

from quantreg.errors import PlanError
from quantreg.importance import ImportanceMatrix
from quantreg.inference.model import Model
from quantreg.names import role_of
from quantreg.qtype import QuantType
from quantreg.recipes import OpenPlan, TensorPlan
from quantreg.registry import types as registered
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.allocation import Choice, allocate
from quantreg.tuning.cache import TuningCache, identity_of
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.candidates import candidates_for
from quantreg.tuning.errors import RelativeError, embedding_errors, output_errors, weight_errors
from quantreg.tuning.sensitivity import Cost, Sensitivity, groups_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Progress = Callable[[str, int, int], object]
    Announce = Callable[[Cost], object]

__all__ = ["Budget", "Found", "search"]

Way = Literal["calibration", "imatrix", "weights"]

CLOSE = 0.002  # of the target: a file that is further below it gets a line that says so
PROBED = ("Q3_K", "Q4_0", "IQ4_NL", "Q4_K")  # the first of these that a tensor can get is used to probe it
# Without a text: how many times as much the same relative error matters there. Measured on a model of 7M weights, whose
# other tensors differ less among themselves.
WEIGHT = {"output": 20.0, "token_embd": 3.0}
LOW = 2.8  # bits per weight, below which the model is probed again around the solution
ROUNDS = 2  # times that it is
HELD = 500_000_000  # weights of which there may be a copy in memory with 16 bits each


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes there are.

    - ``target``: bytes of the file or, for a target in bits per weight, of its tensor data. ``what`` says which.
    - ``fixed``: bytes of that which do not depend on the free tensors, such as the header.
    - ``alignment``: each tensor takes a multiple of this.
    """

    target: int
    fixed: int
    alignment: int = 32
    what: str = "the file"

    def padded(self, nbytes: int) -> int:
        """The bytes that a tensor takes."""
        return -(-nbytes // self.alignment) * self.alignment


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    - ``types``: the type of each free tensor. ``reasons``: why, for people.
    - ``choices``: all that each tensor might have become, with bytes and predicted loss; ``chosen`` is one of them.
    - ``way``: what the loss is: "calibration" (KL divergence in nats, from runs of the model), "imatrix" (relative
      error weighted by the importance of the columns) or "weights" (plain relative error). ``how`` says it in words.
    - ``loss``: the predicted loss of the whole.
    - ``size``: bytes of what the budget counts. ``gap``: why it is clearly below the target, or None.
    """

    choices: Mapping[str, Sequence[Choice]]
    chosen: Mapping[str, Choice]
    reasons: Mapping[str, str]
    way: Way
    how: str
    loss: float
    size: int
    gap: str | None = None
    types: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", {name: choice.type for name, choice in self.chosen.items()})

    @property
    def decisions(self) -> dict[str, tuple[str, str]]:
        """The type of each free tensor and why, as `OpenPlan.retyped` takes them."""
        return {name: (choice.type, self.reasons[name]) for name, choice in self.chosen.items()}


def search(
    draft: OpenPlan,
    tensors: Mapping[str, QuantizedTensor],
    budget: Budget,
    *,
    model: Model | None = None,
    calibration: Calibration | None = None,
    imatrix: ImportanceMatrix | None = None,
    types: Sequence[str] | None = None,
    cache: str | bytes | PathLike[str] | None = None,
    progress: "Progress | None" = None,
    announce: "Announce | None" = None,
) -> Found:
    """Choose a type for each free tensor of a plan.

    - ``tensors``: those of the source by name, as the plan names them there.
    - ``model``, ``calibration``: measure what each tensor matters by running the model. Without both, errors are
      weighted by ``imatrix``, if there is one.
    - ``types``: the names of the types to choose from; by default ggml's from 2 to 8.5 bits that fit.
    - ``cache``: a file that keeps what was measured and does not depend on the budget.
    - ``progress(phase, done, total)`` is called now and then, in the phases "errors", "sensitivities" and "solution".
      ``announce`` gets the `Cost` of runs of the model before they begin.

    The result is the same each time. Raises PlanError if even the smallest types do not fit the budget or nothing is
    free, and what the measurements raise.
    """
    if not draft.free:
        raise PlanError(
            "no tensor is free to get another type: leave out some of the options that name types, or the target"
        )
    rows = _importance(draft, imatrix)
    elements = sum(tensor.n_elements for tensor in draft.free.values())
    room = budget.target - budget.fixed
    candidates = candidates_for(draft, max(0, room) * 8 / elements, types)
    _check_smallest(draft, candidates, budget)
    tokens = calibration.tokens if model is not None and calibration is not None else None
    device = model.device.identity if model is not None and tokens is not None else "cpu"
    kept = TuningCache(cache, identity_of(tensors, tokens, rows, device) if cache is not None else {})
    told = (progress or (lambda phase, done, total: None), announce or (lambda cost: None))
    work = _Search(draft, tensors, budget, candidates, rows, kept, *told)
    return work.measured(model, calibration) if model is not None and calibration is not None else work.by_error()


def _importance(draft: OpenPlan, imatrix: ImportanceMatrix | None) -> "dict[str, NDArray[np.float32]]":
    """The rows of the importance matrix that the free tensors use."""
    found = {}
    for name, tensor in draft.free.items():
        entry = None if imatrix is None else draft.entry(name)
        if imatrix is not None and entry is not None:
            found[name] = imatrix.row(entry, tensor.dims[0], tensor.n_experts)
    return found


def _nbytes(tensor: TensorPlan, qtype: QuantType, budget: Budget) -> int:
    return budget.padded(tensor.n_elements // tensor.dims[0] * qtype.row_bytes(tensor.dims[0]))


def _check_smallest(draft: OpenPlan, candidates: Mapping[str, Sequence[QuantType]], budget: Budget) -> None:
    """Raise PlanError if the budget is too small, before anything is measured."""
    smallest = budget.fixed + sum(
        min(_nbytes(draft.free[name], qtype, budget) for qtype in found) for name, found in candidates.items()
    )
    if smallest > budget.target:
        raise PlanError(
            f"{budget.what} cannot have {budget.target:,} bytes: with the smallest types that may be used it takes "
            f"{smallest:,}. Ask for at least that, or allow smaller types"
        )


class _Search:
    """One search: measure errors and sensitivities, then allocate."""

    def __init__(
        self,
        draft: OpenPlan,
        tensors: Mapping[str, QuantizedTensor],
        budget: Budget,
        candidates: Mapping[str, Sequence[QuantType]],
        rows: "Mapping[str, NDArray[np.float32]]",
        cache: TuningCache,
        progress: "Progress",
        announce: "Announce",
    ) -> None:
        self.draft, self.budget, self.candidates = draft, budget, candidates
        self.rows, self.cache, self.progress, self.announce = rows, cache, progress, announce
        self.tensors = {name: tensors[tensor.source.name] for name, tensor in draft.free.items()}

    # ---- without running the model ----

    def by_error(self) -> Found:
        self._weight_errors(self.candidates)
        scale = {name: WEIGHT.get(self._role(name), 1.0) for name in self.tensors}
        total = sum(scale.values())
        choices = self._choices({name: scale[name] / total for name in scale})
        way: Way = "imatrix" if self.rows else "weights"
        how = "error of the weights" + (", weighted by the importance of their columns" if self.rows else "")
        return self._found(choices, allocate(choices, self._room), way, how)

    def _role(self, name: str) -> str:
        tied = "output.weight" not in self.draft.planned
        return "output" if tied and name == "token_embd.weight" else role_of(name)

    def _weight_errors(self, wanted: Mapping[str, Sequence[QuantType]]) -> None:
        for i, (name, types) in enumerate(wanted.items()):
            missing = self._missing(name, types)
            if missing:
                self._know(name, weight_errors(self.tensors[name], self.rows.get(name), missing))
            self.progress("errors", i + 1, len(wanted))
        self.cache.save()

    def _missing(self, name: str, types: Sequence[QuantType]) -> list[QuantType]:
        known = self.cache.errors.get(name, {})
        return [qtype for qtype in types if qtype.name not in known]

    def _know(self, name: str, errors: Mapping[str, RelativeError]) -> None:
        self.cache.errors.setdefault(name, {}).update(errors)

    # ---- running the model ----

    def measured(self, model: Model, calibration: Calibration) -> Found:
        probed = {name: self._probed(name) for name in self.tensors}
        self._output_errors(model, calibration, probed)
        groups, chunks = groups_of(model, calibration, list(self.tensors))
        with Sensitivity(model, calibration, chunks) as sensitivity:
            alphas = self._alphas(groups, probed, sensitivity, chunks)
            choices = self._choices(alphas)
            first = allocate(choices, self._room)
            choices, chosen = self._refined(groups, choices, first, sensitivity)
        how = f"KL divergence, measured by running the model on {chunks} chunks that decide"
        return self._found(choices, chosen, "calibration", how)

    def _probed(self, name: str) -> QuantType:
        for key in PROBED:
            if self.draft.allows(name, registered[key]):
                return registered[key]
        return self.candidates[name][0]

    def _output_errors(self, model: Model, calibration: Calibration, probed: Mapping[str, QuantType]) -> None:
        wanted = {
            name: self._missing(name, list(dict.fromkeys((*types, probed[name]))))
            for name, types in self.candidates.items()
        }
        wanted = {name: types for name, types in wanted.items() if types}
        if not wanted:
            return
        by_source = {self.draft.free[name].source.name: name for name in wanted}
        reached = set()
        jobs = {source: wanted[name] for source, name in by_source.items()}
        for source, errors in output_errors(model, calibration, jobs):
            reached.add(by_source[source])
            self._know(by_source[source], errors)
            self.cache.save()
            self.progress("errors", len(reached), len(wanted))
        for name in list(wanted):
            if name not in reached and name == "token_embd.weight":
                reached.add(name)
                self._know(name, embedding_errors(model, calibration, self.draft.free[name].source.name, wanted[name]))
        self._weight_errors({name: types for name, types in wanted.items() if name not in reached})

    def _alphas(
        self, groups: Mapping[str, list[str]], probed: Mapping[str, QuantType], sensitivity: Sensitivity, chunks: int
    ) -> dict[str, float]:
        """KL divergence per relative error of each tensor."""
        found: dict[str, float] = {}
        keys = {
            group: f"{group}: {', '.join(sorted({probed[name].name for name in names}))}, {chunks} chunks"
            for group, names in groups.items()
        }
        missing = [group for group, key in keys.items() if key not in self.cache.divergences]
        if missing:
            self.announce(sensitivity.cost([name for group in missing for name in groups[group]], len(missing)))
        for i, (group, names) in enumerate(groups.items()):
            key = keys[group]
            if key not in self.cache.divergences:
                changed = {self.draft.free[name].source.name: self._quantized(name, probed[name]) for name in names}
                self.cache.divergences[key] = sensitivity.divergence(changed)
                self.cache.save()
            error = sum(self.cache.errors[name][probed[name].name].plain for name in names)
            for name in names:
                found[name] = self.cache.divergences[key] / error if error else 0.0
            self.progress("sensitivities", i + 1, len(groups))
        return _above_noise(found)

    def _refined(
        self,
        groups: Mapping[str, list[str]],
        choices: dict[str, list[Choice]],
        chosen: Mapping[str, Choice],
        sensitivity: Sensitivity,
    ) -> tuple[dict[str, list[Choice]], Mapping[str, Choice]]:
        """Probe the model again around a solution of few bits, where losses do not quite add up, and allocate again.

        The loss of a group is then what the whole model gains if only that group is as it was. Returns the solution
        that is the best when it is measured as a whole.
        """
        average = sum(choice.nbytes for choice in chosen.values()) * 8 / sum(t.size for t in self.tensors.values())
        if average > LOW:
            return choices, chosen
        self.announce(sensitivity.cost(list(chosen), ROUNDS * (len(groups) + 1), again=True))
        whole = self._stand_ins(chosen)
        divergence = sensitivity.divergence(whole)
        best = divergence, choices, chosen
        for done in range(ROUNDS):
            alphas: dict[str, float] = {}
            for i, names in enumerate(groups.values()):
                restored = {self.draft.free[name].source.name for name in names}
                less = sensitivity.divergence({name: t for name, t in whole.items() if name not in restored})
                error = sum(self._error(name, chosen[name]) for name in names)
                for name in names:
                    alphas[name] = max(0.0, divergence - less) / error if error else 0.0
                self.progress("solution", done * len(groups) + i + 1, ROUNDS * len(groups))
            choices = self._choices(_above_noise(alphas))
            before, chosen = chosen, allocate(choices, self._room)
            if {n: c.type for n, c in chosen.items()} == {n: c.type for n, c in before.items()}:
                break
            whole = self._stand_ins(chosen)
            divergence = sensitivity.divergence(whole)
            if divergence < best[0]:
                best = divergence, choices, chosen
        return best[1:]

    def _stand_ins(self, chosen: Mapping[str, Choice]) -> dict[str, QuantizedTensor]:
        """All free tensors, by their names in the source, with errors as large as feedback will leave."""
        found = {}
        small = sum(tensor.size for tensor in self.tensors.values()) <= HELD
        for name, choice in chosen.items():
            tensor = self._quantized(name, registered[choice.type])
            plain = self.cache.errors[name][choice.type].plain
            if small and plain:
                w = self.tensors[name].dequantize()
                w += np.float32((self._error(name, choice) / plain) ** 0.5) * (tensor.dequantize() - w)
                tensor = QuantizedTensor.from_array(tensor.name, w.astype(np.float16), "F16")
            found[tensor.name] = tensor
        return found

    def _error(self, name: str, choice: Choice) -> float:
        return self.cache.errors[name][choice.type].tuned

    def _quantized(self, name: str, qtype: QuantType) -> QuantizedTensor:
        tensor, row = self.tensors[name], self.rows.get(name)
        if row is None and qtype.requires_importance:
            row = np.ones(tensor.shape[-1], np.float32)
        return QuantizedTensor.from_array(tensor.name, tensor.dequantize(), qtype.name, row)

    # ---- both ----

    @property
    def _room(self) -> int:
        return self.budget.target - self.budget.fixed

    def _choices(self, alphas: Mapping[str, float]) -> dict[str, list[Choice]]:
        return {
            name: [
                Choice(
                    qtype.name,
                    _nbytes(self.draft.free[name], qtype, self.budget),
                    alphas[name] * self.cache.errors[name][qtype.name].tuned,
                )
                for qtype in types
            ]
            for name, types in self.candidates.items()
        }

    def _found(self, choices: Mapping[str, list[Choice]], chosen: Mapping[str, Choice], way: Way, how: str) -> Found:
        loss = sum(choice.loss for choice in chosen.values())
        size = self.budget.fixed + sum(choice.nbytes for choice in chosen.values())
        reasons = {name: _reason(choices[name], chosen[name], loss) for name in chosen}
        return Found(choices, dict(chosen), reasons, way, how, loss, size, self._gap(choices, chosen, size))

    def _gap(self, choices: Mapping[str, list[Choice]], chosen: Mapping[str, Choice], size: int) -> str | None:
        left = self.budget.target - size
        if left <= CLOSE * self.budget.target:
            return None
        best = all(chosen[name].loss <= min(c.loss for c in choices[name]) for name in chosen)
        why = "every tensor has the best of its types" if best else "no better choice fits"
        return f"{self.budget.what} is {left:,} bytes below the target, because {why}"


def _above_noise(alphas: Mapping[str, float]) -> dict[str, float]:
    """Raise sensitivities that are too small to be measured: no tensor is free to lose everything."""
    known = [alpha for alpha in alphas.values() if alpha > 0]
    least = 0.01 * float(np.median(known)) if known else 1.0
    return {name: max(alpha, least) for name, alpha in alphas.items()}


def _reason(choices: Sequence[Choice], chosen: Choice, loss: float) -> str:
    """Why a tensor has its type, such as "0.9 % of the loss; Q4_K would cost 1.2 MB more"."""
    share = f"{100 * chosen.loss / loss:.2g} % of the predicted loss" if loss else "no loss"
    better = [c for c in choices if c.nbytes > chosen.nbytes and c.loss < chosen.loss]
    if not better:
        return f"{share}; no other type is better"
    step = min(better, key=lambda c: (c.nbytes, c.loss))
    return f"{share}; {step.type} would cost {_bytes(step.nbytes - chosen.nbytes)} more"


def _bytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"
