"""The subcommand `quantreg file-types`."""

from typing import TYPE_CHECKING

import click

from quantreg.cli.show import print_json, table

if TYPE_CHECKING:
    from quantreg.recipes import FileType


@click.command("file-types")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the file types that `quantreg quantize` accepts for a whole model.

    You can give the NUMBER instead of the name. TYPE is the type of most tensors; the others follow the rules of the
    file type. `quantreg quantize --dry-run` shows the type of every tensor of a model.

    You can also give any type that `quantreg types` lists. All matrices then get that type. With a plugin's type, the
    output and the token embeddings get better types, as in the file types above. --pure gives it to them, too.
    """
    from quantreg.recipes import file_types

    found = file_types.values()
    if as_json:
        fields = ("name", "number", "type", "aliases", "description")
        print_json([{field: getattr(file_type, field) for field in fields} for file_type in found])
        return
    rows = [[_names(f), "" if f.number is None else f.number, f.type, f.description] for f in found]
    table(["FILE TYPE", ">NUMBER", "TYPE", "DESCRIPTION"], rows)


def _names(file_type: "FileType") -> str:
    return " or ".join([file_type.name, *file_type.aliases])
