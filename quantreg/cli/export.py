"""The subcommand `quantreg export`."""

import click


@click.command("export")
@click.argument("source", metavar="FILE.gguf")
@click.argument("out", metavar="OUT.safetensors|FOLDER/")
@click.option(
    "--dtype", type=click.Choice(["f16", "bf16", "f32"]),
    help="The type of all tensors in OUT. By default, plain numbers keep their values, and quantized tensors become "
    "f16 in a file, and bf16, or the type of most of the model, in a folder.",
)  # fmt: skip
@click.option(
    "--split-max-size", metavar="SIZE", help="Folder: the most bytes of a file of weights, such as 5G (the default)."
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists; in a folder, the files of a model.")
def command(source: str, out: str, dtype: str | None, split_max_size: str | None, force: bool) -> None:
    """Decode a GGUF model to a safetensors file, or to a folder that transformers loads.

    OUT is a folder if it ends in a slash, exists as one, or has no suffix. It gets config.json, the files of the
    tokenizer, and weights with the names and the order of the published model.

    In a file the tensors keep their GGUF names. The metadata is not exported, except that a tensor that was folded
    because GGUF has only four dimensions gets its old shape again.
    """
    import quantreg
    from quantreg.cli.show import warn
    from quantreg.cli.stopping import stop_as_ctrl_c_does

    stop_as_ctrl_c_does()
    split = {} if split_max_size is None else {"split_max_size": split_max_size}
    result = quantreg.export(source, out, dtype=dtype, force=force, **split)  # type: ignore[arg-type]
    click.echo(result.path)
    warn(getattr(result, "warnings", ()))
