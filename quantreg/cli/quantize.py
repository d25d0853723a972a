"""quantreg quantize"""

import os
import signal

import click

from quantreg.cli.plan_options import PlanCommand, default_output, find_file_type, plan_options, to_keywords
from quantreg.cli.show import plan_summary, print_json, printable, size, warn


@click.command("quantize", cls=PlanCommand, options_metavar="[OPTIONS]")
@click.argument("arguments", nargs=-1, required=True, metavar="IN [OUT] TYPE [N]")
@plan_options
@click.option("--plan", "plan_file", metavar="FILE", help="Types from a plan (see `quantreg plan`) instead of TYPE.")
@click.option("--split-max-size", metavar="SIZE", help="Write shards with up to this much tensor data: 4G, 500M.")
@click.option("--split-max-tensors", type=click.IntRange(1), metavar="N", help="Write shards with up to N tensors.")
@click.option(
    "--max-buffer-size", type=click.IntRange(1), metavar="MIB", expose_value=False,
    help="Accepted and not needed: memory is some 20 MB a thread, whatever the tensors' size.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the plan as JSON.")
@click.option("--log-json", is_flag=True, help="Progress and result as JSON, an object a line, on stdout.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads; default: all processors.")
@click.option("--resumable", is_flag=True, help="If stopped, keep what is done in OUT.partial.")
@click.option("--resume", is_flag=True, help="Go on with OUT.partial, or start a resumable run.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.pass_context
def command(
    ctx, arguments, plan_file, split_max_size, split_max_tensors, dry_run, as_json, log_json, threads, resumable,
    resume, force, **given,
):  # fmt: skip
    """Quantize the GGUF or safetensors model IN to OUT.

    TYPE is a file type such as Q4_K_M, its number (see `quantreg file-types`), or a quant type for all tensors. OUT is
    ggml-model-TYPE.gguf beside IN if it is left out. N is the number of threads. Of a split model give the first shard.
    """
    import quantreg

    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run.")
    if sum(map(bool, (given["keep_split"], split_max_size, split_max_tensors))) > 1:
        raise click.UsageError("--keep-split, --split-max-size and --split-max-tensors exclude each other.")
    source, out, file_type, count = _arguments(arguments, planned=plan_file is not None)
    if plan_file is not None:
        imatrix = None
        _refuse_beside_a_plan(ctx, given)
        options = {"names": given["names"]}
        file_type = quantreg.read_plan(plan_file, source, **options)
        out = out or default_output(source, file_type.file_type)
    else:
        options = to_keywords(given)
        imatrix = options.pop("imatrix")
    _refuse_to_replace(out, plan_file, given["names"])
    if dry_run:
        _show_plan(source, file_type, imatrix, options, as_json)
        return
    _quantize(
        source, out, file_type, imatrix, log_json, threads=threads or count, resumable=resumable or resume,
        resume=resume, force=force, split_max_size=split_max_size, split_max_tensors=split_max_tensors, **options,
    )  # fmt: skip


def _refuse_beside_a_plan(ctx, given):
    for name in sorted(set(given) - {"names"}):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = next(p.opts[0] for p in ctx.command.params if p.name == name)
            raise click.UsageError(f"{option} has no effect with --plan: make the plan with it, or edit the plan.")


def _refuse_to_replace(out, *files):
    """Refuse an OUT that is one of these inputs, also with --force. Of model and imatrix the writer sees to it."""
    from quantreg.errors import OutputError

    for path in files:
        if path and os.path.exists(out) and os.path.samefile(out, path):
            raise OutputError(f"{out}: is the input: choose another name")


def _arguments(arguments, planned):
    """(IN, OUT, file type, threads or None) from 2 to 4 words; of a plan, 1 to 3 words without the file type."""
    from quantreg.errors import UnknownFileTypeError

    def is_type(word):
        try:
            find_file_type(word)
        except UnknownFileTypeError:
            return False
        return True

    words = list(arguments)
    if "" in words:
        raise click.UsageError("an argument is empty: expected IN [OUT] TYPE [N].")
    out = name = None
    if planned:
        if len(words) > 3:
            raise click.UsageError(f"with --plan expected IN [OUT] [N], got {len(words)} arguments.")
        source, *rest = words
        if len(rest) == 2 or (rest and not rest[0].isdigit()):
            out = rest.pop(0)
    else:
        if not 2 <= len(words) <= 4:
            raise click.UsageError(f"expected IN [OUT] TYPE [N], got {len(words)} argument(s).")
        source = words.pop(0)
        if len(words) == 3 or (len(words) == 2 and not is_type(words[0])):
            out = words.pop(0)
        name, *rest = words
        if name.endswith(".gguf"):
            raise click.UsageError(f"{name} is no type: expected IN [OUT] TYPE [N], with a type such as Q4_K_M.")
    count = None
    if rest:
        if not (rest[0].isascii() and rest[0].isdigit()):
            raise click.UsageError(f"{rest[0]!r} is no number of threads.")
        count = int(rest[0]) or None  # llama-quantize's 0: all processors
    if planned:
        return source, out, None, count
    file_type = find_file_type(name)
    return source, out or default_output(source, file_type, name), file_type, count


def _show_plan(source, file_type, imatrix, options, as_json):
    import quantreg

    plan = file_type
    if not isinstance(plan, quantreg.Plan):
        plan = quantreg.plan(source, file_type, imatrix=imatrix, check=False, **options)
    if as_json:
        print_json(plan.to_dict())
        return
    for index, tensor in enumerate(plan.tensors, 1):
        click.echo(_tensor_line(tensor, index, len(plan.tensors)))
    click.echo(plan_summary(plan))
    warn((*plan.problems, *plan.warnings))


def _tensor_line(tensor, index, count):
    kinds = tensor.from_type if not tensor.converted else f"{tensor.from_type} -> {tensor.to_type}"
    shape = " x ".join(map(str, tensor.shape))
    return printable(
        f"[{index:4d}/{count:4d}] {tensor.name:<40} {shape:>16}  {kinds:<14} {size(tensor.bytes):>10}  {tensor.reason}"
    )


def _quantize(source, out, file_type, imatrix, log_json, **keywords):
    import quantreg
    from quantreg.cli.progress import listener

    def stop(*_):
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):  # SIGHUP: the terminal is closed; with nohup it is ignored, on Windows missing
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        with listener(log_json) as listen:
            result = quantreg.quantize_file(source, out, file_type, imatrix, progress=listen, **keywords)
    except KeyboardInterrupt:
        if keywords["resumable"]:
            click.echo(f"quantreg: what is done is kept in {out}.partial: go on with --resume", err=True)
        raise
    if log_json:
        return
    written = result.path if len(result.paths) == 1 else f"{result.path} and {len(result.paths) - 1} more"
    click.echo(
        f"{written}: {size(result.source_size)} -> {size(result.size)} in {result.seconds:.1f} s; "
        f"{plan_summary(result.plan)}"
    )
    warn(result.warnings)
