"""The subcommand `quantreg plan`."""

from typing import Any

import click

from quantreg.cli.plan_options import PlanCommand, find_file_type, plan_options, to_keywords, type_files
from quantreg.cli.show import plan_summary, warn
from quantreg.words import count


@click.command("plan", cls=PlanCommand)
@click.argument("source", metavar="IN")
@click.argument("file_type", metavar="TYPE")
@click.option("-o", "--output", metavar="FILE", required=True, help="The plan to write, as JSON.")
@plan_options
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def command(ctx: click.Context, /, source: str, file_type: str, output: str, force: bool, **given: Any) -> None:
    """Write the plan for quantizing IN to TYPE to a file: the type of each tensor, the reason, and the size.

    You can change the "to" of any tensor in FILE. Then run: quantreg quantize --plan FILE IN OUT. If the plan cannot be
    carried out as it is, FILE is written all the same, and the exit code is 1.
    """
    import quantreg
    from quantreg.jobs.planning import rehearse
    from quantreg.recipes import PlanOptions

    options = to_keywords(given)
    imatrix, names = options.pop("imatrix"), options.pop("names")
    rehearsal = rehearse(source, find_file_type(file_type), imatrix, PlanOptions(**options), names=names)
    plan = rehearsal.plan
    inputs = (source, *rehearsal.source.paths, imatrix, names, *type_files(ctx))
    quantreg.write_plan(plan, output, force=force, source=[path for path in inputs if path])
    click.echo(f"{output}: {count(len(plan.tensors), 'tensor')}, {plan_summary(plan)}")
    warn(plan.warnings)
    rehearsal.check()
