"""Show the progress of a run: a bar on a terminal, plain lines elsewhere, JSON lines for programs."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.show import printable, size
from quantreg.events import Advanced, Calibrating, Event, Finished, Probing, Started, TensorDone, TensorTuned

if TYPE_CHECKING:
    from quantreg import Plan, TensorPlan

__all__ = ["listener"]

_PAUSE = 0.2  # seconds between two "progress" lines
_QUIET = 10.0  # seconds between two lines about calibration where there is no terminal
_PHASES = {
    "importance": "calibration text",
    "errors": "errors of types",
    "sensitivities": "sensitivities of tensors",
    "solution": "probing around the types found",
    "feedback": "error feedback",
    "report": "measuring",
    "checksums": "checksums",
}


@contextmanager
def listener(log_json: bool = False) -> Iterator[Callable[[Event], None]]:
    """Give the callable to pass as ``progress=``. With ``log_json`` it prints one JSON object per line to stdout."""
    if log_json:
        yield _JsonLines()
    elif sys.stderr is not None and sys.stderr.isatty():  # None if the stream is closed
        with _bar() as listen:
            yield listen
    else:
        yield _Lines()


class _Lines:
    """Print a line for each tensor, and now and then how far calibration is and how long its phase will take."""

    def __init__(self) -> None:
        self.told = self.began = time.monotonic()
        self.phase = ""
        self.first = 0  # what was done when the phase began
        self.outputs = 1
        self.kinds: list[TensorPlan] = []  # what a tensor becomes in each output

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.outputs = len(event.plans)
        elif isinstance(event, TensorDone):
            self.kinds.append(event.tensor)
            if len(self.kinds) == self.outputs:
                _print_tensor(event, self.kinds)
                self.kinds.clear()
        elif not isinstance(event, Calibrating):
            _print_line(event)
        elif event.phase != self.phase or time.monotonic() - self.told >= _QUIET:
            self.told = time.monotonic()
            if event.phase != self.phase:
                self.phase, self.began, self.first = event.phase, self.told, event.done
            share = event.done / event.total if event.total else 1.0
            line, done = f"{_PHASES.get(event.phase, event.phase)}: {share:.0%}", event.done - self.first
            if done and event.done < event.total:
                left = (self.told - self.began) * (event.total - event.done) / done
                line += f", {_duration(left)} left"
            click.echo(line, err=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _print_line(event: Event) -> None:
    if isinstance(event, Probing):
        click.echo(str(event.cost), err=True)
    elif isinstance(event, TensorTuned):
        tuned = event.tuned
        after = "no feedback" if tuned.tuned is None else f"{tuned.tuned:.2e} with feedback"
        click.echo(printable(f"{tuned.name}: {tuned.type}, output error {tuned.plain:.2e}, {after}"), err=True)


def _print_tensor(event: TensorDone, outputs: "Sequence[TensorPlan]") -> None:
    """Print what a tensor has become, in one line for all outputs."""
    name, from_type = outputs[0].name, outputs[0].from_type
    found = list(dict.fromkeys(tensor.to_type for tensor in outputs))
    kinds = f"{found[0]}, unchanged" if found == [from_type] else f"{from_type} -> {', '.join(found)}"
    line = f"[{event.index:4d}/{event.count:4d}] {name}: {kinds}, {size(sum(tensor.bytes for tensor in outputs))}"
    click.echo(printable(line), err=True)


class _JsonLines:
    """Print the events started, progress (at most every 0.2 s), tensor (for each) and finished.

    With a calibration text, calibrating (at most every 0.2 s), probing (before each measurement of sensitivities) and
    tuned (for each tensor) come first. With a report, calibrating comes after finished, too.

    Bytes are those of the source, except in output_bytes and size. With several outputs, started is about all of them,
    tensor says in "output" which one it is about, from 0, and finished comes for each.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self.outputs = 1
        self.told = 0.0

    def __call__(self, event: Event) -> None:
        line: dict[str, Any] | None = None
        match event:
            case Calibrating(phase, done, count):
                if done in (0, count) or time.monotonic() - self.told >= _PAUSE:
                    self.told = time.monotonic()
                    line = {"event": "calibrating", "phase": phase, "done": done, "total": count}
            case Probing(cost):
                line = {
                    "event": "probing", "tensors": cost.tensors, "runs": cost.runs, "chunks": cost.chunks,
                    "again": cost.again, "multiplications": cost.multiplications,
                }  # fmt: skip
            case TensorTuned(tuned):
                line = {
                    "event": "tuned", "name": tuned.name, "type": tuned.type, "error": tuned.plain,
                    "error_with_feedback": tuned.tuned, "kept": tuned.kept, "matrices": tuned.matrices,
                    "reason": tuned.reason,
                }  # fmt: skip
            case Started(plan, total, plans):
                self.total, self.outputs = total, len(plans)
                line = {
                    "event": "started", "tensors": len(plan.tensors), "bytes": total,
                    "output_bytes": sum(each.bytes for each in plans),
                    "warnings": list(dict.fromkeys(warning for each in plans for warning in each.warnings)),
                }  # fmt: skip
                if len(plans) > 1:
                    line["file_types"] = [each.file_type.name for each in plans]
            case Advanced(tensor, count):
                self.done += count
                if time.monotonic() - self.told >= _PAUSE:
                    self.told = time.monotonic()
                    line = {"event": "progress", "tensor": tensor.name, "done": self.done, "bytes": self.total}
            case TensorDone(tensor, index, count):
                line = {
                    "event": "tensor", "name": tensor.name, "index": index, "count": count, "from": tensor.from_type,
                    "to": tensor.to_type, "output_bytes": tensor.bytes, "reason": tensor.reason,
                }  # fmt: skip
                if self.outputs > 1:
                    line["output"] = event.output
            case Finished(result):
                line = {
                    "event": "finished", "paths": list(result.paths), "size": result.size, "seconds": result.seconds,
                    "bits_per_weight": result.bits_per_weight, "fallbacks": len(result.plan.fallbacks),
                    "warnings": list(result.warnings),
                }  # fmt: skip
        if line is not None:
            click.echo(json.dumps(line))


@contextmanager
def _bar() -> Iterator[Callable[[Event], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Speed(TransferSpeedColumn):
        """Only bytes have a speed that says anything."""

        def render(self, task: Task) -> Text:
            return super().render(task) if task.fields.get("in_bytes") else Text("")

    phase: list[str] = []  # of calibration
    outputs: list[Plan] = []
    columns = [
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), Speed(),
        TimeRemainingColumn()
    ]  # fmt: skip
    # A step of calibration may take a minute, and steps of several kinds take turns: the mean of many tells the rest.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=1800) as bar:
        task = bar.add_task("reading the header", total=None)

        def listen(event: Event) -> None:
            if isinstance(event, Calibrating):
                if phase != [event.phase]:
                    phase[:] = [event.phase]
                    bar.reset(task, total=event.total, in_bytes=event.phase == "checksums")
                bar.update(task, completed=event.done, description=_PHASES.get(event.phase, event.phase))
            elif isinstance(event, Probing):
                bar.console.print(str(event.cost), markup=False, highlight=False)
            elif isinstance(event, Started):
                outputs[:] = event.plans
                bar.reset(task, total=event.source_bytes, in_bytes=True)
            elif isinstance(event, Advanced):
                bar.update(task, advance=event.source_bytes, description=_label(event.tensor, outputs))

        yield listen


def _label(tensor: "TensorPlan", outputs: "Sequence[Plan]") -> str:
    name = printable(tensor.name)
    name = name if len(name) <= 36 else "..." + name[-33:]
    becomes = tensor.to_type if len(outputs) < 2 else f"{len(outputs)} types"
    return f"{name:<36} {becomes:>8}"
