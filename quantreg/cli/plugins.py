"""quantreg plugins: list them, make a new one, check a type's codec"""

import click

from quantreg.cli.show import print_json, table


@click.group("plugins", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx, as_json):
    """Show every plugin: its distribution, types with their ids, hooks, and why it could not be loaded.

    CPU are the levels its codecs were built for ("python" for a codec in NumPy), ABI is the codec ABI they were built
    for. Environment: QUANTREG_PLUGINS=NAME,... loads only these plugins or distributions.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


def _list(as_json):
    from quantreg.recipes import file_types
    from quantreg.registry import registry

    click.get_current_context().find_root().command.list_commands(None)
    len(file_types)  # both ask hooks, which may show that a plugin fails
    found = [_describe(plugin, registry) for plugin in registry.plugins]
    if as_json:
        print_json(found)
        return
    rows = []
    for p in found:
        provides = ", ".join(f"{name} ({type_id})" for name, type_id in p["types"].items())
        replaced = "".join(f"; replaces {name} of {dist}" for name, dist in p["replaced"].items())
        version = f"{p['distribution']} {p['version']}".strip()
        row = [p["name"], version, f"{provides}{replaced}", " ".join(_short(p["hooks"])), " ".join(p["cpu_levels"])]
        rows.append([*row, "" if p["abi"] is None else p["abi"]])
    table(["PLUGIN", "DISTRIBUTION", "TYPES", "OTHER HOOKS", "CPU", ">ABI"], rows)
    for plugin in registry.plugins:
        if plugin.error:
            click.echo(plugin.problem, err=True)
    for name in registry.unknown_limits:
        click.echo(f"QUANTREG_PLUGINS names {name!r}: no plugin or distribution of this name is installed", err=True)


def _short(hooks):
    """Without what every plugin has."""
    return [name for name in hooks if name != "register_types"]


def _describe(plugin, registry):
    """One plugin as JSON-ready data; its codecs are loaded, which may show that they cannot be."""
    from quantreg.errors import QuantregError

    levels, abi, hooks = [], None, registry.hooks_of(plugin)
    for qtype in plugin.types:
        try:
            codec = qtype.codec
        except QuantregError as problem:
            plugin.error = plugin.error or str(problem)
            continue
        levels += [level for level in codec.built if level not in levels]
        abi = codec.abi if abi is None else abi
        if codec.has_scorer and "score_importance" not in hooks:
            hooks = sorted([*hooks, "score_importance"])  # QuantType.score answers it for the type
    return {
        "name": plugin.name, "distribution": plugin.distribution, "version": plugin.version, "module": plugin.module,
        "types": {t.name: t.type_id for t in plugin.types}, "replaced": dict(plugin.replaced),
        "hooks": hooks, "cpu_levels": levels, "abi": abi, "error": plugin.error,
    }  # fmt: skip


@command.command("new")
@click.argument("name")
@click.option("--python", "kind", flag_value="python", default=True, help="A codec in NumPy (default).")
@click.option("--cython", "kind", flag_value="cython", help="A codec in Cython; needs a C compiler.")
@click.option("--id", "type_id", type=click.IntRange(1000, 2**31 - 1), metavar="N", help="Type id; default: from NAME.")
@click.option("--in", "folder", default=".", metavar="FOLDER", help="Where to put it; default: here.")
def new(name, kind, type_id, folder):
    """Write a folder NAME that holds a working plugin: a 3-bit format to change into yours.

    NAME is its distribution's name, such as my-q3; the type is then MY_Q3.
    """
    from quantreg.scaffold import new_plugin

    target = new_plugin(name, folder, kind=kind, type_id=type_id)
    module = name.replace("-", "_")
    edit = target / module / (f"{module}.py" if kind == "python" else f"_{module}.pyx")
    path = target if target.is_absolute() else f"./{target}"  # to pip, a word without a slash is a name on PyPI
    how = "-e" if kind == "python" else "--no-build-isolation"
    need = "" if kind == "python" else "  pip install meson-python ninja 'Cython>=3.3'   # and GCC or Clang\n"
    click.echo(
        f"{target}: a plugin with the type {module.upper()}. Its codec is {edit}. Next:\n\n{need}"
        f"  pip install {how} '{path}[test]'\n"
        f"  pytest {path}\n"
        f"  quantreg plugins check {module.upper()}\n"
        f"  quantreg quantize model-f16.gguf model-{name}.gguf {module.upper()}"
    )


@command.command("check")
@click.argument("name")
@click.option("--quick", is_flag=True, help="Fewer shapes, scales and seeds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--golden", metavar="FILE", help="Hold the bytes against this file.")
@click.option("--update-golden", is_flag=True, help="Write the file of --golden anew.")
@click.pass_context
def check(ctx, name, quick, as_json, golden, update_golden):
    """Run the conformance kit on the type NAME.

    Exit code 1 if a check fails.
    """
    from quantreg.testing import check_codec

    if update_golden and not golden:
        raise click.UsageError("--update-golden needs --golden FILE.")
    report = check_codec(name, "quick" if quick else "full", golden=golden, update_golden=update_golden, raises=False)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(str(report))
    ctx.exit(0 if report.ok else 1)
