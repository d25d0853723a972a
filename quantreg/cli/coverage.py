"""quantreg coverage"""

import dataclasses

import click

from quantreg.cli.show import print_json, printable, table

MOST = 8  # numbers of experts that are shown


@click.command("coverage")
@click.argument("model")
@click.argument("imatrix")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model, imatrix, as_json):
    """Show which tensors of MODEL the importance matrix IMATRIX covers: missing entries, rows that are all zero.

    Rows that are zero or were never counted (experts without a token) are taken as ones when quantizing. Tensors
    without an entry: see `quantreg quantize --on-missing-importance`.
    """
    import quantreg

    found = quantreg.coverage(model, imatrix)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    table(
        ["TENSOR", "STATE", ">ROWS", ">ZERO COLUMNS", "ZERO ROWS"],
        [
            [t.name, t.state, t.n_experts, f"{t.zero_columns:.2%}" if t.zero_columns else "", _rows(t.zero_rows)]
            for t in found.tensors
        ],
    )
    states = [t.state for t in found.tensors]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    click.echo(f"\n{len(states)} tensors that may be quantized: {counts or 'none'}")
    if found.unused:
        click.echo(f"{len(found.unused)} entries belong to no tensor (first: {printable(found.unused[0])})")


def _rows(numbers):
    return ", ".join(map(str, numbers[:MOST])) + (f" and {len(numbers) - MOST} more" if len(numbers) > MOST else "")
