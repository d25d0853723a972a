"""HTML tables for notebooks, shared by the `_repr_html_` of files, plans, results and comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["figures", "table"]

_MOST_ROWS = 60


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table with a caption. Numbers are right-aligned. After 60 rows it only says how many more there are."""
    shown: list[str] = []
    more = 0
    for row in rows:
        if len(shown) < _MOST_ROWS:
            shown.append(f"<tr>{''.join(map(_cell, row))}</tr>")
        else:
            more += 1
    if more:
        shown.append(f'<tr><td colspan="{len(headings)}">and {more} more</td></tr>')
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{''.join(shown)}</table>"


def figures(caption: str, values: Mapping[str, object]) -> str:
    """Format a table of names and values, one per row."""
    rows = "".join(f"<tr><th>{escape(name)}</th>{_cell(value)}</tr>" for name, value in values.items())
    return f"<table><caption>{escape(caption)}</caption>{rows}</table>"


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        value = " x ".join(map(str, value))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = f"{value:,}" if isinstance(value, int) and number else f"{value:.6g}" if number else escape(str(value))
    return f'<td style="text-align:right">{text}</td>' if number else f'<td style="text-align:left">{text}</td>'
