"""The subcommand `quantreg estimate`."""

import click


@click.command("estimate")
@click.argument("params")
@click.option("--type", "qtype", required=True, metavar="TYPE", help="The quant type, such as Q4_K.")
def command(params: str, qtype: str) -> None:
    """Compute the memory in GB (10^9 bytes) that PARAMS weights, such as 7B or 350M, take in a type."""
    from quantreg.sizes import estimate_memory_gb, parse_params

    try:
        weights = parse_params(params)
    except ValueError:
        raise click.BadParameter(
            f"{params!r}: expected a number of parameters such as 7B, 350M or 7000000000"
        ) from None
    click.echo(f"{estimate_memory_gb(weights / 1e9, qtype):.10g} GB")
