"""quantreg export"""

import click


@click.command("export")
@click.argument("source", metavar="FILE.gguf")
@click.argument("out", metavar="OUT.safetensors")
@click.option(
    "--dtype", type=click.Choice(["f16", "bf16", "f32"]),
    help="Of all tensors; default: as they are, and f16 for those that safetensors cannot hold.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def command(source, out, dtype, force):
    """Decode the tensors of a GGUF model to one safetensors file. The names stay GGUF's; metadata is left behind."""
    import quantreg

    click.echo(quantreg.export(source, out, dtype=dtype, force=force).path)
