"""The subcommand `quantreg merge`."""

import click


@click.command("merge")
@click.argument("shards", nargs=-1, required=True, metavar="SHARD...")
@click.argument("out", metavar="OUT")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def command(shards: tuple[str, ...], out: str, force: bool) -> None:
    """Merge the shards of a model into the GGUF file OUT.

    Give any one SHARD, or all of them (m-*.gguf). The others are found by their names in the same folder.
    """
    import quantreg

    click.echo(quantreg.merge(shards, out, force=force).path)
