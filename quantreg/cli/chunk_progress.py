"""Show the progress of a run over the chunks of a text: a list of perplexities on stdout, and a bar on a terminal."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.show import warn

if TYPE_CHECKING:
    from quantreg.quality import ChunkDone, Started

__all__ = ["chunk_progress"]

_QUIET = 10.0  # seconds between two lines of progress where there is no terminal
_HEADINGS = (
    "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            "
    "Same top p"
)


@contextmanager
def chunk_progress(as_json: bool = False) -> "Iterator[Callable[[Started | ChunkDone], None]]":
    """Give the callable to pass as ``progress=``. It prints warnings, a line or item per chunk, and shows a bar.

    The bar is there if stderr is a terminal. If stdout is one too, what belongs there appears when the bar has gone.
    """
    on_terminal = sys.stderr is not None and sys.stderr.isatty()  # None if the stream is closed
    lines = _Lines(hold=on_terminal and sys.stdout is not None and sys.stdout.isatty())
    with _bar() if on_terminal else _sparse(as_json) as show:

        def listen(event: "Started | ChunkDone") -> None:
            warn(getattr(event, "warnings", ()))
            if not as_json:
                lines(event)
            show(event)

        try:
            yield listen
        except BaseException:
            lines.end()
            raise
    lines.end()


class _Lines:
    """Prints what llama-perplexity prints for each chunk: an item of a list, or a row of a table if there is a base."""

    def __init__(self, hold: bool) -> None:
        self._hold = hold
        self._held: list[str] = []
        self._against = False
        self._open = False  # whether the cursor stands behind the list

    def __call__(self, event: Any) -> None:
        if hasattr(event, "against"):
            self._against = event.against
            if event.against:
                self._print(_HEADINGS + "\n")
        elif self._against:
            self._print(
                f"{event.chunk:4d}    {event.perplexity:9.4f} ± {event.perplexity_error:9.4f}    "
                f"{event.log_ratio:10.5f} ± {event.log_ratio_error:10.5f}    "
                f"{event.kl_mean:10.5f} ± {event.kl_error:10.5f}    "
                f"{100 * event.dp_rms:6.3f} ± {100 * event.dp_rms_error:6.3f} %    "
                f"{100 * event.same_top:6.3f} ± {100 * event.same_top_error:6.3f} %\n"
            )
        elif not math.isnan(event.perplexity):
            self._open = True
            self._print(f"[{event.chunk}]{event.perplexity:.4f},")

    def _print(self, text: str) -> None:
        if self._hold:
            self._held.append(text)
        else:
            click.echo(text, nl=False)

    def end(self) -> None:
        """Print what was held back, and end the list."""
        text = "".join(self._held) + "\n" * (self._open or self._against)
        self._held, self._open, self._against = [], False, False
        if text:
            click.echo(text, nl=False)


@contextmanager
def _sparse(as_json: bool) -> "Iterator[Callable[[Started | ChunkDone], None]]":
    """Where there is no terminal: the list on stdout is enough, and without it a line every 10 seconds."""
    told = time.monotonic()

    def show(event: Any) -> None:
        nonlocal told
        quiet = as_json or math.isnan(getattr(event, "perplexity", 0.0))
        if quiet and hasattr(event, "chunk") and time.monotonic() - told >= _QUIET:
            told = time.monotonic()
            click.echo(f"[{event.chunk:4d}/{event.chunks:4d}] {_estimate(event)}", err=True)

    yield show


@contextmanager
def _bar() -> "Iterator[Callable[[Started | ChunkDone], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("chunks"),
        TimeRemainingColumn()
    ]  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("evaluating", total=None)

        def show(event: Any) -> None:
            if hasattr(event, "chunk"):
                bar.update(task, completed=event.chunk, description=_estimate(event))
            else:
                bar.update(task, total=event.chunks)

        yield show


def _estimate(event: "ChunkDone") -> str:
    if math.isnan(event.perplexity):
        return "evaluating"
    text = f"PPL {event.perplexity:.4f} ± {event.perplexity_error:.4f}"
    return f"{text}, KL {event.kl_mean:.5f} ± {event.kl_error:.5f}" if event.same_top or event.kl_mean else text
