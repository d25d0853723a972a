"""quantreg types"""

import click

from quantreg.cli.show import bits, print_json, size, table


@click.command("types")
@click.option(
    "--params", default="7B", metavar="N", show_default=True, help="Parameters of the model to size: 7B, 350M."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(params, as_json):
    """List every registered quant type.

    BYTES are those of a block, after those of the row if it has some of its own. BPW is bits per weight, scales
    included; RATIO the compression against F32; SIZE what a model with that many parameters takes, all of it in this
    type.
    """
    from quantreg.registry import registry
    from quantreg.sizes import parse_params

    try:
        count = parse_params(params)
    except ValueError:
        raise click.BadParameter(
            f"{params!r}: expected a number of parameters such as 7B, 350M or 7000000000"
        ) from None
    types = registry.all_types()
    if as_json:
        print_json(
            [
                {
                    "name": t.name, "id": t.type_id, "block_size": t.block_size, "type_size": t.type_size,
                    "row_header_size": t.row_header_size,
                    "bits_per_weight": t.bits_per_weight, "compression_ratio": t.compression_ratio,
                    "fallback": t.fallback, "requires_importance": t.requires_importance,
                    "plugin": registry.owner(t).distribution, "bytes": round(count * t.bits_per_weight / 8),
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
                size(count * t.bits_per_weight / 8),
            ]
            for t in types
        ],
    )  # fmt: skip
    for plugin in registry.plugins:
        if plugin.error:
            click.echo(plugin.problem, err=True)


def _bytes(qtype):
    return f"{qtype.row_header_size}/row + {qtype.type_size}" if qtype.row_header_size else qtype.type_size
