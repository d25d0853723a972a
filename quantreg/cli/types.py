"""The subcommand `quantreg types`."""

from typing import TYPE_CHECKING

import click

from quantreg.cli.show import bits, print_json, size, table

if TYPE_CHECKING:
    from quantreg import QuantType


@click.command("types")
@click.option(
    "--params", default="7B", metavar="N", show_default=True, help="Number of weights for the last column: 7B, 350M."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(params: str, as_json: bool) -> None:
    """List all quant types, those of plugins included.

    BLOCK is the number of weights in a block, and BYTES is the size of the block. A type with data at the start of each
    row shows it as "N/row". BPW is bits per weight, scales included. RATIO is the compression relative to F32. The last
    column is the size of a model of N weights if all of them have this type.
    """
    from quantreg.registry import registry
    from quantreg.sizes import parse_params

    try:
        weights = parse_params(params)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    types = registry.all_types()
    if as_json:
        print_json(
            [
                {
                    "name": t.name, "id": t.type_id, "block_size": t.block_size, "type_size": t.type_size,
                    "row_header_size": t.row_header_size,
                    "bits_per_weight": t.bits_per_weight, "compression_ratio": t.compression_ratio,
                    "fallback": t.fallback, "requires_importance": t.requires_importance,
                    "plugin": registry.owner(t).distribution, "bytes": round(weights * t.bits_per_weight / 8),
                }
                for t in types
            ]
        )  # fmt: skip
        return
    table(
        ["TYPE", ">ID", ">BLOCK", ">BYTES", ">BPW", ">RATIO", f">SIZE OF {params}"],
        [
            [
                t.name, t.type_id, t.block_size, _bytes(t), bits(t.bits_per_weight), f"{t.compression_ratio:.2f}x",
                size(weights * t.bits_per_weight / 8),
            ]
            for t in types
        ],
    )  # fmt: skip
    for plugin in registry.plugins:
        if plugin.error:
            click.echo(plugin.problem, err=True)


def _bytes(qtype: "QuantType") -> str:
    return f"{qtype.row_header_size}/row + {qtype.type_size}" if qtype.row_header_size else str(qtype.type_size)
