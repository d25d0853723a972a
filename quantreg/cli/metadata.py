"""quantreg metadata"""

import json

import click

ALIASES = {"int": "i32", "uint": "u32", "float": "f32", "str": "string"}


@click.group("metadata")
def command():
    """Show or change the metadata of a GGUF file. Changes are written to a new file, which appears when complete."""


_force = click.option("--force", is_flag=True, help="Replace OUT if it exists.")


@command.command("get")
@click.argument("file")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
def get(file, keys):
    """Print values of FILE.

    Of one KEY as it is, of several or all as JSON, a key a line.
    """
    from quantreg.errors import MetadataError
    from quantreg.jobs.source import Source

    metadata = Source(file).metadata
    for key in keys:
        if key not in metadata:
            raise MetadataError(f"{file}: has no key {key}: `quantreg metadata get {file}` shows all")
    if len(keys) == 1:
        value = metadata[keys[0]]
        click.echo(value if isinstance(value, str) else json.dumps(value))
        return
    for key in keys or metadata:
        click.echo(json.dumps({key: metadata[key]}))


@command.command("set")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT")
@click.argument("values", nargs=-1, required=True, metavar="KEY=TYPE:VALUE...")
@_force
def set_(source, out, values, force):
    """Write IN to OUT with keys set.

    TYPE is u8 to u64, i8 to i64, f32, f64, bool, string, or as in array[u32]:[1,2].
    """
    import quantreg

    quantreg.edit_metadata(source, out, set=dict(map(_parse, values)), force=force)


@command.command("remove")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_force
def remove(source, out, keys, force):
    """Write IN to OUT without some keys."""
    import quantreg

    quantreg.edit_metadata(source, out, remove=keys, force=force)


@command.command("rename")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT")
@click.argument("names", nargs=-1, required=True, metavar="OLD=NEW...")
@_force
def rename(source, out, names, force):
    """Write IN to OUT with keys renamed."""
    import quantreg

    for name in names:
        if not all(name.partition("=")):
            raise click.UsageError(f"{name!r}: expected OLD=NEW.")
    quantreg.edit_metadata(source, out, rename=dict(name.split("=", 1) for name in names), force=force)


def _parse(text):
    """(key, Value) of KEY=TYPE:VALUE."""
    from quantreg.gguf import Value

    key, equals, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not (key and equals and colon):
        raise click.UsageError(f"{text!r}: expected KEY=TYPE:VALUE, for instance general.name=string:mine.")
    kind = ALIASES.get(kind, kind)
    if kind == "string":
        return key, Value(kind, value)
    try:
        return key, Value(kind, json.loads(value))
    except (ValueError, RecursionError):
        expected = {"bool": "true or false"}.get(kind, "JSON such as [1,2]" if kind.startswith("array") else "a number")
        raise click.UsageError(f"{text!r}: {value!r} is no {kind}: expected {expected}.") from None
