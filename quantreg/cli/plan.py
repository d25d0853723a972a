"""quantreg plan"""

import click

from quantreg.cli.plan_options import PlanCommand, find_file_type, plan_options, to_keywords
from quantreg.cli.show import plan_summary, warn


@click.command("plan", cls=PlanCommand)
@click.argument("source", metavar="IN")
@click.argument("file_type", metavar="TYPE")
@click.option("-o", "--output", metavar="FILE", required=True, help="The plan to write: JSON.")
@plan_options
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def command(source, file_type, output, force, **given):
    """Write the plan for quantizing IN to TYPE as a file: the type of each tensor, why, and its size.

    Edit "to" of any tensor, then: quantreg quantize --plan FILE IN OUT
    """
    import quantreg

    plan = quantreg.plan(source, find_file_type(file_type), check=False, **to_keywords(given))
    quantreg.write_plan(plan, output, force=force, source=[source, *([given["imatrix"]] if given["imatrix"] else [])])
    click.echo(f"{output}: {len(plan.tensors)} tensors, {plan_summary(plan)}")
    warn((*plan.problems, *plan.warnings))
