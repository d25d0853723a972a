"""The subcommand `quantreg split`."""

import click


@click.command("split")
@click.argument("source", metavar="IN")
@click.argument("prefix", metavar="OUT_PREFIX")
@click.option("--split-max-size", metavar="SIZE", help="Most tensor data per shard: 4G, 500M (powers of ten).")
@click.option(
    "--split-max-tensors", type=click.IntRange(1), metavar="N", help="Most tensors per shard. The default is 128."
)
@click.option("--force", is_flag=True, help="Replace shards that exist.")
def command(source: str, prefix: str, split_max_size: str | None, split_max_tensors: int | None, force: bool) -> None:
    """Split the GGUF model IN into shards that llama.cpp can load.

    The shards are named OUT_PREFIX-00001-of-00003.gguf and so on.
    """
    import quantreg

    if split_max_size is not None and split_max_tensors is not None:
        raise click.UsageError("--split-max-size and --split-max-tensors cannot be used together: give one of them.")
    result = quantreg.split(
        source, prefix, split_max_size=split_max_size, split_max_tensors=split_max_tensors, force=force
    )
    for path in result.paths:
        click.echo(path)
