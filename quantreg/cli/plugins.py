"""quantreg plugins"""

import click

from quantreg.cli.show import print_json, table


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json):
    """Show every plugin: its distribution, the types it provides with their ids, and why it could not be loaded."""
    from quantreg.registry import registry

    if as_json:
        print_json(
            [
                {
                    "name": p.name, "distribution": p.distribution, "version": p.version, "module": p.module,
                    "types": {t.name: t.type_id for t in p.types}, "replaced": dict(p.replaced), "error": p.error,
                }
                for p in registry.plugins
            ]
        )  # fmt: skip
        return
    rows = []
    for p in registry.plugins:
        provides = ", ".join(f"{t.name} ({t.type_id})" for t in p.types)
        replaced = "".join(f"; replaces {name} of {dist}" for name, dist in p.replaced)
        rows.append([p.name, f"{p.distribution} {p.version}", f"ERROR: {p.error}" if p.error else provides + replaced])
    table(["PLUGIN", "DISTRIBUTION", "PROVIDES"], rows)
