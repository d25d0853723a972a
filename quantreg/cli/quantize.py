"""quantreg quantize"""

import os
import signal

import click

from quantreg.cli.show import bits, print_json, size

USAGE = "[OPTIONS] IN [OUT] TYPE [N]"


@click.command("quantize", options_metavar="[OPTIONS]")
@click.argument("arguments", nargs=-1, required=True, metavar="IN [OUT] TYPE [N]")
@click.option("--imatrix", metavar="FILE", help="Importance matrix, legacy .dat or GGUF.")
@click.option("--pure", is_flag=True, help="Every quantized tensor in the file type's own type, no mixture.")
@click.option("--leave-output-tensor", is_flag=True, help="Keep output.weight as it is.")
@click.option("--output-tensor-type", metavar="T", help="Type of output.weight.")
@click.option("--token-embedding-type", metavar="T", help="Type of token_embd.weight.")
@click.option(
    "--tensor-type", "tensor_types", multiple=True, metavar="REGEX=T", help="Type of tensors whose name matches."
)
@click.option("--allow-requantize", is_flag=True, help="Also quantize tensors that are quantized already.")
@click.option(
    "--override-kv", "overrides", multiple=True, metavar="K=T:V", help="Set metadata: key=int:5, float, bool, str."
)
@click.option("--prune-layers", metavar="L,L...", help="Leave these layers out.")
@click.option(
    "--include-weights", multiple=True, metavar="PART", help="Use only the imatrix entries with PART in their name."
)
@click.option(
    "--exclude-weights", multiple=True, metavar="PART", help="Do not use the imatrix entries with PART in it."
)
@click.option(
    "--no-fallback", is_flag=True, help="Refuse instead of falling back where rows do not divide into blocks."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the plan as JSON.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads; default: all processors.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def command(arguments, imatrix, dry_run, as_json, threads, force, tensor_types, overrides, prune_layers, **options):
    """Quantize the GGUF model IN to OUT.

    TYPE is a file type such as Q4_K_M, its number, or a quant type for all tensors. OUT is ggml-model-TYPE.gguf
    beside IN if it is left out. N is the number of threads. Of a split model give the first shard.
    """
    from quantreg import recipes

    source, out, file_type, count = _arguments(arguments)
    options["tensor_types"] = tuple(recipes.parse_tensor_type(text) for text in tensor_types)
    options["prune_layers"] = recipes.parse_layers(prune_layers) if prune_layers else ()
    options["override_kv"] = tuple(recipes.parse_override(text) for text in overrides)
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run.")
    if dry_run:
        _show_plan(source, file_type, imatrix, options, as_json)
        return
    _quantize(source, out, file_type, imatrix, threads or count, force, options)


def _arguments(arguments):
    """(IN, OUT, file type, threads or None) from 2 to 4 words."""
    from quantreg import recipes
    from quantreg.errors import UnknownFileTypeError
    from quantreg.registry import types

    def is_type(word):
        try:
            recipes.file_types.find(word, types)
        except UnknownFileTypeError:
            return False
        return True

    words = list(arguments)
    if not 2 <= len(words) <= 4:
        raise click.UsageError(f"expected IN [OUT] TYPE [N], got {len(words)} argument(s).")
    source = words.pop(0)
    if len(words) == 3 or (len(words) == 2 and not is_type(words[0])):
        out, name, rest = words[0], words[1], words[2:]
    else:
        out, name, rest = None, words[0], words[1:]
    count = None
    if rest:
        if not (rest[0].isascii() and rest[0].isdigit() and int(rest[0]) > 0):
            raise click.UsageError(f"{rest[0]!r} is no number of threads.")
        count = int(rest[0])
    file_type = recipes.file_types.find(name, types)
    if out is None:
        out = os.path.join(os.path.dirname(source), f"ggml-model-{file_type.name}.gguf")
    return source, out, file_type, count


def _show_plan(source, file_type, imatrix, options, as_json):
    import quantreg

    plan = quantreg.plan(source, file_type, imatrix=imatrix, check=False, **options)
    if as_json:
        print_json(plan.to_dict())
        return
    for index, tensor in enumerate(plan.tensors, 1):
        click.echo(_tensor_line(tensor, index, len(plan.tensors)))
    click.echo(_summary(plan))
    for warning in (*plan.problems, *plan.warnings):
        click.echo(f"warning: {warning}", err=True)


def _tensor_line(tensor, index, count):
    kinds = tensor.from_type if not tensor.converted else f"{tensor.from_type} -> {tensor.to_type}"
    shape = " x ".join(map(str, tensor.shape))
    return (
        f"[{index:4d}/{count:4d}] {tensor.name:<40} {shape:>16}  {kinds:<14} {size(tensor.bytes):>10}  {tensor.reason}"
    )


def _summary(plan):
    text = f"{size(plan.bytes)} of tensor data, {bits(plan.bits_per_weight)} bits per weight"
    if plan.fallbacks:
        text += f"; {len(plan.fallbacks)} tensors fell back, which costs {bits(plan.fallback_cost)} bits per weight"
    return text


def _quantize(source, out, file_type, imatrix, threads, force, options):
    import quantreg
    from quantreg.cli.progress import listener

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with listener() as listen:
        result = quantreg.quantize_file(
            source, out, file_type, imatrix, threads=threads, force=force, progress=listen, **options
        )
    click.echo(
        f"{out}: {size(result.source_size)} -> {size(result.size)} in {result.seconds:.1f} s; {_summary(result.plan)}"
    )
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
