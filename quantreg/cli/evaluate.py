"""The subcommand `quantreg evaluate`."""

import csv
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from quantreg.cli.show import bits, count, print_json, printable, table

if TYPE_CHECKING:
    from quantreg.evaluation import Evaluation, Measure
    from quantreg.storage import AtomicFile

_FIELDS = (
    "type", "tensor", "weights", "bits_per_weight", "rmse", "error", "weighted_error", "max_error", "cosine",
    "encode_speed", "decode_speed",
)  # fmt: skip


@click.command("evaluate")
@click.argument("names", nargs=-1, required=True, metavar="TYPE...")
@click.option(
    "--on", "path", required=True, metavar="FILE", help="The GGUF model to take weights from, best in F16, BF16 or F32."
)
@click.option("--imatrix", metavar="FILE", help="Importance matrix: GGUF or the older .dat format.")
@click.option("--sample", default="2M", metavar="N", show_default=True, help="How many weights to sample: 500k, 10M.")
@click.option("--seed", default=0, metavar="N", show_default=True, help="Selects the random rows.")
@click.option("--tensors", is_flag=True, help="Also print one line per type and tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per type and tensor.")
@click.option(
    "--html",
    metavar="FILE",
    help="Also measure the built-in types, and write a web page with the curve of error against bits per weight.",
)
def command(
    names: tuple[str, ...],
    path: str,
    imatrix: str | None,
    sample: str,
    seed: int,
    tensors: bool,
    as_json: bool,
    as_csv: bool,
    html: str | None,
) -> None:
    """Measure how well each TYPE preserves the weights of a model, on a random sample of its rows.

    BPW is bits per weight. RMSE is the root mean square error and MAX the largest error of a weight, both in units of
    the weights. ERROR is RMSE divided by the root mean square of the weights. WEIGHTED is the same with each column
    weighted by the imatrix. COSINE is the cosine similarity of the weights before and after. ENCODE and DECODE are
    speeds in millions of weights per second, in one thread.

    The page of --html highlights the given types that come from plugins, or all given types if none does.
    """
    import quantreg
    from quantreg.evaluation import built_in_types, page
    from quantreg.registry import registry, types
    from quantreg.sizes import parse_params

    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot be used together: give one of them.")
    try:
        weights = int(parse_params(sample))
    except ValueError:
        raise click.BadParameter(f"--sample {sample!r}: expected a number of weights such as 500k or 10M") from None
    chosen = list(dict.fromkeys(types[name].name for name in names))
    others = [name for name in built_in_types() if name not in chosen] if html else []
    with _page_file(html, path, imatrix) as file:
        found = quantreg.evaluate(path, [*chosen, *others], imatrix, sample=weights, seed=seed)
        if file:
            own = [name for name in chosen if not registry.is_built_in(name)]
            file.write(page(found, own or chosen).encode())
    if html:
        click.echo(f"{html}: the curve, together with {count(len(others), 'other built-in type')}", err=True)
    if as_json:
        print_json(found.to_dict())
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, _FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(measure.to_dict() for measure in found.tensors)
    else:
        _print(found, tensors)


def _page_file(html: str | None, *read: str | None) -> "AbstractContextManager[AtomicFile | None]":
    """Open the page, so that a path that cannot be written is refused before anything is measured.

    An older page is replaced, but never one of the files in ``read``.
    """
    from quantreg.storage import AtomicFile

    return AtomicFile(html, force=True, source=[path for path in read if path]) if html else nullcontext()


def _print(found: "Evaluation", tensors: bool) -> None:
    headings = [">BPW", ">ERROR", ">WEIGHTED", ">RMSE", ">MAX", ">COSINE", ">ENCODE", ">DECODE"]
    ordered = sorted(found.totals, key=lambda measure: (measure.bits_per_weight, measure.weighted_error))
    table(["TYPE", *headings], [[measure.type, *_cells(measure)] for measure in ordered])
    if tensors:
        click.echo()
        rows = [[measure.tensor, measure.type, *_cells(measure)] for measure in found.tensors]
        table(["TENSOR", "TYPE", *headings], rows)
    for name in dict.fromkeys(name for name, *_ in found.skipped):
        reasons = [(tensor, reason) for kind, tensor, reason in found.skipped if kind == name]
        tensor, reason = reasons[0]
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        click.echo(printable(f"{name} could not encode {tensor}{more}: {reason}"), err=True)


def _cells(m: "Measure") -> list[str]:
    return [
        bits(m.bits_per_weight), f"{m.error:.2%}", f"{m.weighted_error:.2%}", f"{m.rmse:.3g}", f"{m.max_error:.3g}",
        f"{m.cosine:.6f}", f"{m.encode_speed:.1f} M/s", f"{m.decode_speed:.1f} M/s",
    ]  # fmt: skip
