"""The subcommand `quantreg plan`."""

from typing import Any

import click

from quantreg.cli.plan_options import PlanCommand, find_file_type, plan_options, to_keywords
from quantreg.cli.show import count, plan_summary, warn


@click.command("plan", cls=PlanCommand)
@click.argument("source", metavar="IN")
@click.argument("file_type", metavar="TYPE")
@click.option("-o", "--output", metavar="FILE", required=True, help="The plan to write, as JSON.")
@plan_options
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def command(source: str, file_type: str, output: str, force: bool, **given: Any) -> None:
    """Write the plan for quantizing IN to TYPE to a file: the type of each tensor, the reason, and the size.

    You can change the "to" of any tensor in FILE. Then run: quantreg quantize --plan FILE IN OUT
    """
    import quantreg

    plan = quantreg.plan(source, find_file_type(file_type), check=False, **to_keywords(given))
    quantreg.write_plan(plan, output, force=force, source=[source, *([given["imatrix"]] if given["imatrix"] else [])])
    click.echo(f"{output}: {count(len(plan.tensors), 'tensor')}, {plan_summary(plan)}")
    warn((*plan.problems, *plan.warnings))
