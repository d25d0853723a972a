"""The subcommand `quantreg inspect`."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.show import bits, print_json, size, table, warn
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg.gguf import Metadata, TensorInfo

_LONGEST = 60  # the number of characters shown of a metadata value


@click.command("inspect")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, as_json: bool) -> None:
    """Show the metadata and the tensors of the GGUF or safetensors model FILE.

    For a split model give any shard: all shards are read. If some are missing, the shard is shown alone, with a
    warning. The last number of a shape is the row length, as in NumPy.

    The folder of a published model is shown as the GGUF model that it becomes, and FROM says which of its tensors each
    is made of. For the folder as it is stored, give its safetensors file or index.
    """
    from quantreg.jobs.inputs import open_to_show

    source, metadata, origins = open_to_show(file)
    weights = sum(t.n_elements for t in source.tensors)
    data = sum(t.nbytes for t in source.tensors)
    bpw = data * 8 / weights if weights else 0.0
    if as_json:
        print_json(
            {
                "files": source.paths,
                "bytes": source.size,
                "parameters": weights,
                "bits_per_weight": bpw,
                "metadata": {key: _json_value(metadata, key) for key in metadata},
                "tensors": [
                    {
                        "name": t.name,
                        "shape": list(t.shape),
                        "type": t.type_name,
                        "type_id": t.type_id,
                        "bytes": t.nbytes,
                    }
                    | ({"from": origins[t.name]} if origins else {})
                    for t in source.tensors
                ],
                "warnings": source.warnings,
            }
        )
        return
    files = count(len(source.paths), "file")
    form = f"GGUF version {source.headers[0].version}" if source.headers else "safetensors"
    if origins:
        form = "a published folder, shown as the GGUF model that it becomes"
    click.echo(f"{file}: {form}, {size(source.size)}, {files}")
    click.echo(f"{weights:,} parameters, {bits(bpw)} bits per weight")
    click.echo(f"{count(len(source.tensors), 'tensor')}: {_by_type(source.tensors)}\n")
    if source.headers or origins:
        table(["KEY", "TYPE", "VALUE"], [[k, metadata.value_type(k), _short(metadata, k)] for k in metadata])
        click.echo()
    headings, rows = ["TENSOR", "TYPE", "SHAPE", ">SIZE"], []
    for t in source.tensors:
        rows.append([t.name, t.type_name, " x ".join(map(str, t.shape)) or "scalar", size(t.nbytes)])
        rows[-1] += [_first(origins[t.name])] if origins else []
    table([*headings, *(["FROM"] if origins else [])], rows)
    warn(source.warnings)


def _first(names: "tuple[str, ...]") -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "config.json"


def _by_type(tensors: "Iterable[TensorInfo]") -> str:
    counts: dict[str, int] = {}
    for t in tensors:
        counts[t.type_name] = counts.get(t.type_name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items(), key=lambda item: -item[1]))


def _short(metadata: "Metadata", key: str) -> str:
    """Format a value on one line. A long array shows only its length: decoding a vocabulary takes time."""
    length = metadata.array_length(key)
    if length is not None and length > 8:
        return f"[{length} values]"
    text = repr(metadata[key])
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _json_value(metadata: "Metadata", key: str) -> Any:
    """Convert a value to what JSON can hold. A long array becomes {"length": n}."""
    length = metadata.array_length(key)
    if length is not None and length > 64:
        return {"length": length}
    value = metadata[key]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
