"""What the site shows that no file under docs/ holds: options of the command, public names, and some other files.

The options are read from the click objects that the command runs, and the names from the sources, so neither can
go out of date. MkDocs calls the functions named ``on_...``.
"""

import ast
import inspect
import posixpath
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = next((url for name, url in PROJECT.get("urls", {}).items() if name.lower() in ("source", "repository")), None)
# Files of the repository that are pages of the site, too.
MORE = {
    "plugins/README.md": "plugins.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
BAR = re.compile(r"^\|.*\\\|.*$", re.MULTILINE)
NAME = re.compile(r"^- `(quantreg[\w.]*)`.*\n", re.MULTILINE)


def on_files(files, config):
    """Add the files of MORE and the style sheet."""
    for path, page in MORE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / ".ci" / "site" / "site.css")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill in what is generated, and lead links to where the site has their targets.

    The heading of a page is its title, which search engines show, and its first paragraph the description. The
    navigation has shorter names.
    """
    name = page.file.src_uri
    page.meta.setdefault("title", re.search(r"^# (.+)$", markdown, re.MULTILINE)[1])
    page.meta.setdefault("description", described_by(markdown))
    if name == "command-line.md":
        markdown = markdown.replace("<!-- options -->", options())
    if name == "api.md":
        face = set(NAME.findall(markdown))
        markdown = NAME.sub(lambda found: directive(found[1], face), markdown)
    origin = next((path for path, made in MORE.items() if made == name), f"docs/{name}")
    return outside_code(markdown, lambda text: BAR.sub(bars, LINK.sub(lambda found: link(found, origin, files), text)))


def described_by(markdown):
    """The first paragraph as plain text, cut after a sentence: search engines show some 160 characters."""
    inside = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    parts = [part.strip() for part in re.split(r"\n\s*\n", inside)]
    found = next(
        (part for part in parts if part and part[0] not in "#|!<-"), "What changed in each version of quantreg."
    )
    text = " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found).translate({ord("`"): None, ord("*"): None}).split())
    short = ""
    for sentence in re.split(r"(?<=[.:?!]) ", text):
        if short and len(short) + len(sentence) > 160:
            break
        short = f"{short} {sentence}".strip()
    return short.removesuffix(":").replace('"', "'")


def directive(name, face):
    """What mkdocstrings replaces by a description. A module is described without what stands on the page itself."""
    folder = ROOT.joinpath(*name.split("."))
    source = next((path for path in (folder / "__init__.py", folder.with_suffix(".py")) if path.exists()), None)
    if source is None:
        return f"::: {name}\n"
    members = [member for member in exported(source) if f"quantreg.{member}" not in face]
    return f"::: {name}\n    options:\n      members: {members}\n"


def exported(source):
    """The names in ``__all__`` of a module."""
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "__all__":
            return ast.literal_eval(statement.value)
    raise click.ClickException(f"{source} has no __all__")


def outside_code(markdown, change):
    """Apply a change to the parts of a page that are not fenced code."""
    parts = re.split(r"^(```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def bars(row):
    """A row of a table. GitHub wants a bar in code to be escaped; Python's Markdown would show the backslash."""
    return re.sub(r"`[^`]+`", lambda code: code[0].replace("\\|", "|"), row[0])


def link(found, origin, files):
    """A link of a file of the repository as the site has it: to a page, to the source, or no more than its text."""
    image, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    if not (ROOT / path).exists():
        raise click.ClickException(f"{origin}: the link to {target} leads nowhere")
    page = MORE.get(path, path.removeprefix("docs/"))
    if files.get_file_from_path(page) is not None:
        return f"{image}[{text}]({page}{anchor})"
    return f"[{text}]({SOURCE}/blob/main/{path})" if SOURCE else text if path in text else f"{text} (`{path}`)"


def options():
    """Every command with its arguments and options."""
    if "quantreg" not in sys.modules:  # quantreg/__init__.py refuses to run from its sources, and is not needed here
        package = sys.modules["quantreg"] = ModuleType("quantreg")
        package.__path__ = [str(ROOT / "quantreg")]
    from quantreg.cli import COMMANDS, cli

    context = click.Context(cli, info_name="quantreg")
    return "\n".join(described(cli.get_command(context, name), name, context) for name in COMMANDS)


def described(command, name, parent):
    """One command, and the commands below it."""
    context = click.Context(command, info_name=name, parent=parent)
    level = "##" if parent.parent is None else "###"
    usage = " ".join(command.get_usage(context).split()[1:])
    lines = [f"{level} {context.command_path}", "", "```text", usage, "```", ""]
    for part in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        text = part.removeprefix("\b\n")
        lines += [f"```text\n{text}\n```" if text != part else escaped(text), ""]
    for option, text in filter(None, (param.get_help_record(context) for param in command.get_params(context))):
        if text or option.startswith("-"):  # the arguments stand in the usage, and the text above explains them
            lines += [f"`{option}`", f":   {escaped(' '.join(text.split()))}", ""]
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            lines.append(described(command.get_command(context, sub), sub, context))
    return "\n".join(lines)


def escaped(text):
    """Text of the command as Markdown: what is in backticks stays, and nothing else has a meaning."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]#])", r"\\\1", part) for part in parts)
