"""quantreg split"""

import click


@click.command("split")
@click.argument("source", metavar="IN")
@click.argument("prefix", metavar="OUT_PREFIX")
@click.option("--split-max-size", "max_size", metavar="SIZE", help="Tensor data in a shard: 4G, 500M (powers of ten).")
@click.option(
    "--split-max-tensors", "max_tensors", type=click.IntRange(1), metavar="N", help="Tensors in a shard; default: 128."
)
@click.option("--force", is_flag=True, help="Replace shards that exist.")
def command(source, prefix, max_size, max_tensors, force):
    """Split the GGUF model IN into OUT_PREFIX-00001-of-00003.gguf and so on, as llama-gguf-split does."""
    import quantreg

    if max_size is not None and max_tensors is not None:
        raise click.UsageError("give --split-max-size or --split-max-tensors, not both.")
    for path in quantreg.split(source, prefix, max_size=max_size, max_tensors=max_tensors, force=force):
        click.echo(path)
