"""The subcommand `quantreg estimate`."""

import os
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.show import bits, print_json, printable, size, table, warn
from quantreg.words import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantreg.jobs.estimate import FileEstimate, ModelEstimate

_MODEL_SUFFIXES = (".gguf", ".safetensors", ".safetensors.index.json")


@click.command("estimate")
@click.argument("model", metavar="SIZE|MODEL")
@click.option(
    "--type",
    "names",
    multiple=True,
    metavar="TYPE",
    help="A type such as Q4_K or a file type such as Q4_K_M. Can be repeated. Without it, all file types are listed.",
)
@click.option(
    "--memory",
    metavar="BYTES",
    help="The memory that a model may take to run, such as 8GB or 7.5GiB: which file types fit. Needs MODEL.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="How many tokens of context must fit. [default: 8192, or what the model was trained on if that is less]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, names: tuple[str, ...], memory: str | None, context: int | None, as_json: bool) -> None:
    """Compute how large a model is in each type, and which types fit in a memory. GB are 10^9 bytes.

    SIZE is a number of weights, such as 7B or 350M. In a type such as Q4_K, each weight takes the same number of bits.
    A file type such as Q4_K_M mixes types, so the size depends on the shape of the model: quantreg plans a published
    Llama model of about this size, and says which. A name that is both, such as Q4_0, means the type.

    MODEL is a GGUF or safetensors file. FILE is the size of what `quantreg quantize MODEL OUT TYPE` would write. TOTAL
    is what it takes to run: the file, the key-value cache of the context, and working memory. With one --type and
    neither --memory nor --context, it prints the size of the tensors alone.
    """
    from quantreg.sizes import parse_params

    if os.path.isfile(model) or model.endswith(_MODEL_SUFFIXES):
        _estimate_file(model, names, memory, context, as_json)
        return
    try:
        weights = parse_params(model)
    except ValueError as error:
        if os.path.exists(model):  # a folder with a model
            _estimate_file(model, names, memory, context, as_json)
            return
        raise click.BadParameter(str(error)) from None
    if memory is not None or context is not None:
        raise click.UsageError(
            "--memory and --context need the file of a model: how large the cache of its context is does not follow "
            "from the number of weights"
        )
    _estimate_size(model, weights, names, as_json)


def _estimate_size(given: str, weights: float, names: tuple[str, ...], as_json: bool) -> None:
    from quantreg.recipes import file_types
    from quantreg.recipes.estimates import estimate

    wanted: list[Any] = list(names) or [file_type for file_type in file_types.values() if not file_type.only_copy]
    found = [estimate(weights, name) for name in wanted]
    if as_json:
        print_json({"params": given, "types": [estimated.to_dict() for estimated in found]})
    elif len(found) == 1:
        click.echo(f"{found[0].bytes / 1e9:{'.3g' if found[0].assumed else '.10g'}} GB")
    else:
        found.sort(key=lambda estimated: estimated.bytes)
        rows = [(e.type, size(e.bytes), bits(e.bits_per_weight)) for e in found]
        table(["FILE TYPE" if not names else "TYPE", ">SIZE", ">BITS PER WEIGHT"], rows)
    for assumed in dict.fromkeys(e.assumed for e in found if e.assumed):
        click.echo(assumed, err=True)


def _estimate_file(path: str, names: tuple[str, ...], memory: str | None, context: int | None, as_json: bool) -> None:
    import quantreg

    estimated = quantreg.estimate_model(path, names or None, memory=memory, context=context)
    if as_json:
        print_json(estimated.to_dict())
        return
    if len(estimated.types) == 1 and names and memory is None and context is None:
        plan = estimated.types[0].plan
        click.echo(f"{plan.bytes / 1e9:.10g} GB")
        warn((*plan.problems, *plan.warnings))
        return
    run = estimated.run
    totals, verdict = [">TOTAL"] if run else [], ["FITS"] if memory else []
    headings = ["FILE TYPE", ">FILE", *totals, ">BITS PER WEIGHT", *verdict, "REMARK"]
    rows = []
    for e in estimated.types:
        total = [] if e.total is None else [size(e.total)]
        fits = [] if e.fits is None else ["yes" if e.fits else "no"]
        rows.append((e.type, size(e.file_bytes), *total, bits(e.bits_per_weight), *fits, _remark(e)))
    table(headings, rows)
    for name, reason in estimated.refused.items():
        click.echo(printable(f"{name}: {reason}"), err=True)
    for line in _notes(estimated):
        click.echo(printable(line), err=not memory)


def _notes(estimated: "ModelEstimate") -> "Iterator[str]":
    """Say what the total counts, and what to do with the memory."""
    run = estimated.run
    if run is None:
        yield f"The memory that the model takes to run is not known: {estimated.unknown}"
        return
    cache = f"a cache of {size(run.cache)} (F16) for {count(run.context, 'token')} of context"
    yield f"The total is the file, {cache}, and about {size(run.working)} of working memory."
    if run.context > run.trained:
        yield f"The model was trained on {run.trained} tokens: it may not follow a text of {run.context}."
    if estimated.memory is None or estimated.target is None:
        return
    memory = size(estimated.memory)
    if estimated.best is None:
        smallest = min((e.total or 0 for e in estimated.types), default=0)
        yield f"Nothing fits in {memory}: the smallest takes {size(smallest)}. A smaller --context takes less."
        return
    best = estimated.best
    imatrix = ", with an imatrix" if best.needs_imatrix else ""
    yield f"The best file type that fits in {memory}: {best.type}{imatrix}."
    largest = max(e.file_bytes for e in estimated.types)
    if estimated.target < largest and best.file_bytes < estimated.target:
        target = f"quantreg quantize --calibration TEXT --target-size {estimated.target // 10**6}MB"
        yield f"A better choice of types for exactly this memory: {target}"


def _remark(estimated: "FileEstimate") -> str:
    """Say in a few words what a user should know before choosing this file type."""
    remarks = []
    if estimated.needs_imatrix:
        remarks.append("needs an imatrix")
    fallbacks = len(estimated.plan.fallbacks)
    if fallbacks:
        remarks.append(f"{count(fallbacks, 'tensor')} in a larger type")
    return ", ".join(remarks)
