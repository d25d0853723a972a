"""The subcommand `quantreg perplexity`."""

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from quantreg.cli.chunk_progress import chunk_progress
from quantreg.cli.show import print_json

if TYPE_CHECKING:
    from quantreg.quality import Divergence, Perplexity


@click.command("perplexity")
@click.argument("path", required=False, metavar="MODEL")
@click.option("-m", "--model", "other_path", metavar="FILE", hidden=True)  # llama-perplexity's name for MODEL
@click.option("-f", "--file", "text", metavar="TEXT", help="A file of text in UTF-8.")
@click.option("--ids", metavar="FILE", help="A file of token ids instead, as `llama-tokenize --ids` prints them.")
@click.option("-c", "--ctx-size", "n_ctx", type=int, metavar="N", help="Tokens of a chunk.  [default: 512]")
@click.option("--chunks", type=int, metavar="N", help="Evaluate at most N chunks.")
@click.option(
    "--kl-divergence-base", "--save-all-logits", "base", metavar="FILE",
    help="Write what the model predicts to this base file; with --kl-divergence, read it.",
)  # fmt: skip
@click.option("--kl-divergence", is_flag=True, help="Compare the model with the one that wrote the base file.")
@click.option("--against", metavar="MODEL2", help="Compare the model with MODEL2, which runs beside it.")
@click.option("-t", "--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: all processors]")
@click.option("--device", metavar="NAME", help="What computes the products: cpu, cuda, cuda:1 or mps.  [default: cpu]")
@click.option("--force", is_flag=True, help="Replace an existing base file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    path: str | None,
    other_path: str | None,
    text: str | None,
    ids: str | None,
    n_ctx: int | None,
    chunks: int | None,
    base: str | None,
    kl_divergence: bool,
    against: str | None,
    threads: int | None,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure how well MODEL predicts a text, and how far it is from another model.

    The text is cut into chunks of N tokens, each evaluated alone; the predictions in its second half count. The lines
    printed are those of llama-perplexity: the perplexity after each chunk, and the final one with its standard error.

    With --against, or with --kl-divergence and a base file, they are followed by statistics of the KL divergence from
    the other model's predictions, and of the change of the true token's probability (Δp). Base files are those of
    llama-perplexity. They hold their tokens, so that --kl-divergence needs no text.
    """
    path = _one_model(path, other_path)
    _check_options(text, ids, base, kl_divergence, against)
    if base and not kl_divergence and not force and os.path.exists(base):
        raise click.UsageError(
            f"{base} exists: add --kl-divergence to compare the model with it, or --force to replace it."
        )
    import quantreg
    from quantreg.quality import BaseFile, read_ids, read_text

    with ExitStack() as stack:
        opened_base = stack.enter_context(BaseFile(base)) if base and kl_divergence else None
        given = read_ids(ids) if ids else read_text(text) if text else None
        model = stack.enter_context(quantreg.load(path, threads, device))
        other = stack.enter_context(quantreg.load(against, threads, device)) if against else opened_base
        chunks = None if chunks == -1 else chunks  # llama-perplexity's "all"
        found: Divergence | Perplexity
        with chunk_progress(as_json) as progress:
            if other is not None:
                found = quantreg.kl_divergence(
                    model, other, given, n_ctx=n_ctx, chunks=chunks, threads=threads, progress=progress
                )
            else:
                assert given is not None  # _check_options
                n_ctx = 512 if n_ctx is None else n_ctx
                found = quantreg.perplexity(
                    model, given, n_ctx=n_ctx, chunks=chunks, save_base=base, force=force, threads=threads,
                    progress=progress,
                )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    elif isinstance(found, quantreg.Divergence):
        _print_divergence(found)
    else:
        click.echo(f"Final estimate: PPL = {found.perplexity:.4f} +/- {found.perplexity_error:.5f}")


def _one_model(path: str | None, other: str | None) -> str:
    """Return the model that was given as an argument or with -m."""
    if path is None and other is None:
        raise click.UsageError("Missing argument 'MODEL': give the GGUF file of a model.")
    if path is not None and other is not None:
        raise click.UsageError(f"Two models are given, {path} and {other}: give one; --against takes the base model.")
    return path or other or ""


def _check_options(
    text: str | None, ids: str | None, base: str | None, kl_divergence: bool, against: str | None
) -> None:
    if text and ids:
        raise click.UsageError("--file and --ids cannot be used together: give one of them.")
    if against and (base or kl_divergence):
        raise click.UsageError("--against runs the base model itself: leave out --kl-divergence and its base file.")
    if kl_divergence and not base:
        raise click.UsageError(
            "--kl-divergence needs a base file: give one with --kl-divergence-base, or the base model with --against."
        )
    if not (text or ids or kl_divergence):
        raise click.UsageError("There is no text: give a file with -f, or token ids with --ids.")


def _print_divergence(found: "Divergence") -> None:
    """Print the statistics as llama-perplexity does."""
    echo = click.echo
    echo("====== Perplexity statistics ======")
    for label, name in (
        ("Mean PPL(Q)", "perplexity"), ("Mean PPL(base)", "perplexity_base"), ("", "correlation"),
        ("Mean ln(PPL(Q)/PPL(base))", "log_ratio"), ("Mean PPL(Q)/PPL(base)", "ratio"),
        ("Mean PPL(Q)-PPL(base)", "difference"),
    ):  # fmt: skip
        if label:
            echo(f"{label:<30}: {getattr(found, name):10.6f} ± {getattr(found, f'{name}_error'):10.6f}")
        else:
            echo(f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * found.correlation:6.2f}%")
    echo("\n====== KL divergence statistics ======")
    echo(f"Mean    KLD: {found.kl_mean:10.6f} ± {found.kl_error:10.6f}")
    for label, name in _SHARES:
        if hasattr(found, f"kl_{name}"):
            echo(f"{label} KLD: {getattr(found, f'kl_{name}'):10.6f}")
    echo("\n====== Token probability statistics ======")
    echo(f"Mean    Δp: {100 * found.dp_mean:6.3f} ± {100 * found.dp_error:5.3f} %")
    for label, name in _SHARES:
        echo(f"{label} Δp: {100 * getattr(found, f'dp_{name}'):6.3f}%")
    echo(f"RMS Δp    : {100 * found.dp_rms:6.3f} ± {100 * found.dp_rms_error:5.3f} %")
    echo(f"Same top p: {100 * found.same_top:6.3f} ± {100 * found.same_top_error:5.3f} %")


# how llama-perplexity labels the quantiles, and their names here
_SHARES = (
    ("Maximum", "max"), ("99.9%  ", "99_9"), ("99.0%  ", "99"), ("95.0%  ", "95"), ("90.0%  ", "90"),
    ("75.0%  ", "75"), ("Median ", "median"), ("25.0%  ", "25"), ("10.0%  ", "10"), (" 5.0%  ", "5"),
    (" 1.0%  ", "1"), (" 0.1%  ", "0_1"), ("Minimum", "min"),
)  # fmt: skip
