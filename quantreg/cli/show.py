"""How sizes and tables are printed."""

import json

import click

__all__ = ["bits", "plan_summary", "print_json", "printable", "size", "table", "warn"]


def size(nbytes: float) -> str:
    """Bytes in the unit that reads best: "1.23 MB" (powers of ten)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes:.0f} B"


def bits(value: float) -> str:
    """Bits per weight, without trailing zeros: "4.5", "6.5625"."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def printable(text: str) -> str:
    """The text with escapes for what a terminal would obey: names in a file may hold newlines and worse."""
    return _without_controls(text, lambda c: c.encode("unicode_escape").decode())


def _without_controls(text, escape):
    if text.isprintable():
        return text
    import unicodedata

    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else escape(c) for c in text)


def plan_summary(plan) -> str:
    """Sizes of a plan, and what its fallbacks cost."""
    text = f"{size(plan.bytes)} of tensor data, {bits(plan.bits_per_weight)} bits per weight"
    if plan.fallbacks:
        text += f"; {len(plan.fallbacks)} tensors fell back, which costs {bits(plan.fallback_cost)} bits per weight"
    return text


def print_json(data) -> None:
    lines = json.dumps(data, indent=2, ensure_ascii=False).split("\n")
    click.echo("\n".join(_without_controls(line, lambda c: json.dumps(c)[1:-1]) for line in lines))


def warn(warnings) -> None:
    """A line on stderr for each."""
    for warning in warnings:
        click.echo(f"warning: {printable(warning)}", err=True)


def table(headings, rows) -> None:
    """A plain table; columns whose heading begins with ">" are right-aligned."""
    right = [heading.startswith(">") for heading in headings]
    cells = [[heading.lstrip(">") for heading in headings], *[[printable(str(cell)) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    for row in cells:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        click.echo("  ".join(parts).rstrip())
