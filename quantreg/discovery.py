"""Finds plugins: the entry points of the group ``quantreg``, in the order in which they are loaded."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantreg.qtype import QuantType

__all__ = ["BUILT_IN", "LIMIT", "Plugin", "found_plugins", "installed"]

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
    found.sort(key=lambda pair: (pair[1].distribution != BUILT_IN, pair[1].distribution, pair[1].name))
    return _limited(found)


def _limited(found):
    """Keep the plugins that QUANTREG_PLUGINS names, if it is set; also return the names that match none."""
    if LIMIT not in os.environ:
        return found, []
    names = {part.strip() for part in os.environ[LIMIT].split(",") if part.strip()}
    matching = [
        {name for name in names if name == plugin.name or _normalized(name) == _normalized(plugin.distribution)}
        for _, plugin in found
    ]
    chosen = [pair for pair, matches in zip(found, matching, strict=True) if matches]
    return chosen, sorted(names.difference(*matching))


def _normalized(name):
    """A distribution's name as PyPI compares it: My_Q3 and my-q3 are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()
