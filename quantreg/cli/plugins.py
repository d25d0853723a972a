"""The subcommand `quantreg plugins`: list plugins, create one, check a codec."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import click

from quantreg.cli.show import print_json, table

if TYPE_CHECKING:
    from quantreg.registry import Plugin, Registry


@click.group("plugins", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool) -> None:
    """List the installed plugins, their types with ids, and the reason if one could not be loaded.

    CPU lists the processor levels that the codecs of a plugin were built for; "python" is a codec in NumPy. ABI is the
    version of the codec interface that they were built for.

    The environment variable QUANTREG_PLUGINS=NAME,... loads only these plugins or distributions. With a minus sign,
    QUANTREG_PLUGINS=-NAME, it leaves one out.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    from quantreg.recipes import architectures, file_types
    from quantreg.registry import registry

    # Call the hooks for subcommands, file types and architectures, so that the plugins that fail in them are shown.
    root = click.get_current_context().find_root()
    if isinstance(root.command, click.Group):
        root.command.list_commands(root)
    len(file_types)
    len(architectures)
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


def _short(hooks: Iterable[str]) -> list[str]:
    """Drop register_types, which every plugin has."""
    return [name for name in hooks if name != "register_types"]


def _describe(plugin: "Plugin", registry: "Registry") -> dict[str, Any]:
    """Describe a plugin as JSON-ready data. This loads its codecs, and records the error if one cannot be loaded."""
    from quantreg.errors import QuantregError

    levels: list[str] = []
    abi, hooks = None, registry.hooks_of(plugin)
    for qtype in plugin.types:
        try:
            codec = qtype.codec
        except QuantregError as problem:
            plugin.error = plugin.error or str(problem)
            continue
        levels += [level for level in codec.built if level not in levels]
        abi = codec.abi if abi is None else abi
        if codec.has_scorer and "score_importance" not in hooks:
            hooks = sorted([*hooks, "score_importance"])  # QuantType.score calls it
    return {
        "name": plugin.name, "distribution": plugin.distribution, "version": plugin.version, "module": plugin.module,
        "types": {t.name: t.type_id for t in plugin.types}, "replaced": dict(plugin.replaced),
        "hooks": hooks, "cpu_levels": levels, "abi": abi, "error": plugin.error,
    }  # fmt: skip


@command.command("new")
@click.argument("name")
@click.option("--python", "kind", flag_value="python", default=True, help="Write the codec in NumPy (default).")
@click.option(
    "--cython", "kind", flag_value="cython",
    help="Write the codec in Cython, which needs a C compiler. If the type is installed with a codec in NumPy, write "
    "its compiled twin to NAME-cython.",
)  # fmt: skip
@click.option("--recipe", "kind", flag_value="recipe", help="Write a file type: a mixture of types for whole models.")
@click.option("--hook", "kind", flag_value="hook", help="Write a hook that scores the importance of weights.")
@click.option(
    "--type", "type_names", multiple=True, metavar="TYPE",
    help="Name of a type. Repeat it for several types in one project. Default: NAME.",
)  # fmt: skip
@click.option(
    "--id", "type_id", type=click.IntRange(0, 2**31 - 1), metavar="N",
    help="Type id; with several types, that of the first. Default: an id from 1000 up that follows from the name.",
)  # fmt: skip
@click.option(
    "--block", type=click.IntRange(1), metavar="N",
    help="Weights in a block, a multiple of 8 from 16 to 256. Default: 32.",
)  # fmt: skip
@click.option(
    "--row-header", type=click.IntRange(0), metavar="N",
    help="Bytes at the start of each row, 4 or more. Default: 0, no header.",
)  # fmt: skip
@click.option("--in", "folder", default=".", metavar="FOLDER", help="Parent folder. Default: the current folder.")
def new(
    name: str,
    kind: Literal["python", "cython", "recipe", "hook"],
    type_names: tuple[str, ...],
    type_id: int | None,
    block: int | None,
    row_header: int | None,
    folder: str,
) -> None:
    """Create a folder NAME with a working plugin.

    Its codec encodes a simple 3-bit format, which you change into your own. NAME becomes the name of the distribution.
    For example, my-q3 gives a type MY_Q3.
    """
    from quantreg.scaffold.project import Project, for_pip

    project = Project.design(name, kind, type_names, type_id, block, row_header)
    target = project.write(folder)
    path = for_pip(target)
    compiled = kind == "cython"
    names = [t.name for t in project.types]
    what = {"recipe": f"the file type {project.package.upper()}", "hook": "a hook that scores importance"}.get(
        kind, f"the type{'s' if len(names) > 1 else ''} {', '.join(names)}"
    )
    if project.twin_of:
        what += f", the compiled twin of {project.twin_of}"
    then = [f"quantreg plugins check {each}" for each in names]
    if kind != "hook":
        file_type = names[0] if names else project.package.upper()
        low = file_type.lower().replace("_", "-")
        then.append(f"quantreg quantize model-f16.gguf model-{low}.gguf {file_type}")
    lines = [
        *(["pip install meson-python ninja 'Cython>=3.3'   # and GCC or Clang"] if compiled else []),
        f"pip install {'--no-build-isolation' if compiled else '-e'} '{path}[test]'",
        f"pytest {path}",
        *then,
    ]
    edit = " and ".join(str(target / source) for source in project.sources)
    click.echo(f"{target} is a plugin with {what}. Edit {edit}. Next:\n\n" + "\n".join(f"  {line}" for line in lines))
    if project.note:
        click.echo(f"warning: {project.note}", err=True)


@command.command("check")
@click.argument("name")
@click.option("--quick", is_flag=True, help="Test fewer shapes, scales and seeds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--golden", metavar="FILE", help="Compare the encoded bytes with this file.")
@click.option("--update-golden", is_flag=True, help="Write the encoded bytes of this run to the file of --golden.")
@click.pass_context
def check(
    ctx: click.Context, /, name: str, quick: bool, as_json: bool, golden: str | None, update_golden: bool
) -> None:
    """Test the codec of the type NAME with the conformance kit.

    The exit code is 1 if a check fails. A compiled codec that crashes fails the check that it crashed in. With
    QUANTREG_DEBUG=1 all checks run in one process, for a debugger.
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
