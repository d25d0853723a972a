"""The subcommand `quantreg imatrix`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.chunk_progress import chunk_progress
from quantreg.cli.show import printable, warn
from quantreg.cli.stopping import stop_as_ctrl_c_does
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg import ImportanceMatrix

_COUNT = click.IntRange(min=0)


@click.command("imatrix")
@click.argument("path", required=False, metavar="[MODEL]")
@click.option("-m", "--model", "other_path", metavar="FILE", hidden=True)  # llama-imatrix's name for MODEL
@click.option("-f", "--file", "text", metavar="TEXT", help="A file of text in UTF-8.")
@click.option("--ids", metavar="FILE", help="A file of token ids instead, as `llama-tokenize --ids` prints them.")
@click.option(
    "-o", "--output", "--output-file", "out", metavar="FILE", help="The file to write.  [default: imatrix.gguf]"
)
@click.option("-c", "--ctx-size", "n_ctx", type=int, metavar="N", help="Tokens of a chunk.  [default: 512]")
@click.option("--chunks", type=int, metavar="N", help="Use at most N chunks.")
@click.option("--from-chunk", "--chunk", type=_COUNT, default=0, metavar="N", help="Leave out the first N chunks.")
@click.option("--process-output", is_flag=True, help="Collect for output.weight, too.")
@click.option("--parse-special", is_flag=True, help="Take special tokens in the text as tokens, not as text.")
@click.option("--no-ppl/--ppl", help="Do not measure the perplexity.")
@click.option(
    "--output-frequency", "-ofreq", type=_COUNT, default=10, metavar="N", show_default=True,
    help="Write FILE every N chunks (0: only at the end).",
)  # fmt: skip
@click.option("--save-frequency", type=_COUNT, default=0, metavar="N", help="Keep a copy every N chunks, as FILE.at_N.")
@click.option(
    "--output-format", "form", type=click.Choice(["gguf", "dat"]), help="GGUF, or the legacy format.  [default: gguf]"
)
@click.option("--in-file", "parts", multiple=True, metavar="FILE", help="Add the sums of this imatrix. Repeatable.")
@click.option("--show-statistics", is_flag=True, help="Print statistics of the imatrix given with --in-file.")
@click.option("-t", "--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: all processors]")
@click.option("--device", metavar="NAME", help="What computes the products: cpu, cuda, cuda:1 or mps.  [default: cpu]")
@click.option("--force", is_flag=True, help="Replace an existing FILE, also one of an unfinished run.")
def command(
    path: str | None,
    other_path: str | None,
    text: str | None,
    ids: str | None,
    out: str | None,
    form: str | None,
    parts: tuple[str, ...],
    show_statistics: bool,
    n_ctx: int | None,
    force: bool,
    **options: Any,
) -> None:
    """Collect which input columns of each tensor of MODEL matter on a text: an importance matrix.

    `quantreg quantize --imatrix` and llama-quantize read the file. It holds the sums of the squared inputs of each
    matrix of the layers. The text is cut into chunks of N tokens, each evaluated alone; the lines printed are those of
    llama-imatrix: the perplexity after each chunk, and the final one.

    FILE is written every ten chunks. If the run is stopped, the same command goes on with it.

    Without a text, the command adds up the matrices given with --in-file, or converts the only one, and needs no MODEL.
    With --show-statistics it prints statistics of each tensor instead.
    """
    if n_ctx is not None and n_ctx < 1:
        raise click.UsageError(f"-c is {n_ctx}: a chunk has at least 1 token.")
    if show_statistics:
        _show(parts)
        return
    _check_texts(path, other_path, text, ids, parts)
    out = out or f"imatrix.{form or 'gguf'}"
    if text or ids:
        _collect(
            path or other_path or "", text, ids, out, n_ctx or 512, force=force, form=form, parts=parts,
            **options,
        )  # fmt: skip
    else:
        _combine(parts, out, form, n_ctx, force)


def _check_texts(
    path: str | None, other_path: str | None, text: str | None, ids: str | None, parts: tuple[str, ...]
) -> None:
    if path and other_path:
        raise click.UsageError(f"Two models are given, {path} and {other_path}: give one.")
    if text and ids:
        raise click.UsageError("--file and --ids cannot be used together: give one of them.")
    if (text or ids) and not (path or other_path):
        raise click.UsageError("Missing argument 'MODEL': give the GGUF file of the model that the text runs through.")
    if not (text or ids or parts):
        raise click.UsageError(
            "There is no text: give a file with -f, or token ids with --ids; or matrices to add up, with --in-file."
        )


def _collect(
    path: str,
    text: str | None,
    ids: str | None,
    out: str,
    n_ctx: int,
    *,
    form: str | None,
    parts: tuple[str, ...],
    threads: int | None,
    device: str | None,
    no_ppl: bool,
    chunks: int | None,
    **options: Any,
) -> None:
    import quantreg
    from quantreg.quality import Saved, read_ids, read_text
    from quantreg.storage import AtomicFile

    AtomicFile(out, force=True, source=[path, *filter(None, (text, ids))]).check()
    form = _format(out, form)
    saved: list[Saved] = []
    figures: list[Any] = []
    given = read_ids(ids) if ids else read_text(text or "")

    stop_as_ctrl_c_does()
    try:
        with quantreg.load(path, threads, device) as model, chunk_progress() as progress:

            def listen(event: Any) -> None:
                if isinstance(event, Saved):
                    saved.append(event)
                    return
                if getattr(event, "done", 0):
                    kept = f"{event.done} of {count(event.chunks, 'chunk')}"
                    click.echo(f"note: {printable(out)} holds {kept} of this run, which goes on from there", err=True)
                figures.append(event)
                progress(event)

            matrix = quantreg.collect_imatrix(
                model, given, n_ctx=n_ctx, chunks=None if chunks == -1 else chunks, perplexity=not no_ppl,
                add_to=parts, dataset=text or ids, out=out, output_format=form, threads=threads, progress=listen,
                **options,
            )  # fmt: skip
    except BaseException:
        if saved and not saved[-1].finished:
            _tell_how_to_go_on(saved[-1].path, saved[-1].chunks, options["from_chunk"], form)
        raise
    if not no_ppl:
        last = figures[-1]
        click.echo(f"Final estimate: PPL = {last.perplexity:.4f} +/- {last.perplexity_error:.5f}")
    _summarize(out, matrix, saved[-1].notes)


def _tell_how_to_go_on(out: str, chunks: int, first: int, form: str) -> None:
    if sys.stderr is None:
        return
    how = (
        "run the same command to go on"
        if form == "gguf"
        else f"run the same command with --in-file {printable(out)} --from-chunk {first + chunks} to go on"
    )
    click.echo(f"quantreg: {count(chunks, 'chunk')} of the text are kept in {printable(out)}: {how}", err=True)


def _format(out: str, form: str | None) -> str:
    """Return the format, after a warning if none is given and the name of the file says another one."""
    if form is None and not out.endswith(".gguf"):
        warn([f"{out} will be a GGUF file, whatever its name says: --output-format dat gives the legacy format"])
    return form or "gguf"


def _combine(parts: tuple[str, ...], out: str, form: str | None, n_ctx: int | None, force: bool) -> None:
    import quantreg
    from quantreg.storage import AtomicFile

    AtomicFile(out, force=force, source=parts).check()
    matrix = quantreg.ImportanceMatrix.combined(parts, chunk_size=n_ctx)
    _summarize(out, matrix, matrix.write(out, format=_format(out, form), force=force))


def _summarize(out: str, matrix: "ImportanceMatrix", notes: "tuple[str, ...] | list[str]") -> None:
    entries = "1 entry" if len(matrix) == 1 else f"{len(matrix)} entries"
    click.echo(f"{printable(out)}: {entries}, {count(matrix.chunk_count, 'chunk')} of {matrix.chunk_size}")
    warn(notes)


def _show(parts: tuple[str, ...]) -> None:
    """Print the two tables of llama-imatrix."""
    if len(parts) != 1:
        raise click.UsageError("--show-statistics needs one imatrix: give it with --in-file.")
    import quantreg
    from quantreg.importance import by_layer

    matrix = quantreg.ImportanceMatrix.read(parts[0])
    tensors = matrix.statistics()
    click.echo(f"\nComputing statistics for {printable(parts[0])} ({len(tensors)} tensors)")
    click.echo("\n" + "\t".join(_HEADINGS))
    click.echo("=" * 169)
    for t in tensors:
        layer = "-" if t.layer is None else t.layer
        click.echo(
            f"{layer:>5}\t{printable(t.role):<20}\t{t.total:10.2f}\t{t.least:8.4f}\t{t.most:11.4f}\t{t.mean:6.2f}\t"
            f"{t.deviation:6.2f}\t{100 * t.active:8.2f}%\t{t.n_values:6d}\t{t.entropy:10.4f}\t"
            f"{100 * t.relative_entropy:6.2f}%\t{100 * t.outliers:10.2f}%\t{t.cosine:8.4f}"
        )
    layers = by_layer(tensors)
    click.echo(f"\nComputing weighted average statistics per layer ({len(layers)} layers)")
    click.echo("\n  Layer\t     μΣ(Act²)\t      μZD\tμCosSim")
    click.echo("=" * 48)
    for each in layers:
        click.echo(f"{each.layer:5d}\t{each.total:14.2f}\t{100 * each.outliers:10.4f}%\t{each.cosine:6.4f}")
    click.echo()
    warn(matrix.warnings)


_HEADINGS = (
    " Layer", "       Tensor", "          Σ(Act²)", "  Min", "            Max", "           μ", "   σ", " % Active",
    "N", "   Entropy", "E (norm)", "ZD", "  CosSim",
)  # fmt: skip
