"""Write a `TuningReport` as a web page: one file without scripts, which loads nothing from elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from quantreg.evaluation.page_style import STYLE
from quantreg.tuning.report import TensorReport, TuningReport
from quantreg.tuning.report_chart import chart, megabytes, recipe_line

__all__ = ["page"]

_MOST_ROWS = 2000  # of the table of tensors
_SHADE = 45  # per cent of colour of the largest type in the map: text stays readable on it, in both schemes

_RULES = """
.facts { display: flex; flex-wrap: wrap; gap: .8em; margin: 1em 0; padding: 0 }
.facts div { flex: 1 1 9em; border: 1px solid var(--edge); border-radius: 6px; padding: .5em .8em }
.facts b { display: block; font-size: 1.35em; line-height: 1.3; font-variant-numeric: tabular-nums }
.facts span { color: var(--soft); font-size: .85em }
table.map { border-collapse: separate; border-spacing: 2px; font-size: .75em }
table.map td { text-align: center; border: 0; border-radius: 3px; min-width: 4em; padding: .3em .4em;
  background: color-mix(in srgb, var(--known) var(--shade), var(--back)) }
table.map th { border: 0; text-align: center; padding: .2em .4em }
table.map th.type { text-align: right }
table.map td.none { background: none; color: var(--soft) }
table.map small { display: block; color: inherit; opacity: .85 }
td.bar { min-width: 8em; background: linear-gradient(to right,
  color-mix(in srgb, var(--known) 40%, var(--back)) var(--bar), transparent var(--bar)) }
"""


def page(report: TuningReport) -> str:
    """Return the report as an HTML document. It names files without their folders, so that it can be published."""
    title = f"{report.model} in {megabytes(report.nbytes)}"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}{_RULES}</style></head><body>",
        f"<h1>{escape(title)}</h1>\n<p class=model>{escape(_subtitle(report))}</p>",
        _facts(report),
        f"<p>{' '.join(_sentences(report))}</p>",
        _curve(report),
        _map(report),
        _by_part(report),
        _every(report),
        _conditions(report),
        "</body></html>\n",
    ]
    return "\n".join(filter(None, parts))


def _subtitle(report: TuningReport) -> str:
    names = " from ".join(filter(None, (report.output, report.source)))
    what = f"types of {report.file_type}" if report.way is None else "types chosen tensor by tensor"
    return ", ".join(filter(None, (names, what)))


def _facts(report: TuningReport) -> str:
    quality = report.quality
    facts = [(f"{report.bits_per_weight:.3f}", "bits per weight")]
    if quality is not None:
        facts += [
            (f"{quality.kl_mean:.4g}", f"KL divergence, nats (± {quality.kl_error:.1g})"),
            (f"{quality.perplexity:.4g}", f"perplexity; the source has {quality.perplexity_base:.4g}"),
            (f"{quality.same_top:.1%}", "of predictions with the same top token"),
        ]
    tuned = [t for t in report.tensors if t.tuned is not None]
    if tuned:
        facts.append((f"{sum(t.kept > 0 for t in tuned)} of {len(tuned)}", "tensors keep their error feedback"))
    return f"<div class=facts>{''.join(f'<div><b>{a}</b><span>{escape(b)}</span></div>' for a, b in facts)}</div>"


def _sentences(report: TuningReport) -> Iterator[str]:
    """Say how the types were decided, and compare the result with the recipes of the same size."""
    quality = report.quality
    if quality is not None:
        others = recipe_line(report.variants, report.nbytes)
        if others:
            ratio = quality.kl_mean / others
            change = "the same as" if 0.995 < ratio < 1.005 else f"{ratio:.2f} times"
            whose = "the file types of llama-quantize"
            yield f"Its KL divergence is {change} that of {whose} at this size, {others:.4g} nats."
    if report.how:
        yield f"The types were chosen by {escape(report.how).rstrip(chr(46))}."
    if report.target is not None:
        left = report.target - report.nbytes
        yield f"The target was {megabytes(report.target)}: {left:,} bytes of it ({left / report.target:.2%}) are left."
    if report.gap:
        yield escape(report.gap)
    if quality is not None and report.way == "calibration" and report.loss is not None:
        yield f"The search predicted a KL divergence of {report.loss:.4g} nats; {quality.kl_mean:.4g} was measured."


def _curve(report: TuningReport) -> str:
    drawn = chart(report)
    if not drawn:
        return ""
    notes = ["The KL divergence says how far the predictions are from those of the source; 0 is the same."]
    kinds = {v.kind for v in report.variants}
    if kinds - {"recipe"}:
        notes.append("A circle is a size of the tuned model that was measured; the large one is this file.")
    if "recipe" in kinds:
        notes.append("A square is a file type as llama-quantize writes it.")
    if report.way == "calibration" and len(report.predicted) > 1:
        notes.append("The dashed line is what the search predicts for each size.")
    return f"<h2>Size and quality</h2>\n{drawn}\n<p class=note>{' '.join(notes)}</p>"


# ---- the map of layers and parts ----


def _map(report: TuningReport) -> str:
    """A table with a row per layer and a column per part: the types, in a stronger colour the more bits they have."""
    layers = sorted({t.layer for t in report.tensors if t.layer is not None})
    if not layers:
        return ""
    cells = {(t.layer, t.part): t for t in report.tensors}
    parts = [part for part in report.parts if any((layer, part) in cells for layer in layers)]
    most = max(t.bits_per_weight for t in report.tensors)
    head = "".join(f"<th>{escape(part)}</th>" for part in parts)
    rows = []
    for layer in layers:
        row = "".join(_cell(cells.get((layer, part)), most) for part in parts)
        rows.append(f"<tr><th class=type>{layer}</th>{row}</tr>")
    others = [t for t in report.tensors if t.layer is None]
    beside = ""
    if others:
        names = "".join(f"<th>{escape(t.part)}</th>" for t in others)
        beside = f"<table class=map><tr>{names}</tr><tr>{''.join(_cell(t, most) for t in others)}</tr></table>"
    share = any(t.share is not None for t in report.tensors)
    note = "Each cell is a tensor: its type" + (" and its share of the predicted loss" if share else "")
    return (
        f"<h2>Types by layer</h2>\n<p class=note>{note}. The stronger its colour, the more bits per weight.</p>\n"
        f"<div class=scroll>{beside}</div><div class=scroll><table class=map><tr><th class=type>layer</th>{head}</tr>\n"
        f"{chr(10).join(rows)}</table></div>"
    )


def _cell(tensor: TensorReport | None, most: float) -> str:
    if tensor is None:
        return "<td class=none>–</td>"
    share = "" if tensor.share is None else f"<small>{_percent(tensor.share)}</small>"
    words = [f"{tensor.name}: {tensor.type}, {tensor.bits_per_weight:.4g} bits per weight", tensor.reason]
    if tensor.plain is not None and tensor.tuned is not None:
        words.append(f"output error {tensor.plain:.3%} before feedback, {tensor.tuned:.3%} after")
    shade = f"{_SHADE * tensor.bits_per_weight / most:.0f}%"
    title = escape("; ".join(filter(None, words)), quote=True)
    return f'<td style="--shade: {shade}" title="{title}">{escape(tensor.type)}{share}</td>'


# ---- the tables ----


def _by_part(report: TuningReport) -> str:
    """A row per part of a layer: bits, share of the loss, and the error of its outputs before and after feedback."""
    rows = []
    shares = [sum(t.share or 0.0 for t in report.tensors if t.part == part) for part in report.parts]
    for part, share in zip(report.parts, shares, strict=True):
        tensors = [t for t in report.tensors if t.part == part]
        weights = sum(t.weights for t in tensors)
        bits = 8 * sum(t.nbytes for t in tensors) / max(1, weights)
        cells = [f"{len(tensors)}", megabytes(sum(t.nbytes for t in tensors)), f"{bits:.3f}"]
        bar = "<td>–</td>"
        if any(t.share is not None for t in tensors):
            bar = f'<td class=bar style="--bar: {100 * share / (max(shares) or 1):.0f}%">{_percent(share)}</td>'
        rows.append(f"<tr><td class=type>{escape(part)}</td>{_cells(cells)}{bar}{_cells(_errors(tensors))}</tr>")
    heads = ("tensors", "size", "bits per weight", "share of the loss", "error before", "error after", "change")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return (
        "<h2>What feedback did</h2>\n<p class=note>The error is that of a tensor's outputs on held-out tokens, relative"
        " to them (squares, the mean over tensors): with the ordinary bytes of its type, and as it is in the file."
        "</p>\n"
        f"<div class=scroll><table><tr><th class=type>part</th>{head}</tr>\n{chr(10).join(rows)}</table></div>"
    )


def _errors(tensors: Sequence[TensorReport]) -> tuple[str, str, str]:
    both = [(t.plain, t.tuned) for t in tensors if t.plain is not None and t.tuned is not None]
    if not both:
        return "–", "–", "–"
    before, after = sum(a for a, _ in both) / len(both), sum(b for _, b in both) / len(both)
    return f"{100 * before:.3g}%", f"{100 * after:.3g}%", f"{after / before - 1:+.0%}" if before else "–"


def _every(report: TuningReport) -> str:
    shown = report.tensors[:_MOST_ROWS]
    rows = []
    for t in shown:
        share = "–" if t.share is None else _percent(t.share)
        kept = "–" if t.tuned is None else f"{t.kept} of {t.matrices}"
        figures = (f"{t.bits_per_weight:.4g}", megabytes(t.nbytes), share, *_errors([t]), kept)
        why = "; ".join(filter(None, (t.reason, t.remark)))
        rows.append(
            f"<tr><td class=type>{escape(t.name)}</td><td class=name>{escape(t.type)}</td>{_cells(figures)}"
            f"<td class=text>{escape(why)}</td></tr>"
        )
    heads = ("bits per weight", "size", "share of the loss", "error before", "error after", "change", "feedback kept")
    head = "".join(f"<th>{text}</th>" for text in heads)
    which = "Every tensor" if len(shown) == len(report.tensors) else f"The first {len(shown)} of {len(report.tensors)}"
    return (
        f"<details><summary>{which}, with reasons</summary><div class=scroll><table><tr><th class=type>tensor</th>"
        f"<th class=name>type</th>{head}<th class=name>reason</th></tr>\n{chr(10).join(rows)}</table></div></details>"
    )


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else "< 0.1%"


def _conditions(report: TuningReport) -> str:
    facts = list(report.conditions.items())
    if report.quality is not None:
        facts.insert(0, ("measured on", f"{report.quality.tokens:,} predictions of text that decided nothing"))
    if not facts:
        return ""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return f"<h2>How it was made</h2>\n<dl>{rows}</dl>"
