"""quantreg evaluate"""

import csv
import sys
from contextlib import nullcontext

import click

from quantreg.cli.show import bits, print_json, printable, table

FIELDS = (
    "type", "tensor", "weights", "bits_per_weight", "rmse", "error", "weighted_error", "max_error", "cosine",
    "encode_speed", "decode_speed",
)  # fmt: skip


@click.command("evaluate")
@click.argument("names", nargs=-1, required=True, metavar="TYPE...")
@click.option("--on", "path", required=True, metavar="FILE", help="GGUF model to take the weights from, such as F16.")
@click.option("--imatrix", metavar="FILE", help="Importance matrix, legacy .dat or GGUF.")
@click.option("--sample", default="2M", metavar="N", show_default=True, help="How many weights to sample: 500k, 10M.")
@click.option("--seed", default=0, metavar="N", show_default=True, help="Another seed takes other rows.")
@click.option("--tensors", is_flag=True, help="Also a line for each tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a line for each type and tensor.")
@click.option("--html", metavar="FILE", help="Also measure the built-in types, and write the curve as a web page.")
def command(names, path, imatrix, sample, seed, tensors, as_json, as_csv, html):
    """Measure how well each TYPE keeps the weights of a model: on a random sample of its rows, in one thread.

    On the page of --html the types of plugins stand out among the built-in ones; without any, each TYPE does.

    ERROR is the root mean square error as a share of the weights' root mean square; WEIGHTED counts each column by its
    calibration statistics; MAX is the largest error of a weight. ENCODE and DECODE are millions of weights a second.
    """
    from quantreg.evaluation import built_in_types, evaluate, page
    from quantreg.registry import registry, types
    from quantreg.sizes import parse_params

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    try:
        count = int(parse_params(sample))
    except ValueError:
        raise click.BadParameter(f"--sample {sample!r}: expected a number of weights such as 500k or 10M") from None
    chosen = list(dict.fromkeys(types[name].name for name in names))
    others = [name for name in built_in_types() if name not in chosen] if html else []
    with _page_file(html, path, imatrix) as file:
        found = evaluate(path, [*chosen, *others], imatrix, sample=count, seed=seed)
        if file:
            own = [name for name in chosen if not registry.is_built_in(name)]
            file.write(page(found, own or chosen).encode())
    if html:
        click.echo(f"{html}: the curve, with {len(others)} other built-in types", err=True)
    if as_json:
        print_json(found.to_dict())
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(measure.to_dict() for measure in found.tensors)
    else:
        _print(found, tensors)


def _page_file(html, *read):
    """Replaces an older page but none of the files that are read, and is refused before anything is measured."""
    from quantreg.storage import AtomicFile

    return AtomicFile(html, force=True, source=[path for path in read if path]) if html else nullcontext()


def _print(found, tensors):
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
        click.echo(printable(f"{name} left out {tensor}{more}: {reason}"), err=True)


def _cells(m):
    return [
        bits(m.bits_per_weight), f"{m.error:.2%}", f"{m.weighted_error:.2%}", f"{m.rmse:.3g}", f"{m.max_error:.3g}",
        f"{m.cosine:.6f}", f"{m.encode_speed:.1f} M/s", f"{m.decode_speed:.1f} M/s",
    ]  # fmt: skip
