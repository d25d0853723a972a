"""Write an evaluation as a web page: one file without scripts, which loads nothing from elsewhere."""

from collections.abc import Container, Iterable, Iterator
from html import escape

from quantreg.evaluation.curve import curve_svg, frontier_error
from quantreg.evaluation.measure import Evaluation, Measure

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0 }
th, td { text-align: right; padding: .15em .8em; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, td.name, th.name { text-align: left }
tr.new { background: #fdeee6; font-weight: 600 }
svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #444 }
svg text { paint-order: stroke; stroke: #fff; stroke-width: 3px }
.grid { stroke: #e8e8e8 } .frontier { fill: none; stroke: #9ab; stroke-dasharray: 4 4 } .leader { stroke: #bbb }
.known { fill: #57809e; stroke: #57809e } .new { fill: #d2491b; stroke: #fff; stroke-width: 1.5 }
circle.partly { fill: #fff; stroke-width: 1.5 } circle.new.partly { stroke: #d2491b; stroke-width: 2.5 }
svg text.axis { font-size: 13px } svg text.new-name { font-weight: 700; font-size: 13px; fill: #d2491b }
"""

_COLUMNS = (
    ("bits_per_weight", "bits per weight", "{:.6g}"),
    ("error", "error", "{:.2%}"),
    ("weighted_error", "weighted error", "{:.2%}"),
    ("rmse", "RMSE", "{:.3g}"),
    ("max_error", "largest error", "{:.3g}"),
    ("cosine", "cosine", "{:.6f}"),
    ("encode_speed", "encode, M/s", "{:.1f}"),
    ("decode_speed", "decode, M/s", "{:.1f}"),
)


def page(evaluation: Evaluation, new: Container[str] = ()) -> str:
    """Return an Evaluation as an HTML document. The types named in ``new`` are highlighted."""
    weights = max((total.weights for total in evaluation.totals), default=0)
    importance = f", importance from {escape(evaluation.imatrix)}" if evaluation.imatrix else ", without importance"
    where = "".join(f"<p>{text}</p>\n" for text in _standing(evaluation.totals, new))
    skipped = "".join(f"<li>{escape(kind)} on {escape(t)}: {escape(why)}</li>" for kind, t, why in evaluation.skipped)
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>quantreg evaluate</title>"
        f"<style>{_STYLE}</style></head><body>\n<h1>Error against bits per weight</h1>\n"
        f"<p>A random sample of {weights:,} weights of {escape(evaluation.path)}{importance}. The error is the root"
        " mean square error divided by the root mean square of the weights, weighted by importance. The dashed line"
        " joins the types that have a smaller error than every smaller type. A hollow circle marks a type that could"
        " not encode every tensor.</p>\n"
        f"{where}{curve_svg(evaluation.totals, new)}\n{_table(_by_size(evaluation.totals), new)}\n"
        f"<details><summary>Every tensor</summary>{_table(evaluation.tensors, new, tensors=True)}</details>\n"
        + (f"<details><summary>Not encoded</summary><ul>{skipped}</ul></details>\n" if skipped else "")
        + "</body></html>\n"
    )


def _standing(totals: Iterable[Measure], new: Container[str]) -> Iterator[str]:
    """Compare each new type with the line through the best other types, one sentence each."""
    for total in _by_size(t for t in totals if t.type in new):
        others = frontier_error(totals, total.bits_per_weight, new)
        size = f"<b>{escape(total.type)}</b> has an error of {total.weighted_error:.2%} at {total.bits_per_weight:.4g}"
        if others is None:
            yield f"{size} bits per weight. The line does not reach this size."
        else:
            ratio = total.weighted_error / others
            words = "on" if 0.995 < ratio < 1.005 else f"{abs(ratio - 1):.1%} {'above' if ratio > 1 else 'below'}"
            yield f"{size} bits per weight: {words} the line, which is at {others:.2%} there."


def _by_size(measures: Iterable[Measure]) -> list[Measure]:
    return sorted(measures, key=lambda m: (m.bits_per_weight, m.weighted_error))


def _table(measures: Iterable[Measure], new: Container[str], tensors: bool = False) -> str:
    headings = "".join(f"<th>{text}</th>" for _, text, _ in _COLUMNS)
    rows = []
    for measure in measures:
        cells = "".join(f"<td>{form.format(getattr(measure, field))}</td>" for field, _, form in _COLUMNS)
        tensor = f'<td class="name">{escape(measure.tensor or "")}</td>' if tensors else ""
        mark = ' class="new"' if measure.type in new else ""
        rows.append(f"<tr{mark}><td>{escape(measure.type)}</td>{tensor}{cells}</tr>")
    tensor = '<th class="name">tensor</th>' if tensors else ""
    return f"<table><tr><th>type</th>{tensor}{headings}</tr>\n{chr(10).join(rows)}</table>"
