"""Error feedback for all outputs of a run, while the calibration text goes through the model once."""

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from quantreg.events import Calibrating, Event, TensorTuned
from quantreg.jobs.tuned import Tuning
from quantreg.tuning.tune import Progress, tune_together

if TYPE_CHECKING:
    from quantreg.jobs.writing import Ready

__all__ = ["encode_together"]


def encode_together(
    tunings: Sequence[Tuning], executor: Executor | None = None
) -> "Generator[Event, None, list[Ready | None]]":
    """Encode the tensors of all plans with error feedback, each into its own folder. Without a text, do nothing.

    Returns what is ready for each output. Afterwards, the plans are those with the importance collected on the way.
    """
    first = tunings[0]
    if not first.has_text:
        return [None] * len(tunings)
    jobs = [one.job() for one in tunings]
    collected = first.collector()
    now = Progress(0, 1)
    together = tune_together(
        first.model, first.calibration, jobs, first.runner(executor), collected, across_layers=first.across_layers
    )
    for one in together:
        if isinstance(one, Progress):
            now = one
            yield Calibrating("feedback", now.done, now.total)
        else:
            number, tuned = one
            tunings[number].add(tuned)
            yield TensorTuned(tuned)
    if now.done < now.total:
        yield Calibrating("feedback", now.total, now.total)
    if collected is not None:
        first.keep_importance(collected)
    return [one.encoded(None if one is first else first) for one in tunings]
