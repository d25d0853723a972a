"""A run from its arguments to its results: plan, calibrate, write. It makes one output, or several of one source."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from os import PathLike
from typing import Any

from quantreg.dispatch import check_executor
from quantreg.errors import PlanError
from quantreg.events import Event, Finished
from quantreg.importance import ImatrixLike
from quantreg.jobs.adapted import adapt
from quantreg.jobs.advice import advised
from quantreg.jobs.inputs import open_imatrix, open_source
from quantreg.jobs.outputs import check_outputs, over, partial_files
from quantreg.jobs.rehearsal import NO_TYPE, check_all, rehearse
from quantreg.jobs.results import QuantizeResult, WriteResult
from quantreg.jobs.tuning_options import TuningOptions
from quantreg.jobs.writing import Output, Ready, write_outputs
from quantreg.recipes import Plan, PlanOptions
from quantreg.recipes.options import pairs
from quantreg.storage import AtomicFile

__all__ = ["run"]


def run(
    src: str | bytes | PathLike[str],
    wanted: Sequence[tuple[str | bytes | PathLike[str], Any]],
    imatrix: ImatrixLike | None,
    options: PlanOptions,
    tuning: TuningOptions,
    *,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    resumable: bool = False,
    resume: bool = False,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    also: Sequence[str] = (),
    after: Callable[[list[QuantizeResult]], Iterator[Event]] | None = None,
) -> Generator[Event, None, None]:
    """Make the outputs ``wanted``, each a path and a file type or plan, and yield the events of `quantreg.events`.

    The other arguments are those of `quantreg.quantize_file`. ``also`` are more paths that no output may replace.
    ``after(results)`` yields what else is to be done when the outputs have their names, before a run that can be
    resumed counts as over.
    """
    check_executor(executor)
    begun = time.perf_counter()
    layout: dict[str, Any] = {"names": names, "split_max_size": split_max_size, "split_max_tensors": split_max_tensors}
    given = (src, names, imatrix, *also)
    inputs = [os.fsdecode(path) for path in given if isinstance(path, (str, bytes, PathLike))]
    tuned: list[Any] = []  # of Tuning
    ready: Sequence[Ready | None] = [None] * len(wanted)
    with ExitStack() as stack:
        if tuning.used:
            from quantreg.jobs.tuned import Tuning  # loads the whole of inference, which takes 50 ms
            from quantreg.jobs.tuned_together import encode_together

            for dst, file_type in wanted:
                one = Tuning(
                    src, file_type, imatrix, options, tuning, {**layout, "dst": dst}, threads=threads, force=force,
                    resumable=resumable, resume=resume, inputs=inputs, like=tuned[0] if tuned else None,
                    checks=len(wanted) == 1,
                )  # fmt: skip
                tuned.append(stack.enter_context(one))
            if len(wanted) > 1:
                check_outputs([one.rehearsal for one in tuned], inputs, force=force, resume=resume)
            for one in tuned:
                yield from one.rehearse()
                one.rehearsal.check()
            ready = yield from encode_together(tuned, executor)
            rehearsals = [one.rehearsal for one in tuned]
        else:
            if any(file_type is None for _, file_type in wanted):
                raise PlanError(NO_TYPE)
            source = None
            if not all(isinstance(file_type, Plan) for _, file_type in wanted):
                source = adapt(open_source(src, names, given=dict(pairs(options.override_kv))))
            found = open_imatrix(imatrix)
            rehearsals = [
                # A plan that was made before may say more about the model than the options do.
                rehearse(
                    src, file_type, found, options, dst=dst,
                    source=None if isinstance(file_type, Plan) else source, **layout,
                )
                for dst, file_type in wanted
            ]  # fmt: skip
        check_all(rehearsals)
        if len(rehearsals) > 1:
            check_outputs(rehearsals, inputs, force=force, resume=resume)
        finished = over(rehearsals) if resume else frozenset()
        todo = [number for number in range(len(wanted)) if number not in finished]
        begin = partial_files(rehearsals, [one.identity for one in tuned], resume) if resumable or resume else None
        source, found = rehearsals[0].source, rehearsals[0].imatrix
        outputs = [Output(rehearsals[number].plan, rehearsals[number].files, ready[number]) for number in todo]
        targets: list[AtomicFile] = []

        def written() -> Generator[Event, None, None]:
            targets[:] = yield from write_outputs(
                source, outputs, found, threads=threads, executor=executor, force=force, begin=begin, inputs=inputs,
                finish=after is None,
            )  # fmt: skip

        told = yield from advised(written(), [output.plan for output in outputs])
        said = dict(zip(todo, told, strict=True))
        seconds = time.perf_counter() - begun
        results = []
        for number, rehearsal in enumerate(rehearsals):
            plan = rehearsal.plan
            warnings = [*said.get(number, ()), *(tuned[number].warnings(plan) if tuned else ()), *plan.warnings]
            warnings += [] if rehearsal.imatrix is None else rehearsal.imatrix.warnings
            done = WriteResult.of(rehearsal.files)
            more: dict[str, Any] = {}
            if tuned:
                more = {"tuned": tuned[number].results, "found": tuned[number].found}
            results.append(
                QuantizeResult(
                    done.paths, done.size, plan, source.size, seconds, tuple(dict.fromkeys(warnings)), **more
                )
            )
        if after is not None:
            yield from after(results)
            for target in targets:
                target.finish()
    for result in results:
        yield Finished(result)
