"""quantreg inspect"""

import math

import click

from quantreg.cli.show import bits, print_json, size, table, warn

LONGEST = 60  # characters of a value that are shown


@click.command("inspect")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file, as_json):
    """Show the metadata and tensors of FILE; of a split model give any shard. Shapes are in NumPy order: rows last."""
    from quantreg.jobs.source import Source

    source = Source(file)
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
                "metadata": {key: _json_value(source.metadata, key) for key in source.metadata},
                "tensors": [
                    {
                        "name": t.name,
                        "shape": list(t.shape),
                        "type": t.type_name,
                        "type_id": t.type_id,
                        "bytes": t.nbytes,
                    }
                    for t in source.tensors
                ],
                "warnings": source.warnings,
            }
        )
        return
    click.echo(f"{file}: GGUF version {source.headers[0].version}, {size(source.size)}, {len(source.paths)} file(s)")
    click.echo(f"{weights:,} parameters, {bits(bpw)} bits per weight")
    click.echo(f"{len(source.tensors)} tensors: {_by_type(source.tensors)}\n")
    table(
        ["KEY", "TYPE", "VALUE"],
        [[k, source.metadata.value_type(k), _short(source.metadata, k)] for k in source.metadata],
    )
    click.echo()
    table(
        ["TENSOR", "TYPE", "SHAPE", ">SIZE"],
        [[t.name, t.type_name, " x ".join(map(str, t.shape)) or "scalar", size(t.nbytes)] for t in source.tensors],
    )
    warn(source.warnings)


def _by_type(tensors):
    counts = {}
    for t in tensors:
        counts[t.type_name] = counts.get(t.type_name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items(), key=lambda item: -item[1]))


def _short(metadata, key):
    """A value on one line; arrays by length only, since decoding a vocabulary takes time."""
    length = metadata.array_length(key)
    if length is not None and length > 8:
        return f"[{length} values]"
    text = repr(metadata[key])
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _json_value(metadata, key):
    """As JSON can hold it; long arrays as {"length": n}."""
    length = metadata.array_length(key)
    if length is not None and length > 64:
        return {"length": length}
    value = metadata[key]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
