"""The subcommand `quantreg metadata`."""

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from quantreg.gguf import Value


@click.group("metadata")
def command() -> None:
    """Show or change the metadata of a GGUF model.

    A change is written to a new file, which appears only when it is complete.
    """


_force = click.option("--force", is_flag=True, help="Replace OUT if it exists.")


@command.command("get")
@click.argument("file")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
def get(file: str, keys: tuple[str, ...]) -> None:
    """Print metadata values of FILE, a GGUF model or the folder of a published model.

    For one KEY, only the value is printed. For several, or for all keys if none is given, each line is a JSON object
    with one key and its value.
    """
    from quantreg.cli.show import warn
    from quantreg.errors import MetadataError
    from quantreg.jobs.inputs import open_described

    source = open_described(file, partial=True)
    metadata = source.metadata
    warn(source.warnings)
    for key in keys:
        if key not in metadata:
            raise MetadataError(f"{file} has no key {key}: `quantreg metadata get {file}` shows all keys")
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
def set_(source: str, out: str, values: tuple[str, ...], force: bool) -> None:
    """Set metadata keys: write IN to OUT with the new values.

    TYPE is string, bool, f32, f64, u8, u16, u32, u64, i8, i16, i32 or i64. As in --override-kv, str stands for string,
    float for f32, and int for u32 (i32 if VALUE is negative). For an array write array[TYPE] and a JSON list, for
    example tokenizer.ids=array[u32]:[1,2].
    """
    import quantreg

    quantreg.edit_metadata(source, out, set=dict(map(_parse, values)), force=force)


@command.command("remove")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_force
def remove(source: str, out: str, keys: tuple[str, ...], force: bool) -> None:
    """Remove metadata keys: write IN to OUT without them."""
    import quantreg

    quantreg.edit_metadata(source, out, remove=keys, force=force)


@command.command("rename")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT")
@click.argument("names", nargs=-1, required=True, metavar="OLD=NEW...")
@_force
def rename(source: str, out: str, names: tuple[str, ...], force: bool) -> None:
    """Rename metadata keys: write IN to OUT with the new names."""
    import quantreg

    for name in names:
        if not all(name.partition("=")):
            raise click.UsageError(f"{name!r}: expected OLD=NEW, for example general.title=general.name.")
    renamed = {old: new for old, _, new in (name.partition("=") for name in names)}
    quantreg.edit_metadata(source, out, rename=renamed, force=force)


def _parse(text: str) -> "tuple[str, Value]":
    """Parse KEY=TYPE:VALUE. Raises MetadataError if the type cannot hold the value."""
    from quantreg.errors import GGUFFormatError, MetadataError
    from quantreg.gguf import Value
    from quantreg.recipes.values import parse_value

    key, equals, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not (key and equals and colon):
        raise click.UsageError(f"{text!r}: expected KEY=TYPE:VALUE, for example general.name=string:mine.")
    try:
        parsed = parse_value(kind, value)
    except ValueError as error:
        raise click.UsageError(f"{text!r}: {error}.") from None
    try:
        return key, Value(*parsed)
    except GGUFFormatError as error:
        raise MetadataError(f"{key}: {error.message}") from None
