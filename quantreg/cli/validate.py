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
    from quantreg.source import Source

    source = Source(file)
    problems = quantreg.validate(file)
    warn(source.warnings)
    if as_json:
        print_json(
            {"file": file, "tensors": len(source.tensors), "files": len(source.paths), "problems": list(problems)}
        )
    else:
        for problem in problems:
            click.echo(printable(f"{file}: {problem}"))
        if not problems:
            click.echo(f"{file}: {len(source.tensors)} tensors in {len(source.paths)} file(s): nothing wrong")
    if problems:
        raise click.exceptions.Exit(1)
