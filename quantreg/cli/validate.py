"""The subcommand `quantreg validate`."""

import click

from quantreg.cli.show import print_json, printable, warn
from quantreg.words import count


@click.command("validate")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, as_json: bool) -> None:
    """Check the header of FILE, and look for NaN and infinity in every block of every tensor, scales included.

    If something is wrong, one line per tensor says what, and the exit code is 1. For a split model give any shard: all
    shards are checked.
    """
    import quantreg

    found = quantreg.validate(file)
    files = len(found.paths)
    warn(found.warnings)
    if as_json:
        print_json({"file": file, "tensors": found.n_tensors, "files": files, "problems": found.problems})
    else:
        for problem in found.problems:
            click.echo(printable(f"{file}: {problem}"))
        if found.ok:
            click.echo(f"{file}: {count(found.n_tensors, 'tensor')} in {count(files, 'file')}: no problems found")
    if not found.ok:
        raise click.exceptions.Exit(1)
