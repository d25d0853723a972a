"""quantreg file-types"""

import click

from quantreg.cli.show import print_json, table


@click.command("file-types")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json):
    """List the file types: what `quantreg quantize` can turn a whole model into.

    NUMBER may be given instead of the name; TYPE is what most tensors get. `quantreg quantize --dry-run` shows what
    becomes of each tensor of a model. Any quant type of `quantreg types` is a file type as well, for all matrices.
    """
    from quantreg.recipes import file_types

    found = file_types.values()
    if as_json:
        fields = ("name", "number", "type", "aliases", "description")
        print_json([{field: getattr(file_type, field) for field in fields} for file_type in found])
        return
    rows = [[_names(f), "" if f.number is None else f.number, f.type, f.description] for f in found]
    table(["FILE TYPE", ">NUMBER", "TYPE", "DESCRIPTION"], rows)


def _names(file_type):
    return " or ".join([file_type.name, *file_type.aliases])
