"""quantreg merge"""

import click


@click.command("merge")
@click.argument("source", metavar="SHARD")
@click.argument("out", metavar="OUT")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def command(source, out, force):
    """Merge the shards of a model into the GGUF file OUT. SHARD is any of them: the names tell the others."""
    import quantreg

    click.echo(quantreg.merge(source, out, force=force).path)
