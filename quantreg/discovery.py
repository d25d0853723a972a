"""Finds plugins: the entry points of the group ``quantreg``, in the order in which they are loaded."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantreg.qtype import QuantType

__all__ = ["BUILT_IN", "LIMIT", "Plugin", "found_plugins", "installed", "uninstalled"]

GROUP = "quantreg"
BUILT_IN = "quantreg"  # this distribution's plugins come first
LIMIT = "QUANTREG_PLUGINS"


@dataclass
class Plugin:
    """One entry point: where it comes from, what it registered, and why it could not be loaded, if so.

    ``replaced`` holds (type name, distribution that provided it before) for each type that this plugin took over.
    """

    name: str
    distribution: str
    version: str
    module: str
    types: "list[QuantType]" = field(default_factory=list)
    replaced: list[tuple[str, str]] = field(default_factory=list)
    error: str | None = None

    @property
    def key(self) -> str:
        """The name under which pluggy knows the plugin."""
        return f"{self.distribution}:{self.name}"

    @property
    def problem(self) -> str:
        """The plugin and why it could not be loaded, on one line."""
        return " ".join(f"plugin {self.name} of {self.distribution}: {self.error}".split())


def installed() -> Iterable[EntryPoint]:
    """The entry points of all installed distributions."""
    return entry_points(group=GROUP)


def found_plugins(entries: Iterable[EntryPoint]) -> tuple[list[tuple[EntryPoint, Plugin]], list[str]]:
    """The plugins to load, built-ins first and then by distribution, and the unknown names in QUANTREG_PLUGINS."""
    found = _described(entries)
    found.sort(key=lambda pair: (pair[1].distribution != BUILT_IN, pair[1].distribution, pair[1].name))
    return _limited(found)


def _described(entries):
    known: dict[int, tuple[str, str]] = {}  # reading a distribution's metadata takes a while
    found = []
    for entry in entries:
        dist = entry.dist
        if id(dist) not in known:
            known[id(dist)] = ("unknown", "")
            with suppress(Exception):  # a distribution may lack metadata, or be damaged or half installed
                if dist is not None:
                    known[id(dist)] = (dist.name or "unknown", dist.version or "")
        found.append((entry, Plugin(entry.name, *known[id(dist)], entry.value)))
    return found


def _limited(found):
    """Choose plugins by QUANTREG_PLUGINS, if it is set; also return the names in it that match none.

    A name with a minus sign leaves a plugin or distribution out. If there are names without one, only these are kept.
    """
    if LIMIT not in os.environ:
        return found, []
    names = {part.strip() for part in os.environ[LIMIT].split(",") if part.strip()}
    left_out = {name[1:].strip() for name in names if name.startswith("-")}
    kept = {name for name in names if not name.startswith("-")}
    chosen, matched = [], set()
    for pair in found:
        plugin = pair[1]
        fits = {
            name
            for name in kept | left_out
            if name == plugin.name or _normalized(name) == _normalized(plugin.distribution)
        }
        matched |= fits
        if not fits & left_out and (fits or not kept) and (kept or left_out):
            chosen.append(pair)
    return chosen, sorted((kept | left_out) - matched)


def _normalized(name):
    """A distribution's name as PyPI compares it: My_Q3 and my-q3 are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


_FOLDERS = 200  # how many folders to look into: an unknown name must not cost a walk through a disk


def uninstalled(name: str, entries: Iterable[EntryPoint]) -> str:
    """How to install the plugin project in or below the current folder that provides a type of this name, or "".

    ``entries`` are the entry points of what is installed.
    """
    here = {_normalized(plugin.distribution) for _, plugin in _described(entries)}
    for file in _project_files():
        project = _read_project(file)
        types = project.get("project", {}).get("entry-points", {}).get(GROUP, {})
        names = [project.get("project", {}).get("name", ""), *types] if types else []
        if _normalized(name) in map(_normalized, names) and _normalized(names[0]) not in here:
            folder = "." if file.parent == Path() else f"./{file.parent.as_posix()}"
            compiled = "mesonpy" in project.get("build-system", {}).get("build-backend", "")
            how = "--no-build-isolation" if compiled else "-e"
            return f"the plugin in {folder} is not installed: run pip install {how} {folder}"
    return ""


def _project_files() -> Iterator[Path]:
    yield Path("pyproject.toml")
    with suppress(OSError):
        folders = sorted(entry.name for entry in os.scandir() if entry.is_dir())
        yield from (Path(folder, "pyproject.toml") for folder in folders[:_FOLDERS])


def _read_project(file: Path) -> dict[str, Any]:
    import tomllib  # slow to load, and seldom needed

    with suppress(OSError, ValueError, AttributeError):
        project = tomllib.loads(file.read_text(encoding="utf-8"))
        tables = [project.get("project", {}), project.get("build-system", {})]
        entry_points = tables[0].get("entry-points", {})
        if all(isinstance(table, dict) for table in [*tables, entry_points, entry_points.get(GROUP, {})]):
            return project
    return {}
