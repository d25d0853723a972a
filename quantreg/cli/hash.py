"""The subcommand `quantreg hash`."""

import click

from quantreg.cli.show import print_json, printable


@click.command("hash")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, as_json: bool) -> None:
    """Print the SHA-256 digest of the bytes of each tensor of FILE, with its name.

    The order of the tensors in the file, their alignment and the split into shards do not change the digests. FILE may
    be a folder as Hugging Face publishes it: then the tensors are those of the GGUF model that it becomes.
    """
    import quantreg

    digests = quantreg.hash_tensors(file)
    if as_json:
        print_json(digests)
        return
    for name in sorted(digests):
        click.echo(f"{digests[name]}  {printable(name)}")
