"""The subcommand `quantreg convert`."""

from typing import Any

import click

from quantreg.cli.show import plan_summary, size, warn
from quantreg.cli.stopping import stop_as_ctrl_c_does


@click.command("convert")
@click.argument("source", metavar="FOLDER")
@click.argument("out", metavar="OUT.gguf")
@click.option(
    "--type", "kind", default="auto", show_default=True, metavar="T",
    help="The type of the matrices: F16, BF16, F32, Q8_0, or auto, which is BF16 or F16, as the model is stored.",
)  # fmt: skip
@click.option(
    "--override-kv", "overrides", multiple=True, metavar="K=T:V",
    help="Set metadata key K to value V, as for `quantreg quantize`. Can be repeated.",
)  # fmt: skip
@click.option("--split-max-size", metavar="SIZE", help="Write shards with at most SIZE of tensor data: 4G, 500M.")
@click.option("--split-max-tensors", type=click.IntRange(1), metavar="N", help="Write shards with at most N tensors.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of threads. Default: all processors.")
@click.option("--resumable", is_flag=True, help="If the run is interrupted, keep the finished part in OUT.partial.")
@click.option("--resume", is_flag=True, help="Continue from OUT.partial if it exists. Implies --resumable.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option("--log-json", is_flag=True, help="Print progress and the result to stdout as JSON, one object per line.")
def command(
    source: str, out: str, kind: str, overrides: tuple[str, ...], log_json: bool, resumable: bool, **given: Any
) -> None:
    """Convert the model in FOLDER, as it is published on Hugging Face, to a GGUF file.

    FOLDER holds config.json, the files of the tokenizer, and *.safetensors. For another type, `quantreg quantize FOLDER
    OUT.gguf Q4_K_M` needs no converted file.
    """
    import quantreg
    from quantreg.cli.progress import listener

    if given["split_max_size"] and given["split_max_tensors"]:
        raise click.UsageError("give only one of --split-max-size and --split-max-tensors.")
    override_kv = tuple(quantreg.recipes.parse_override(text) for text in overrides)
    stop_as_ctrl_c_does()
    with listener(log_json) as listen:
        result = quantreg.convert(
            source, out, kind, progress=listen, override_kv=override_kv, resumable=resumable or given["resume"], **given
        )
    if log_json:
        return
    written = result.path if len(result.paths) == 1 else f"{result.path} and {len(result.paths) - 1} more"
    click.echo(
        f"{written}: {size(result.source_size)} -> {size(result.size)} in {result.seconds:.1f} s; "
        f"{plan_summary(result.plan)}"
    )
    warn(result.warnings)
