"""Print sizes, tables, JSON and warnings."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from quantreg.cli.grouping import grouped
from quantreg.words import count, listed

if TYPE_CHECKING:  # quantreg.recipes is slow to load, and most commands do not need it
    from quantreg.recipes import Plan, TensorPlan

__all__ = ["bits", "plan_summary", "print_json", "printable", "size", "table", "warn"]


def size(nbytes: float) -> str:
    """Format bytes in the largest unit that fits, in powers of ten: "1.23 MB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes:.0f} B"


def bits(value: float) -> str:
    """Format bits per weight without trailing zeros: "4.5", "6.5625"."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def printable(text: str) -> str:
    """Escape the characters that a terminal would obey: names in a file may hold newlines or control sequences."""
    return _without_controls(text, lambda c: c.encode("unicode_escape").decode())


def _without_controls(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    import unicodedata

    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else escape(c) for c in text)


def plan_summary(plan: "Plan") -> str:
    """Describe the size of a plan, how many bits its fallbacks add, and what the shared rules gave."""
    text = f"{size(plan.bytes)} of tensor data, {bits(plan.bits_per_weight)} bits per weight"
    if plan.fallbacks:
        fallbacks = count(len(plan.fallbacks), "tensor")
        text += f"; {fallbacks} fell back to another type, which adds {bits(plan.fallback_cost)} bits per weight"
    higher = _kept_higher(plan)
    if higher:
        names = listed([f"{tensor.to_type} for {printable(tensor.name)}" for tensor in higher])
        text += f"; {names}, by the rules that file types share (--pure: {plan.file_type.type} for all)"
    return text


def _kept_higher(plan: "Plan") -> "list[TensorPlan]":
    """The tensors to which the shared rules give another type than the plugin's type that stands for the file type."""
    from quantreg.recipes import file_types

    if plan.options.pure or plan.file_type.name in file_types:
        return []
    asked = ("tensor type ", "output_tensor_type", "token_embedding_type")  # reasons that name the user's options
    return [
        tensor
        for tensor in plan.tensors
        if tensor.converted and tensor.to_type != plan.file_type.type and not tensor.fallback
        and not tensor.reason.startswith(asked)
    ]  # fmt: skip


def print_json(data: object) -> None:
    """Print indented JSON, with escapes for the characters that a terminal would obey."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    escaped = "utf" not in encoding.lower()  # Windows' cp1252, for one, lacks most characters
    lines = json.dumps(data, indent=2, ensure_ascii=escaped).split("\n")
    click.echo("\n".join(_without_controls(line, lambda c: json.dumps(c)[1:-1]) for line in lines))


def warn(warnings: Iterable[str]) -> None:
    """Print each warning as one line on stderr. More than three of the same kind share a line."""
    for warning in grouped(warnings):
        click.echo(f"warning: {printable(warning)}", err=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table. Columns whose heading begins with ">" are right-aligned."""
    right = [heading.startswith(">") for heading in headings]
    cells = [[heading.lstrip(">") for heading in headings], *[[printable(str(cell)) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    for row in cells:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        click.echo("  ".join(parts).rstrip())
