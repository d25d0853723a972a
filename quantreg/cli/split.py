"""quantreg split"""

import click


@click.command("split")
@click.argument("source", metavar="IN")
@click.argument("prefix", metavar="OUT_PREFIX")
@click.option("--split-max-size", metavar="SIZE", help="Tensor data in a shard: 4G, 500M (powers of ten).")
@click.option("--split-max-tensors", type=click.IntRange(1), metavar="N", help="Tensors in a shard; default: 128.")
@click.option("--force", is_flag=True, help="Replace shards that exist.")
def command(source, prefix, split_max_size, split_max_tensors, force):
    """Split the GGUF model IN into OUT_PREFIX-00001-of-00003.gguf and so on, as llama-gguf-split does."""
    import quantreg

    if split_max_size is not None and split_max_tensors is not None:
        raise click.UsageError("give --split-max-size or --split-max-tensors, not both.")
    result = quantreg.split(
        source, prefix, split_max_size=split_max_size, split_max_tensors=split_max_tensors, force=force
    )
    for path in result.paths:
        click.echo(path)
