"""The subcommand `quantreg compare`."""

import dataclasses
from typing import TYPE_CHECKING

import click

from quantreg.cli.show import print_json, table
from quantreg.words import count, listed

if TYPE_CHECKING:
    from quantreg.gguf import Value
    from quantreg.jobs.compare import Comparison


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(a: str, b: str, as_json: bool) -> None:
    """Compare the models A and B, GGUF or safetensors: metadata, types, bytes and weights.

    The exit code is 1 if they differ. The order of the tensors and the split into files do not matter. Safetensors
    has no metadata, so metadata is compared only between GGUF models.

    RELATIVE RMSE is the root mean square difference of the weights, divided by the root mean square of the weights of
    A. LARGEST DIFFERENCE is in units of the weights.
    """
    import quantreg

    found = quantreg.compare(a, b)
    if as_json:
        print_json(
            {
                "same": found.same,
                "metadata": [{"key": key, "a": _shown(x), "b": _shown(y)} for key, x, y in found.metadata],
                "tensors": [dataclasses.asdict(tensor) | {"lost": tensor.lost} for tensor in found.tensors],
            }
        )
    elif found.same:
        click.echo(f"the models have the same metadata and the same {count(found.n_tensors, 'tensor')}")
    else:
        _print(found)
    if not found.same:
        raise click.exceptions.Exit(1)


def _print(found: "Comparison") -> None:
    if found.metadata:
        table(["KEY", "A", "B"], [[key, _shown(x), _shown(y)] for key, x, y in found.metadata])
        click.echo()
    if found.tensors:
        table(
            ["TENSOR", "DIFFERS IN", "A", "B", ">RELATIVE RMSE", ">LARGEST DIFFERENCE"],
            [
                [t.name, t.what, _text(t.a), _text(t.b), _number(t.rmse, ".4%"), _number(t.largest, ".4g")]
                for t in found.tensors
            ],
        )
        click.echo()
    if lost := [tensor.name for tensor in found.tensors if tensor.lost]:
        click.echo(f"B has lost {count(len(lost), 'tensor')} of A: {listed(lost)}")
    keys, tensors = count(len(found.metadata), "key"), count(found.n_tensors, "tensor")
    click.echo(f"the models differ in {keys} and in {len(found.tensors)} of {tensors}")


def _text(value: str | tuple[int, ...] | None) -> str:
    return "" if value is None else " x ".join(map(str, value)) if isinstance(value, tuple) else value


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _shown(value: "Value | None") -> str:
    """Format a metadata value with its type, on one short line."""
    if value is None:
        return "-"
    text = f"{value.type}: {value.data!r}" if len(value.raw) <= 4096 else f"{value.type} of {len(value.raw)} bytes"
    return text if len(text) <= 60 else text[:57] + "..."
