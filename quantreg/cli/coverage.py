"""The subcommand `quantreg coverage`."""

import dataclasses
from collections.abc import Sequence

import click

from quantreg.cli.show import print_json, printable, table
from quantreg.words import count, listed

_MOST = 8  # how many row numbers are shown


@click.command("coverage")
@click.argument("model")
@click.argument("imatrix")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, imatrix: str, as_json: bool) -> None:
    """Show which tensors of MODEL the importance matrix IMATRIX covers.

    A tensor has one row of importance, or one per expert. ZERO ROWS lists the rows that are all zero or that no token
    reached during calibration; quantizing replaces their values by 1. ZERO COLUMNS is the share of zeros in the other
    rows.

    For tensors without an entry, see the option --on-missing-importance of `quantreg quantize`.
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
    click.echo(f"\n{count(len(states), 'tensor')} can be quantized: {counts or 'none'}")
    if found.unused:
        unused = "1 entry does" if len(found.unused) == 1 else f"{len(found.unused)} entries do"
        click.echo(f"{unused} not belong to a tensor of the model (first: {printable(found.unused[0])})")


def _rows(numbers: Sequence[int]) -> str:
    return listed(list(map(str, numbers)), _MOST)
