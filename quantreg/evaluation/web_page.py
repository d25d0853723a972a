"""Write an evaluation as a web page: one file without scripts, which loads nothing from elsewhere."""

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from html import escape

from quantreg.evaluation.curve import (
    ERROR,
    NARROW,
    WIDE,
    Frame,
    Point,
    Quantity,
    Window,
    curve_svg,
    frontier_error,
    points,
    windows,
)
from quantreg.evaluation.page_style import STYLE
from quantreg.evaluation.results import Evaluation, Measure, Skipped, TextMeasure, TextResult, by_size

__all__ = ["page"]

_ZOOM_HEIGHT = 420
_MOST_TENSORS = 300  # rows of the table of tensors
_MOST_WINDOWS = 4

_COLUMNS = (
    ("bits_per_weight", "bits per weight", "{:.4f}"),
    ("error", "error", "{:.2%}"),
    ("weighted_error", "weighted error", "{:.2%}"),
    ("rmse", "RMSE", "{:.3g}"),
    ("max_error", "largest error", "{:.3g}"),
    ("cosine", "cosine", "{:.6f}"),
    ("encode_speed", "encode, M/s", "{:.1f}"),
    ("decode_speed", "decode, M/s", "{:.1f}"),
)

_TEXT_COLUMNS = (
    ("kl_mean", "KL divergence", "{:.5f}"),
    ("kl_error", "standard error", "{:.5f}"),
    ("kl_median", "median", "{:.5f}"),
    ("kl_99", "99 %", "{:.4f}"),
    ("same_top", "same top token", "{:.2%}"),
    ("perplexity", "perplexity", "{:.4f}"),
)
_LEAST = 1e-5  # nats: less than that is rounding, and a logarithmic scale has no zero
KL: Quantity = Quantity(
    "KL divergence",
    "mean KL divergence from the model as it is, in nats",
    lambda x: f"{x:.4g} nats",
    lambda x: f"{x:.3g}",
)


def page(evaluation: Evaluation, new: Container[str] = ()) -> str:
    """Return an Evaluation as an HTML document. The types named in ``new`` are highlighted.

    The document names files without their folders, so that it can be published.
    """
    totals, drawn = evaluation.totals, points(evaluation.totals)
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(_model(evaluation))}: error against bits per weight</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<h1>Error against bits per weight</h1>\n<p class=model>{escape(_model(evaluation))}</p>",
        *(f"<p>{text}</p>" for text in _standing(drawn, new)),
        _chart(drawn, new),
        *_zooms(drawn, new),
        _explanation(totals),
        _text(evaluation, new),
        f"<h2>Figures</h2>\n{_table(by_size(totals), new, numbered=True)}",
        _missing(evaluation),
        _tensors(evaluation, new),
        f"<h2>How it was measured</h2>\n{_conditions(evaluation)}",
        "</body></html>\n",
    ]
    return "\n".join(filter(None, parts))


# ---- the charts ----


def _chart(
    totals: Sequence[Point], new: Container[str], window: Window | None = None, quantity: Quantity = ERROR
) -> str:
    """Draw a chart twice, for wide and for narrow screens; the style sheet shows one of them."""
    frames = (WIDE, NARROW) if window is None else (_lower(WIDE), _lower(NARROW))
    drawn = [curve_svg(totals, new, frame, window, quantity) for frame in frames]
    return f"<figure>{''.join(drawn)}</figure>" if drawn[0] else ""


def _lower(frame: Frame) -> Frame:
    return frame._replace(height=_ZOOM_HEIGHT)


def _zooms(totals: Sequence[Point], new: Container[str], quantity: Quantity = ERROR) -> Iterator[str]:
    level = 2 if quantity is ERROR else 3
    for window in windows(totals, new)[:_MOST_WINDOWS]:
        heading = f"<h{level}>Around {escape(', '.join(window.types))}</h{level}>"
        yield f"{heading}\n{_chart(totals, new, window, quantity)}"


def _explanation(totals: Iterable[Measure]) -> str:
    mixed = any(total.file_type for total in totals)
    marks = " A circle is a type, a square a file type, which mixes types." if mixed else ""
    return (
        "<p class=note>The error is the root mean square error divided by the root mean square of the weights, weighted"
        " by importance if there was an imatrix. The dashed line joins the types that have a smaller error than every"
        f" smaller type.{marks} A hollow mark is a type that could not encode every tensor. A number stands for a name"
        " that found no room: it is the row in the table below.</p>"
    )


def _standing(totals: Iterable[Point], new: Container[str], quantity: Quantity = ERROR) -> Iterator[str]:
    """Compare each new type with the line through the best other types, one sentence each."""
    totals = list(totals)
    article = "an" if quantity.name[0] in "aeiou" else "a"
    for total in sorted((t for t in totals if t.type in new), key=lambda t: (t.bits_per_weight, t.value)):
        others = frontier_error(totals, total.bits_per_weight, new)
        value = f"{article} {quantity.name} of {quantity.text(total.value)}"
        size = f"<b>{escape(total.type)}</b> has {value} at {total.bits_per_weight:.4g}"
        if others is None:
            yield f"{size} bits per weight. The line does not reach this size."
        else:
            ratio = total.value / others
            words = "on" if 0.995 < ratio < 1.005 else f"{abs(ratio - 1):.1%} {'above' if ratio > 1 else 'below'}"
            yield f"{size} bits per weight: {words} the line, which is at {quantity.text(others)} there."


def _text(evaluation: Evaluation, new: Container[str]) -> str:
    """What the types do to the predictions of a text: sentences, charts and figures."""
    text = evaluation.text
    if text is None or not text.types:
        return ""
    partly = evaluation.incomplete()
    drawn = [
        Point(m.type, m.bits_per_weight, max(m.divergence.kl_mean, _LEAST), m.file_type, m.type in partly)
        for m in text.types
    ]
    parts = [
        "<h2>KL divergence against bits per weight</h2>",
        *(f"<p>{sentence}</p>" for sentence in _standing(drawn, new, KL)),
        _chart(drawn, new, None, KL),
        *_zooms(drawn, new, KL),
        "<p class=note>The whole model ran with each type as its weights, as <code>quantreg quantize --pure"
        " --on-missing-importance fallback</code> writes them; a file type does what it does to a file. The KL"
        " divergence says how far its predictions of the text are from those of the model as it is; 0 is the same. The"
        " size is that of all tensors of the model. A hollow mark is a type that could not encode every tensor: a"
        " fallback took its place there.</p>",
        _text_table(text, new),
    ]
    return "\n".join(parts)


# ---- the tables ----


def _table(measures: Iterable[Measure], new: Container[str], tensors: bool = False, numbered: bool = False) -> str:
    number, tensor = "<th>no.</th>" if numbered else "", "<th class=name>tensor</th>" if tensors else ""
    mixed = "<th class=name>encoded as</th>" if tensors else ""
    headings = "".join(f"<th>{text}</th>" for _, text, _ in _COLUMNS)
    rows = []
    for i, measure in enumerate(measures, 1):
        cells = "".join(f"<td>{form.format(getattr(measure, field))}</td>" for field, _, form in _COLUMNS)
        if tensors:
            names = (measure.tensor or "", measure.encoded_as or "")
            cells = "".join(f"<td class=name>{escape(name)}</td>" for name in names) + cells
        mark = " class=new" if measure.type in new else ""
        count = f"<td>{i}</td>" if numbered else ""
        rows.append(f"<tr{mark}><td class=type>{escape(measure.type)}</td>{count}{cells}</tr>")
    head = f"<tr><th class=type>type</th>{number}{tensor}{mixed}{headings}</tr>"
    return f"<div class=scroll><table>{head}\n{chr(10).join(rows)}</table></div>"


def _text_table(text: TextResult, new: Container[str]) -> str:
    headings = "".join(f"<th>{heading}</th>" for _, heading, _ in _TEXT_COLUMNS)
    rows = []
    ordered: list[TextMeasure] = sorted(text.types, key=lambda m: (m.bits_per_weight, m.divergence.kl_mean))
    for i, measure in enumerate(ordered, 1):
        cells = "".join(
            f"<td>{form.format(getattr(measure.divergence, field))}</td>" for field, _, form in _TEXT_COLUMNS
        )
        mark = " class=new" if measure.type in new else ""
        size = f"<td>{measure.bits_per_weight:.4f}</td>"
        rows.append(f"<tr{mark}><td class=type>{escape(measure.type)}</td><td>{i}</td>{size}{cells}</tr>")
    head = f"<tr><th class=type>type</th><th>no.</th><th>bits per weight</th>{headings}</tr>"
    return f"<div class=scroll><table>{head}\n{chr(10).join(rows)}</table></div>"


def _tensors(evaluation: Evaluation, new: Container[str]) -> str:
    """Make a table of the new types on every tensor, or of the worst tensors if they are many."""
    found = [m for m in evaluation.tensors if m.type in new] or list(evaluation.tensors)
    if not found:
        return ""
    which = "Every tensor"
    if len(found) > _MOST_TENSORS:
        which = f"The {_MOST_TENSORS} largest of {len(found)} errors"
        found = sorted(found, key=lambda m: -m.weighted_error)[:_MOST_TENSORS]
    return f"<details><summary>{which}</summary>{_table(found, new, tensors=True)}</details>"


def _missing(evaluation: Evaluation) -> str:
    """List the types that are not on the curve and why, and those that could not encode every tensor."""
    rows = [(entry.type, _without_folders(entry.reason)) for entry in evaluation.failed]
    partly = evaluation.incomplete()
    parts = []
    if rows:
        parts.append(f"<h2>Not on the curve</h2>\n{_reasons(rows)}")
    if partly:
        rows = [(name, _skipped(skips)) for name, skips in partly.items()]
        parts.append(f"<h2>Not every tensor</h2>\n{_reasons(rows)}")
    return "\n".join(parts)


def _skipped(skips: Sequence[Skipped]) -> str:
    more = f" and {len(skips) - 1} more" if len(skips) > 1 else ""
    return f"could not encode {skips[0].tensor}{more}: {_without_folders(skips[0].reason)}"


def _reasons(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><td class=type>{escape(name)}</td><td class=text>{escape(why)}</td></tr>" for name, why in rows
    )
    return f"<div class=scroll><table class=reasons>{cells}</table></div>"


def _conditions(evaluation: Evaluation) -> str:
    weights = max((total.weights for total in evaluation.totals), default=0)
    facts = [("file", _file(evaluation.path)), ("weights", f"{weights:,} in randomly chosen rows of every matrix")]
    facts.append(("importance", _file(evaluation.imatrix) if evaluation.imatrix else "none"))
    text = evaluation.text
    if text is not None:
        name = "" if text.file is None else f"{_file(text.file)}, "
        itself = f"perplexity {text.perplexity:.4f} as it is"
        facts.append(("text", f"{name}{text.chunks} chunks of {text.n_ctx} tokens, {itself}"))
    conditions = evaluation.conditions
    if conditions is not None:
        facts += [
            ("architecture", conditions.architecture or "unknown"),
            ("seed", str(conditions.seed)),
            ("date", conditions.date),
            ("processor", f"{conditions.cpu}, one thread"),
            ("system", conditions.system),
            ("versions", ", ".join(f"{name} {version}" for name, version in conditions.versions.items())),
        ]
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(text)}</dd>' for name, text in facts)}</dl>"


def _model(evaluation: Evaluation) -> str:
    name = evaluation.conditions and evaluation.conditions.model
    return f"{name} ({_file(evaluation.path)})" if name else _file(evaluation.path)


def _file(path: str) -> str:
    """Return the name of a file or folder without the folder that it is in, on any system."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


# A path from the root: "/home/me/x.gguf", "C:\\models\\x.gguf". Not "and/or", "m/s" or the rest of "https://a/b".
_FOLDERS = re.compile(r"(?<![\w.:/\\~])(?:~|[A-Za-z]:)?[\\/](?:[^\\/\s:'\"<>|()]+[\\/])+")


def _without_folders(text: str) -> str:
    """Shorten absolute paths in a message to the names of the files."""
    return _FOLDERS.sub("", text)
