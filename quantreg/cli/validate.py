"""quantreg validate"""

import click

from quantreg.cli.show import print_json, printable, warn


@click.command("validate")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file, as_json):
    """Check FILE: its header, and every block of every tensor for NaN and infinity, scales included.

    Exit code 1, with a line for each tensor, if something is wrong. Of a split model give any shard.
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
            click.echo(f"{file}: {found.n_tensors} tensors in {files} file(s): nothing wrong")
    if not found.ok:
        raise click.exceptions.Exit(1)
