"""The subcommand `quantreg validate`."""

import click

from quantreg.cli.show import print_json, printable, warn
from quantreg.words import count


@click.command("validate")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, as_json: bool) -> None:
    """Check the GGUF model FILE: its header, its layers, and every block of every tensor.

    Problems are NaN and infinity, in weights or scales, layers that are missing, and layers that lack tensors which
    their neighbours have. There is one line per problem, and the exit code is 1 if there are any. For a split model
    give any shard: all shards are checked. A folder as Hugging Face publishes it is checked as the GGUF model that it
    becomes.
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
