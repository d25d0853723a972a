"""quantreg demo"""

import os
import tempfile

import click

from quantreg.cli.show import bits, size, table


@click.command("demo")
def command():
    """Make a small Llama-shaped F16 model in a temporary folder, quantize it to several file types and compare.

    ERROR is the root mean square error of the weights, as a share of their size; the weights are random.
    """
    import quantreg
    from quantreg.evaluation.demo import DEMO_TYPES, make_model, relative_error

    with tempfile.TemporaryDirectory(prefix="quantreg-demo-") as folder:
        source = os.path.join(folder, "demo-f16.gguf")
        count = make_model(source)
        click.echo(
            f"A Llama-shaped model of {count / 1e6:.1f} million random weights, F16: {size(os.path.getsize(source))}\n"
        )
        rows = []
        for name in DEMO_TYPES:
            out = os.path.join(folder, f"demo-{name}.gguf")
            result = quantreg.quantize_file(source, out, name)
            rows.append(
                [
                    name, size(result.size), bits(round(result.bits_per_weight, 2)),
                    f"{result.source_size / result.size:.1f}x", f"{relative_error(source, out):.2%}",
                    f"{count / result.seconds / 1e6:.0f} M weights/s",
                ]
            )  # fmt: skip
        table(["FILE TYPE", ">SIZE", ">BITS PER WEIGHT", ">SMALLER THAN F16", ">ERROR", ">SPEED"], rows)
    click.echo(
        "\nOn your own model:\n"
        "  quantreg quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M\n"
        "  quantreg quantize --dry-run model-f16.gguf Q4_K_M     (what would become of each tensor, and why)\n"
        "  quantreg --help"
    )
