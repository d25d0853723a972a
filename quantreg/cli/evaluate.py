"""The subcommand `quantreg evaluate`."""

import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantreg.cli.show import bits, print_json, printable, table
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg.evaluation import Evaluation, Measure, Step, TextResult
    from quantreg.storage import AtomicFile

_FIELDS = (
    "type", "tensor", "weights", "bits_per_weight", "rmse", "error", "weighted_error", "max_error", "cosine",
    "encode_speed", "decode_speed", "file_type", "encoded_as",
)  # fmt: skip
_QUIET = 10.0  # seconds between two lines of progress where there is no terminal


@click.command("evaluate")
@click.argument("names", nargs=-1, required=True, metavar="TYPE...")
@click.option(
    "--on", "path", required=True, metavar="FILE", help="The model to take weights from, best in F16, BF16 or F32."
)
@click.option("--imatrix", metavar="FILE", help="Importance matrix: GGUF or the older .dat format.")
@click.option("--sample", default="2M", metavar="N", show_default=True, help="How many weights to sample: 500k, 10M.")
@click.option("--seed", default=0, metavar="N", show_default=True, help="Selects the random rows.")
@click.option(
    "-f", "--file", "text", metavar="TEXT", help="Also run the model in each type on this text: KL divergence."
)
@click.option(
    "-c",
    "--ctx-size",
    "n_ctx",
    type=int,
    default=512,
    metavar="N",
    show_default=True,
    help="Tokens of a chunk of TEXT.",
)
@click.option("--chunks", type=int, metavar="N", help="Use at most N chunks of TEXT.")
@click.option(
    "-t", "--threads", type=click.IntRange(min=1), metavar="N", help="Threads of -f.  [default: all processors]"
)
@click.option("--tensors", is_flag=True, help="Also print one line per type and tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per type and tensor.")
@click.option(
    "--html",
    metavar="FILE",
    help="Also measure the built-in types, and write a web page with the curve of error against bits per weight.",
)
@click.pass_context
def command(
    ctx: click.Context,
    names: tuple[str, ...],
    path: str,
    imatrix: str | None,
    sample: str,
    seed: int,
    text: str | None,
    n_ctx: int,
    chunks: int | None,
    threads: int | None,
    tensors: bool,
    as_json: bool,
    as_csv: bool,
    html: str | None,
) -> None:
    """Measure how well each TYPE preserves the weights of a model, on a random sample of its rows.

    TYPE is a type such as Q4_K, or a file type such as Q4_K_M, which gives each tensor the type that
    `quantreg quantize` would give it. A name that is both, such as Q4_0, means the type.

    BPW is bits per weight: of a type on the sample, of a file type over all tensors of the model. RMSE is the root mean
    square error and MAX the largest error of a weight, both in units of the weights. ERROR is RMSE divided by the root
    mean square of the weights. WEIGHTED is the same with each column weighted by the imatrix. COSINE is the cosine
    similarity of the weights before and after. ENCODE and DECODE are speeds in millions of weights per second, in one
    thread.

    With -f, each TYPE also becomes the weights of the whole model, in memory, as `quantreg quantize --pure
    --on-missing-importance fallback` would write it. A second table shows how far the predictions of the text then are
    from those of the model as it is: the mean KL divergence in nats (KL), its standard error and 99 % quantile, how
    often both have the same most probable token, and the perplexity (PPL). BPW is that of the whole model there. The
    predictions of the model as it is wait in a temporary file, of 2 bytes per predicted token and token of the
    vocabulary; --chunks limits it, and the time.

    A TYPE that cannot be measured is named with the reason, the others are shown, and the command exits with code 1.

    The page of --html highlights the given types that come from plugins, or all given types if none does.
    """
    import quantreg
    from quantreg.evaluation import built_in_types, page
    from quantreg.recipes import FileType
    from quantreg.recipes.catalog import type_or_file_type
    from quantreg.registry import registry
    from quantreg.sizes import parse_count

    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot be used together: give one of them.")
    if as_csv and text:
        raise click.UsageError("--csv has a line per tensor, which has no KL divergence: use --json with -f.")
    if text is None and chunks is not None:
        raise click.UsageError("--chunks needs a text: give a file with -f.")
    try:
        weights = parse_count(sample)
    except ValueError as error:
        raise click.BadParameter(f"--sample {error}") from None
    given = [type_or_file_type(name) for name in names]
    chosen = list(dict.fromkeys(found.name for found in given))
    others = [name for name in built_in_types(importance=True) if name not in chosen] if html else []
    with _page_file(html, path, imatrix, text) as file:
        with _progress() as progress:
            found = quantreg.evaluate(
                path, [*chosen, *others], imatrix, sample=weights, seed=seed,
                text=None if text is None else Path(text), n_ctx=n_ctx, chunks=None if chunks == -1 else chunks,
                threads=threads, progress=progress,
            )  # fmt: skip
        if file:
            own = [known.name for known in given if not isinstance(known, FileType) and not registry.is_built_in(known)]
            file.write(page(found, own or chosen).encode())
    if html:
        shown = sum(total.type in others for total in found.totals)
        click.echo(f"{html}: the curve, together with {count(shown, 'other built-in type')}", err=True)
    if as_json:
        print_json(found.to_dict())
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, _FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(measure.to_dict() for measure in found.tensors)
    else:
        _print(found, tensors)
    _print_missing(found)
    if any(failure.type in chosen for failure in found.failed):
        ctx.exit(1)


def _page_file(html: str | None, *read: str | None) -> "AbstractContextManager[AtomicFile | None]":
    """Open the page, so that a path that cannot be written is refused before anything is measured.

    An older page is replaced, but never one of the files in ``read``.
    """
    from quantreg.storage import AtomicFile

    return AtomicFile(html, force=True, source=[path for path in read if path]) if html else nullcontext()


@contextmanager
def _progress() -> "Iterator[Callable[[Step], object]]":
    """Give the callable to pass as ``progress=``: a bar on a terminal, elsewhere a line every 10 seconds."""
    if sys.stderr is None or not sys.stderr.isatty():  # None if the stream is closed
        told = time.monotonic()

        def tell(step: "Step") -> None:
            nonlocal told
            if time.monotonic() - told >= _QUIET:
                told = time.monotonic()
                where = f"{step.type} on {step.tensor}"
                click.echo(printable(f"[{step.done / max(1, step.total):4.0%}] {where}"), err=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    ]  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the header", total=None)

        def show(step: "Step") -> None:
            name = printable(step.tensor)
            name = name if len(name) <= 36 else "..." + name[-33:]
            bar.update(task, total=step.total, completed=step.done, description=f"{name:<36} {step.type:>8}")

        yield show


def _print(found: "Evaluation", tensors: bool) -> None:
    from quantreg.evaluation.results import by_size

    headings = [">BPW", ">ERROR", ">WEIGHTED", ">RMSE", ">MAX", ">COSINE", ">ENCODE", ">DECODE"]
    table(["TYPE", *headings], [[measure.type, *_cells(measure)] for measure in by_size(found.totals)])
    if tensors:
        click.echo()
        rows = [[measure.tensor, _encoded_as(measure), *_cells(measure)] for measure in found.tensors]
        table(["TENSOR", "TYPE", *headings], rows)

    if found.text is not None:
        _print_text(found.text)


def _print_text(text: "TextResult") -> None:
    """Print what the types do to predictions."""
    chunks = f"{count(text.chunks, 'chunk')} of {text.n_ctx} tokens"
    itself = f"the model as it is has PPL {text.perplexity:.4f} +/- {text.perplexity_error:.4f}"
    click.echo(f"\n{printable(text.file or 'the text')}, {chunks}: {itself}\n")
    rows = []
    for measure in sorted(text.types, key=lambda m: (m.bits_per_weight, m.divergence.kl_mean)):
        d = measure.divergence
        rows.append([
            measure.type, bits(round(measure.bits_per_weight, 4)), f"{d.kl_mean:.5f}", f"{d.kl_error:.5f}",
            f"{d.kl_99:.4f}", f"{d.same_top:.2%}", f"{d.perplexity:.4f}",
        ])  # fmt: skip
    table(["TYPE", ">BPW", ">KL", ">+/-", ">KL 99%", ">SAME TOP", ">PPL"], rows)


def _print_missing(found: "Evaluation") -> None:
    """Name what could not be measured: whole types, then types that could not encode every tensor."""
    for failure in found.failed:
        named = failure.reason.startswith(failure.type)
        click.echo(printable(failure.reason if named else f"{failure.type}: {failure.reason}"), err=True)
    for name, skips in found.incomplete().items():
        more = f" and {len(skips) - 1} more" if len(skips) > 1 else ""
        click.echo(printable(f"{name} could not encode {skips[0].tensor}{more}: {skips[0].reason}"), err=True)


def _encoded_as(measure: "Measure") -> str:
    return f"{measure.type}: {measure.encoded_as}" if measure.file_type else measure.type


def _cells(m: "Measure") -> list[str]:
    return [
        bits(m.bits_per_weight), f"{m.error:.2%}", f"{m.weighted_error:.2%}", f"{m.rmse:.3g}", f"{m.max_error:.3g}",
        f"{m.cosine:.6f}", _speed(m.encode_speed), _speed(m.decode_speed),
    ]  # fmt: skip


def _speed(value: float) -> str:
    """Format a speed; "-" if nothing was encoded."""
    return f"{value:.1f} M/s" if value else "-"
