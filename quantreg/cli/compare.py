"""quantreg compare"""

import dataclasses

import click

from quantreg.cli.show import print_json, table


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(a, b, as_json):
    """Compare the GGUF models A and B. Exit code 1 if they differ.

    RMSE is the root mean square of the differences of the weights, as a share of A's; the order of tensors and how they
    are split into files make no difference.
    """
    import quantreg

    found = quantreg.compare(a, b)
    if as_json:
        print_json(
            {
                "same": found.same,
                "metadata": [{"key": key, "a": _shown(x), "b": _shown(y)} for key, x, y in found.metadata],
                "tensors": [dataclasses.asdict(tensor) for tensor in found.tensors],
            }
        )
    elif found.same:
        click.echo(f"the same metadata and the same {found.n_tensors} tensors")
    else:
        _print(found)
    if not found.same:
        raise click.exceptions.Exit(1)


def _print(found):
    if found.metadata:
        table(["KEY", "A", "B"], [[key, _shown(x), _shown(y)] for key, x, y in found.metadata])
        click.echo()
    if found.tensors:
        table(
            ["TENSOR", "DIFFERS IN", "A", "B", ">RMSE", ">LARGEST"],
            [
                [t.name, t.what, _text(t.a), _text(t.b), _number(t.rmse, ".4%"), _number(t.largest, ".4g")]
                for t in found.tensors
            ],
        )  # fmt: skip
        click.echo()
    click.echo(f"{len(found.metadata)} keys and {len(found.tensors)} of {found.n_tensors} tensors differ")


def _text(value):
    return "" if value is None else " x ".join(map(str, value)) if isinstance(value, tuple) else value


def _number(value, form):
    return "" if value is None else format(value, form)


def _shown(value):
    """A metadata value with its type, on one short line."""
    if value is None:
        return "-"
    text = f"{value.type}: {value.data!r}" if len(value.raw) <= 4096 else f"{value.type} of {len(value.raw)} bytes"
    return text if len(text) <= 60 else text[:57] + "..."
