"""The subcommand `quantreg demo`."""

import os
import tempfile

import click

from quantreg.cli.show import bits, print_json, size, table


@click.command("demo")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Make a small Llama-shaped F16 model of random weights, quantize it to several file types and compare them.

    The models are written to a temporary folder, which is removed at the end. ERROR is the root mean square error of
    the weights, divided by their root mean square.
    """
    import quantreg
    from quantreg.evaluation.demo import DEMO_TYPES, make_model, relative_error

    with tempfile.TemporaryDirectory(prefix="quantreg-demo-") as folder:
        source = os.path.join(folder, "demo-f16.gguf")
        weights = make_model(source)
        source_size = size(os.path.getsize(source))
        if not as_json:
            click.echo(f"A Llama-shaped model of {weights / 1e6:.1f} million random weights, F16: {source_size}\n")
        rows = []
        facts = []
        for name in DEMO_TYPES:
            out = os.path.join(folder, f"demo-{name}.gguf")
            result = quantreg.quantize_file(source, out, name)
            error = relative_error(source, out)
            facts.append(
                {
                    "type": name, "size": result.size, "bits_per_weight": result.bits_per_weight, "error": error,
                    "seconds": result.seconds,
                }
            )  # fmt: skip
            rows.append(
                [
                    name, size(result.size), bits(round(result.bits_per_weight, 2)),
                    f"{result.source_size / result.size:.1f}x", f"{error:.2%}",
                    f"{weights / result.seconds / 1e6:.0f} M weights/s",
                ]
            )  # fmt: skip
        if as_json:
            print_json({"weights": weights, "source_size": os.path.getsize(source), "types": facts})
            return
        table(["FILE TYPE", ">SIZE", ">BITS PER WEIGHT", ">SMALLER THAN F16", ">ERROR", ">SPEED"], rows)
    click.echo(
        "\nTo quantize your own model:\n"
        "  quantreg quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M\n"
        "To see the type that each tensor would get, and why, without writing anything:\n"
        "  quantreg quantize --dry-run model-f16.gguf Q4_K_M\n"
        "For all commands:\n"
        "  quantreg --help"
    )
