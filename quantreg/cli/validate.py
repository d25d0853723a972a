"""quantreg validate"""

import click

from quantreg.cli.show import printable, warn


@click.command("validate")
@click.argument("file")
def command(file):
    """Check FILE: its header, and every block of every tensor for NaN and infinity, scales included.

    Exit code 1, with a line for each tensor, if something is wrong. Of a split model give any shard.
    """
    import quantreg
    from quantreg.source import Source

    source = Source(file)
    problems = quantreg.validate(file)
    warn(source.warnings)
    for problem in problems:
        click.echo(printable(f"{file}: {problem}"))
    if problems:
        raise click.exceptions.Exit(1)
    click.echo(f"{file}: {len(source.tensors)} tensors in {len(source.paths)} file(s): nothing wrong")
