"""The subcommand `quantreg quantize`."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.plan_options import (
    PlanCommand,
    default_output,
    find_file_type,
    plan_options,
    refuse_to_replace,
    to_keywords,
    type_files,
)
from quantreg.cli.several import command_for, measuring, outputs_of, quantize_wanted
from quantreg.cli.show import plan_summary, print_json, printable, size, warn
from quantreg.cli.stopping import stop_as_ctrl_c_does
from quantreg.cli.tuning_options import to_tuning, tuning_inputs, tuning_options
from quantreg.words import count

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from quantreg import FileType, Plan, QuantizeResult, TensorPlan
    from quantreg.events import Event
    from quantreg.jobs.card import Card
    from quantreg.storage import AtomicFile


@click.command("quantize", cls=PlanCommand, options_metavar="[OPTIONS]")
@click.argument("arguments", nargs=-1, required=True, metavar="IN [OUT] TYPE [N]")
@tuning_options
@plan_options
@click.option(
    "--plan",
    "plan_file",
    metavar="FILE",
    help="Take the type of each tensor from a plan (see `quantreg plan`) instead of TYPE.",
)
@click.option(
    "--split-max-size",
    metavar="SIZE",
    help="Write shards with at most SIZE of tensor data: 4G, 500M.",
)
@click.option("--split-max-tensors", type=click.IntRange(1), metavar="N", help="Write shards with at most N tensors.")
@click.option(
    "--max-buffer-size", type=click.IntRange(1), metavar="MIB", expose_value=False,
    help="Ignored; accepted for compatibility. quantreg needs about 20 MB per thread for tensors of any size.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the type of each tensor, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run, print the plan as JSON.")
@click.option("--log-json", is_flag=True, help="Print progress and the result to stdout as JSON, one object per line.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of threads. Default: all processors.")
@click.option(
    "--processes", type=click.IntRange(1), metavar="N",
    help="Encode in N processes instead of threads. Codecs in Python need this to use several processors, and error "
    "feedback does it by itself.",
)  # fmt: skip
@click.option("--resumable", is_flag=True, help="If the run is interrupted, keep the finished part in OUT.partial.")
@click.option("--resume", is_flag=True, help="Continue from OUT.partial if it exists. Implies --resumable.")
@click.option("--force", is_flag=True, help="Replace OUT, and the card, if they exist.")
@click.option(
    "--card", metavar="FILE",
    help="Also write a Markdown table of the outputs for a model card: sizes, bits per weight, SHA-256 digests, how "
    "good they are if that is measured, and the command that makes each.",
)  # fmt: skip
@click.option(
    "--card-text", metavar="FILE",
    help="A text in UTF-8 that the KL divergence and the perplexity of each output are measured on, for --card. "
    "Without it, the tenth of the calibration text that decided nothing, if there is one. A picture of them is written "
    "beside the card.",
)  # fmt: skip
@click.option(
    "--card-chunks", type=click.IntRange(2), metavar="N", help="Measure on at most N chunks of 512 tokens, for --card."
)
@click.option(
    "--report", metavar="FILE",
    help="With --calibration, measure OUT on the tenth of the text that decided nothing, beside the file types of the "
    "next sizes, and write a web page about it (JSON if FILE ends in .json). Replaces FILE.",
)  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context,
    /,
    arguments: tuple[str, ...],
    plan_file: str | None,
    split_max_size: str | None,
    split_max_tensors: int | None,
    dry_run: bool,
    as_json: bool,
    log_json: bool,
    threads: int | None,
    processes: int | None,
    resumable: bool,
    resume: bool,
    force: bool,
    report: str | None,
    card: str | None,
    card_text: str | None,
    card_chunks: int | None,
    **given: Any,
) -> None:
    """Quantize the GGUF or safetensors model IN, or the folder of a published model, to OUT.

    TYPE is a file type such as Q4_K_M or its number (see `quantreg file-types`), or a quant type for all matrices (see
    `quantreg types`). If a plugin added the type, the output and the token embeddings get better types unless you give
    --pure. Without OUT, the output is ggml-model-TYPE.gguf in the folder of IN. N is the number of threads. For a split
    model give any shard.

    Several types, as in Q8_0,Q6_K,Q4_K_M, make a file each, and OUT holds {type} in place of their names, as in
    "model-{type}.gguf". The model is read and decoded once for all of them.
    """
    import quantreg

    if as_json and not dry_run:
        raise click.UsageError("--json needs --dry-run.")
    if sum(map(bool, (given["keep_split"], split_max_size, split_max_tensors))) > 1:
        raise click.UsageError("give only one of --keep-split, --split-max-size and --split-max-tensors.")
    tuning = to_tuning(given)
    if report is not None and (tuning["calibration"] is None or dry_run):
        raise click.UsageError("--report is about a file made with a calibration text: give one with --calibration.")
    has_target = tuning["target_size"] is not None or tuning["target_bpw"] is not None
    if card is None and not (card_text is None and card_chunks is None):
        raise click.UsageError("--card-text and --card-chunks are about a card: give its name with --card.")
    source, out, word, positional = _arguments(arguments, plan_file is not None, has_target)
    wanted: list[tuple[str, FileType | Plan | None]]
    if plan_file is not None:
        if has_target:
            raise click.UsageError("a target cannot be used with --plan: give it to `quantreg plan`.")
        _refuse_beside_a_plan(ctx, given)
        imatrix, options = None, {"names": given["names"]}
        planned = quantreg.read_plan(plan_file, source, **options)
        wanted = [(out or default_output(source, planned.file_type), planned)]
    else:
        options = to_keywords(given)
        imatrix = options.pop("imatrix")
        wanted = [(out or "", None)] if has_target else outputs_of(source, out, word)
    shards: dict[str, Any] = {"split_max_size": split_max_size, "split_max_tensors": split_max_tensors}
    if dry_run:
        _show_plans(source, wanted, imatrix, options | shards, as_json, tuning)
        return
    if not wanted[0][0]:
        raise click.UsageError("with a target, expected IN OUT [N]: give the name of the output.")
    read = (plan_file, *type_files(ctx), *tuning_inputs(tuning))
    for path, _ in wanted:
        refuse_to_replace(path, *read)
        if report is not None and os.path.realpath(report) == os.path.realpath(path):
            raise click.UsageError("--report and OUT are the same file: give the report another name.")
    if report is not None and len(wanted) > 1:
        raise click.UsageError("--report is about one file: leave it out, or give one TYPE. --card measures several.")
    about = None
    if card is not None:
        from quantreg.jobs.card import Card

        refuse_to_replace(card, *read, imatrix, options["names"])
        if report is not None and os.path.realpath(report) == os.path.realpath(card):
            raise click.UsageError("--report and --card are the same file: give one of them another name.")
        measured_by = measuring(source, card_text, card_chunks, tuning["device"])
        text = None if card_text is None else Path(card_text)
        about = Card(card, text, command_for(ctx, source, word), measured_by, card_chunks)
    if processes is not None and (threads or positional):
        raise click.UsageError("give either --processes or a number of threads.")
    from quantreg.jobs.processes import usual_pool, worker_processes

    named = processes or threads or positional
    by_itself = tuning["calibration"] is not None and named is None  # error feedback
    pool = worker_processes(processes) if processes is not None else usual_pool() if by_itself else nullcontext()
    _quantize(
        source, wanted, imatrix, log_json, pool, report, about, threads=named, resumable=resumable or resume,
        resume=resume, force=force, **shards, **options, **tuning,
    )  # fmt: skip


def _refuse_beside_a_plan(ctx: click.Context, given: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that the plan has already decided."""
    for name in sorted(set(given) - {"names"}):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = next(p.opts[0] for p in ctx.command.params if p.name == name)
            raise click.UsageError(f"{option} cannot be used with --plan: give it to `quantreg plan` or edit the plan.")


def _arguments(arguments: Sequence[str], planned: bool, target: bool) -> tuple[str, str | None, str, int | None]:
    """Split IN [OUT] TYPE [N] into its parts. With --plan or a target there is no TYPE: the third part is empty."""
    from quantreg.errors import UnknownFileTypeError

    def is_type(word: str) -> bool:
        try:
            for name in filter(None, word.split(",")) if "," in word else [word]:
                find_file_type(name.strip())
        except UnknownFileTypeError:
            return False
        return True

    words = list(arguments)
    if "" in words:
        raise click.UsageError("an argument is empty: expected IN [OUT] TYPE [N].")
    out, name = None, ""
    if planned or target:
        if len(words) > 3:
            why = "--plan" if planned else "a target"
            raise click.UsageError(f"with {why}, expected IN [OUT] [N] but got {len(words)} arguments.")
        if target and len(words) > 1 and is_type(words[-1]) and not words[-1].isdigit():
            raise click.UsageError(f"{words[-1]} is a type, but the target decides the types: leave one of them out.")
        source, *rest = words
        if len(rest) == 2 or (rest and not rest[0].isdigit()):
            out = rest.pop(0)
    else:
        if not 2 <= len(words) <= 4:
            raise click.UsageError(f"expected IN [OUT] TYPE [N] but got {count(len(words), 'argument')}.")
        source = words.pop(0)
        if len(words) == 3 or (len(words) == 2 and not is_type(words[0])):
            out = words.pop(0)
        name, *rest = words
        if name.endswith(".gguf"):
            raise click.UsageError(f"{name} is not a type: expected IN [OUT] TYPE [N], with a type such as Q4_K_M.")
    threads = None
    if rest:
        if not (rest[0].isascii() and rest[0].isdigit()):
            raise click.UsageError(f"{rest[0]!r} is not a number of threads: expected a whole number.")
        threads = int(rest[0]) or None  # as for llama-quantize, 0 means all processors
    return source, out, name, threads


def _show_plans(
    source: str,
    wanted: "Sequence[tuple[str, FileType | Plan | None]]",
    imatrix: str | None,
    options: dict[str, Any],
    as_json: bool,
    tuning: dict[str, Any],
) -> None:
    """Show what a run would do. Raises what the run would raise before it reads tensor data."""
    from quantreg.cli.progress import listener
    from quantreg.jobs.planning import rehearse_run
    from quantreg.jobs.rehearsal import check_all
    from quantreg.recipes import PlanOptions

    layout = {name: options.pop(name) for name in ("split_max_size", "split_max_tensors", "names")}
    made = []
    with listener() as listen:
        for path, file_type in wanted:
            rehearsal = rehearse_run(
                source, file_type, imatrix, PlanOptions(**options), tuning, progress=listen, **layout
            )  # fmt: skip
            made.append((path, rehearsal))
    if as_json:
        several = [{"path": path, "file_type": one.plan.file_type.name} | one.plan.to_dict() for path, one in made]
        print_json(several if len(made) > 1 else made[0][1].plan.to_dict())
    for path, rehearsal in made:
        if not as_json:
            plan = rehearsal.plan
            if len(made) > 1:
                click.echo(f"{printable(path)}:")
            for index, tensor in enumerate(plan.tensors, 1):
                click.echo(_tensor_line(tensor, index, len(plan.tensors)))
            click.echo(plan_summary(plan))
            warn(plan.warnings)
    check_all([rehearsal for _, rehearsal in made])


def _tensor_line(tensor: "TensorPlan", index: int, last: int) -> str:
    kinds = tensor.from_type if not tensor.converted else f"{tensor.from_type} -> {tensor.to_type}"
    shape = " x ".join(map(str, tensor.shape))
    return printable(
        f"[{index:4d}/{last:4d}] {tensor.name:<40} {shape:>16}  {kinds:<14} {size(tensor.bytes):>10}  {tensor.reason}"
    )


def _quantize(
    source: str,
    wanted: "Sequence[tuple[str, FileType | Plan | None]]",
    imatrix: str | None,
    log_json: bool,
    processes: "AbstractContextManager[Executor | None]",
    report: str | None,
    card: "Card | None",
    **keywords: Any,
) -> None:
    import quantreg
    from quantreg.cli.progress import listener
    from quantreg.events import Calibrating, Started

    known: set[str] = set()
    begun = False  # and so there may be something to keep

    stop_as_ctrl_c_does()
    try:
        with (
            _report_file(report, source, *(path for path, _ in wanted), *tuning_inputs(keywords)) as page,
            listener(log_json) as listen,
            processes as pool,
        ):

            def told(event: "Event") -> None:
                nonlocal begun
                begun = begun or isinstance(event, (Started, Calibrating))
                if isinstance(event, Started) and not log_json:  # now, because the work may take hours
                    warnings = dict.fromkeys(warning for plan in event.plans for warning in plan.warnings)
                    warn(warnings)
                    known.update(warnings)
                listen(event)

            keywords |= {"progress": told, "executor": pool}
            if len(wanted) == 1 and card is None:
                results = [quantreg.quantize_file(source, *wanted[0], imatrix, **keywords)]
            else:
                results = quantize_wanted(source, wanted, imatrix, card, keywords)
            if page is not None:
                as_json = str(report).endswith(".json")
                page.write(_reported(source, results[0], imatrix, keywords, as_json, listen))
    except (KeyboardInterrupt, quantreg.QuantregError, OSError) as error:
        if keywords["resumable"] and (begun or isinstance(error, KeyboardInterrupt)):
            kept = f"{wanted[0][0]}{'.partial' if os.path.exists(f'{wanted[0][0]}.partial') else '.tuning'}"
            more = f" and {len(wanted) - 1} more" if len(wanted) > 1 else ""
            click.echo(f"quantreg: the finished part is kept in {kept}{more}: continue with --resume", err=True)
        raise
    if log_json:
        return
    for result in results:
        written = result.path if len(result.paths) == 1 else f"{result.path} and {len(result.paths) - 1} more"
        click.echo(
            f"{written}: {size(result.source_size)} -> {size(result.size)} in {result.seconds:.1f} s; "
            f"{plan_summary(result.plan)}"
        )
        if result.tuned:
            better = sum(one.kept > 0 for one in result.tuned)
            click.echo(f"error feedback: kept in {better} of {count(len(result.tuned), 'tensor')}")
    if card is not None:
        click.echo(f"{card.path}: the card of {count(len(results), 'output')}")
    warn(dict.fromkeys(warning for result in results for warning in result.warnings if warning not in known))


def _report_file(report: str | None, *read: str) -> "AbstractContextManager[AtomicFile | None]":
    """Open the report, so that a path that cannot be written is refused before the run. It replaces no other file."""
    from quantreg.storage import AtomicFile

    return AtomicFile(report, force=True, source=read) if report is not None else nullcontext()


def _reported(
    source: str,
    result: "QuantizeResult",
    imatrix: str | None,
    keywords: Mapping[str, Any],
    as_json: bool,
    progress: "Callable[[Event], None]",
) -> bytes:
    """Measure the result, and return the report as a web page or as JSON."""
    from quantreg.jobs.tuning_report import tuning_report
    from quantreg.sizes import parse_bytes
    from quantreg.tuning.report_page import page

    target = keywords["target_size"]
    found = tuning_report(
        source, result, keywords["calibration"], n_ctx=keywords["n_ctx"], chunks=keywords["chunks"], imatrix=imatrix,
        target=None if target is None else parse_bytes(target, "target_size"), threads=keywords["threads"],
        found=result.found, device=keywords["device"], progress=progress,
    )  # fmt: skip
    return (json.dumps(found.to_dict(), indent=1) + "\n" if as_json else page(found)).encode()
