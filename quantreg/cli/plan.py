"""The subcommand `quantreg plan`."""

from typing import Any

import click

from quantreg.cli.plan_options import PlanCommand, find_file_type, plan_options, to_keywords, type_files
from quantreg.cli.show import plan_summary, warn
from quantreg.cli.tuning_options import to_tuning, tuning_inputs, tuning_options
from quantreg.words import count


@click.command("plan", cls=PlanCommand)
@click.argument("source", metavar="IN")
@click.argument("file_type", metavar="TYPE", required=False)
@click.option("-o", "--output", metavar="FILE", required=True, help="The plan to write, as JSON.")
@tuning_options
@plan_options
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def command(ctx: click.Context, /, source: str, file_type: str | None, output: str, force: bool, **given: Any) -> None:
    """Write the plan for quantizing IN to TYPE to a file: the type of each tensor, the reason, and the size.

    You can change the "to" of any tensor in FILE. Then run: quantreg quantize --plan FILE IN OUT. If the plan cannot be
    carried out as it is, FILE is written all the same, and the exit code is 1.

    With --target-size or --target-bpw there is no TYPE: each tensor gets the type with which the file loses least at
    this size. If you give a text with --calibration, give it to `quantreg quantize`, too.
    """
    import quantreg
    from quantreg.cli.progress import listener
    from quantreg.jobs.planning import rehearse_run
    from quantreg.recipes import PlanOptions

    tuning = to_tuning(given)
    if tuning["target_size"] is None and tuning["target_bpw"] is None:
        if file_type is None:
            raise click.UsageError("Missing argument 'TYPE': give one, or --target-size or --target-bpw.")
    elif file_type is not None:
        raise click.UsageError(f"{file_type} is a type, but the target decides the types: leave one of them out.")

    options = to_keywords(given)
    imatrix, names = options.pop("imatrix"), options.pop("names")
    found = None if file_type is None else find_file_type(file_type)
    with listener() as listen:
        rehearsal = rehearse_run(
            source, found, imatrix, PlanOptions(**options), tuning, names=names, progress=listen
        )  # fmt: skip
    plan = rehearsal.plan
    inputs = (source, *rehearsal.source.paths, imatrix, names, *type_files(ctx), *tuning_inputs(tuning))
    quantreg.write_plan(plan, output, force=force, source=[path for path in inputs if path])
    click.echo(f"{output}: {count(len(plan.tensors), 'tensor')}, {plan_summary(plan)}")
    warn(plan.warnings)
    rehearsal.check()
