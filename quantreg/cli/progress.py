"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

import sys
from contextlib import contextmanager

import click

from quantreg.cli.show import size
from quantreg.events import Advanced, Started, TensorDone

__all__ = ["listener"]


@contextmanager
def listener():
    """Gives the callable to pass as ``progress=``."""
    if sys.stderr.isatty():
        with _bar() as listen:
            yield listen
    else:
        yield _print_line


def _print_line(event):
    if isinstance(event, TensorDone):
        tensor = event.tensor
        kinds = f"{tensor.from_type} -> {tensor.to_type}" if tensor.converted else f"{tensor.to_type}, as it is"
        click.echo(f"[{event.index:4d}/{event.count:4d}] {tensor.name}: {kinds}, {size(tensor.bytes)}", err=True)


@contextmanager
def _bar():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = [
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TransferSpeedColumn(),
        TimeRemainingColumn()
    ]  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading the header", total=None)

        def listen(event):
            if isinstance(event, Started):
                bar.update(task, total=event.source_bytes)
            elif isinstance(event, Advanced):
                bar.update(task, advance=event.source_bytes, description=_label(event.tensor))

        yield listen


def _label(tensor):
    name = tensor.name if len(tensor.name) <= 36 else "..." + tensor.name[-33:]
    return f"{name:<36} {tensor.to_type:>7}"
