"""What a run reports as it goes: `quantize_file(progress=callable)` calls the callable with each of these."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantreg.jobs.results import QuantizeResult
    from quantreg.recipes import Plan, TensorPlan
    from quantreg.tuning.sensitivity import Cost
    from quantreg.tuning.tune import Tuned

__all__ = ["Advanced", "Calibrating", "Event", "Finished", "Probing", "Started", "TensorDone", "TensorTuned"]


@dataclass(frozen=True, slots=True)
class Calibrating:
    """The calibration text has come so far. ``done`` of ``total`` units of ``phase`` are over.

    Before Started, the phases come in this order: only with a target "importance", in tokens, "errors", in tensors, and
    "sensitivities" and "solution", in groups of tensors; then "feedback", in work that is estimated from the shapes of
    the tensors, so that it is in proportion to time. A report about the output
    (`quantreg.jobs.tuning_report.tuning_report`) has the phase "report", in chunks that a model runs on.
    """

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Probing:
    """The sensitivities of tensors will be measured, which takes this ``cost`` (a `quantreg.tuning.sensitivity.Cost`).

    It comes before "sensitivities" and "solution", unless a tuning cache knows them.
    """

    cost: "Cost"


@dataclass(frozen=True, slots=True)
class TensorTuned:
    """Error feedback was tried on a tensor (a `quantreg.tuning.tune.Tuned`), before Started."""

    tuned: "Tuned"


@dataclass(frozen=True, slots=True)
class Started:
    """The plan is made and the output is open. ``source_bytes``: tensor data that will be read.

    With several outputs, ``plans`` are those of all, and ``plan`` is the first of them; else ``plans`` holds one.
    """

    plan: "Plan"
    source_bytes: int
    plans: "tuple[Plan, ...]" = ()

    def __post_init__(self) -> None:
        if not self.plans:
            object.__setattr__(self, "plans", (self.plan,))


@dataclass(frozen=True, slots=True)
class Advanced:
    """A slab of rows of the tensor was written; ``source_bytes`` of it were read.

    With several outputs, the slab was written to all, and ``tensor`` is that of the first.
    """

    tensor: "TensorPlan"
    source_bytes: int


@dataclass(frozen=True, slots=True)
class TensorDone:
    """All rows of a tensor (a TensorPlan) were written; ``index`` counts tensors from 1 in file order.

    ``error`` is the RMS of what encoding changed, as a share of that of the weights, over a sample of the rows that
    this run encoded; None if it encoded none. ``blank`` says that the source holds nothing but zero bytes. With several
    outputs, there is one event for each, and ``output`` counts them from 0.
    """

    tensor: "TensorPlan"
    index: int
    count: int
    error: float | None = None
    blank: bool = False
    output: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The output stands under its name. With several outputs, there is one event for each, in order."""

    result: "QuantizeResult"


Event = Calibrating | Probing | TensorTuned | Started | Advanced | TensorDone | Finished
