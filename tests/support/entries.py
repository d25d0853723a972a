"""Entry points that are made up, and a registry of them."""

from contextlib import contextmanager
from importlib.metadata import Distribution
from types import ModuleType

from quantreg import hookimpl
from quantreg.registry import Registry, registry


class Installed(Distribution):
    """A distribution with this text for its metadata; without one it is damaged."""

    def __init__(self, text):
        self.text = text

    def read_text(self, filename):
        return self.text if filename == "METADATA" else None

    def locate_file(self, path):
        return path


class Entry:
    """As importlib.metadata's, with a module given instead of a path."""

    def __init__(self, name, distribution, load):
        self.name, self.value, self.load = name, f"{distribution}.{name}", load
        self.dist = Installed(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")


def fail(error):
    def load():
        raise error

    return load


def registry_of(*entries):
    return Registry(find=lambda: list(entries))


@contextmanager
def registered(plugin):
    """Register a plugin, as long as the block runs."""
    registry.register_plugin(plugin)
    try:
        yield
    finally:
        registry.unregister_plugin(plugin)


@contextmanager
def installed(**hooks):
    """A plugin with these hooks, as long as the block runs."""
    module = ModuleType("careless")
    module.__distribution__ = "careless-dist"
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    with registered(module):
        yield
