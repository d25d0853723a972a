"""The subcommand `quantreg export`."""

import click


@click.command("export")
@click.argument("source", metavar="FILE.gguf")
@click.argument("out", metavar="OUT.safetensors")
@click.option(
    "--dtype", type=click.Choice(["f16", "bf16", "f32"]),
    help="The type of all tensors in OUT. By default each tensor keeps its type if safetensors has it, else it becomes "
    "f16.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def command(source: str, out: str, dtype: str | None, force: bool) -> None:
    """Decode the tensors of a GGUF model to a safetensors file.

    The tensors keep their GGUF names. The metadata is not exported, except that a tensor that was folded because GGUF
    has only four dimensions gets its old shape again.
    """
    import quantreg

    click.echo(quantreg.export(source, out, dtype=dtype, force=force).path)
