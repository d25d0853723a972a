"""Which types exist, and which plugin provides each: entry points in, two dicts out."""

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import ModuleType

import pluggy

from quantreg import hookspecs
from quantreg.errors import PluginError, UnknownTypeError
from quantreg.qtype import QuantType

__all__ = ["Plugin", "Registry", "registry", "types"]

GROUP = "quantreg"
BUILT_IN = "quantreg"  # the distribution that comes first
LIMIT = "QUANTREG_PLUGINS"

# ggml's file types, old ones included, that are no types, too: a test holds them against the recipes
FILE_TYPES = {
    "COPY", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "IQ2_M", "IQ3_XS", "IQ3_M",
    "MXFP4_MOE", "Q4_1_SOME_F16", "Q4_2", "Q4_3", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8",
}  # fmt: skip


@dataclass
class Plugin:
    """One entry point: where it comes from, what it registered, and why it could not be loaded, if so."""

    name: str
    distribution: str
    version: str
    module: str
    types: list = field(default_factory=list)
    replaced: list = field(default_factory=list)  # (type name, distribution that had it)
    error: str | None = None

    @property
    def problem(self) -> str:
        """Who it is and why it could not be loaded, on one line."""
        return " ".join(f"plugin {self.name} of {self.distribution}: {self.error}".split())


class Manager(pluggy.PluginManager):
    """Pluggy's, but does not look into what a module holds that is no function: that took half the time of loading."""

    def parse_hookimpl_opts(self, plugin, name):
        if isinstance(plugin, ModuleType) and not callable(vars(plugin).get(name, callable)):
            return None
        return super().parse_hookimpl_opts(plugin, name)


class Registry:
    """Loads all plugin modules at the first need, built-ins first, then by distribution name.

    So hooks, replacements and clashes do not depend on what was asked for first. Codecs are not loaded here.
    """

    def __init__(self, find=None):
        self._find = find or (lambda: entry_points(group=GROUP))
        self._lock = threading.RLock()
        self._loaded = False
        self._loading = False
        self._manager = Manager("quantreg")
        self._manager.add_hookspecs(hookspecs)
        self._by_name = {}  # in lower case
        self._by_id = {}
        self._owners = {}  # type name -> Plugin
        self._plugins = []
        self._unknown = []

    # ---- loading ----

    def _load(self):
        if self._loaded:
            return
        with self._lock:
            if self._loaded or self._loading:
                return
            self._loading = True
            try:
                found, self._unknown = _limited(_ordered(self._find()))
                for entry, plugin in found:
                    self._load_plugin(entry, plugin)
                self._loaded = True
            finally:
                self._loading = False

    def _load_plugin(self, entry, plugin):
        self._plugins.append(plugin)
        try:
            module = entry.load()
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; it must disable only itself
            plugin.error = (
                f"cannot be imported: {type(error).__name__}: {error} (mend or reinstall it, or: pip uninstall "
                f"{plugin.distribution})"
            )
            return
        self.register_plugin(module, plugin)

    def register_plugin(self, module, plugin=None):
        """Register a module or object with hook implementations, as an entry point would. Returns its Plugin.

        PluginError, with nothing registered, if it clashes with another and does not replace on purpose.
        """
        named = plugin is None
        if named:
            self._load()
            name = getattr(module, "__name__", type(module).__name__)
            plugin = Plugin(name, getattr(module, "__distribution__", name), "", name)
            self._plugins.append(plugin)
        with self._lock:
            staged = []
            name = f"{plugin.distribution}:{plugin.name}"
            first = self._manager.get_name(module) or (name if self._manager.get_plugin(name) else None)
            try:
                if first is not None:
                    raise PluginError(f"{plugin.module} is registered already, as {first}: one entry point a module")
                self._manager.register(module, name=name)
                if hasattr(module, "register_types"):
                    module.register_types(lambda qtype, replace=False: staged.append((_checked(qtype), replace)))
                for qtype, replace in staged:
                    self._check(qtype, replace, plugin, staged)
            except Exception as error:
                plugin.error = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
                if first is None and self._manager.is_registered(module):
                    self._manager.unregister(module)
                if named:
                    self._plugins.remove(plugin)
                    raise
                return plugin
            for qtype, _ in staged:
                self._add(qtype, plugin)
        return plugin

    def unregister_plugin(self, module):
        """Undo `register_plugin` (types that it had replaced do not come back)."""
        with self._lock:
            key = self._manager.get_name(module)
            self._manager.unregister(module)
            for plugin in [p for p in self._plugins if f"{p.distribution}:{p.name}" == key]:
                self._plugins.remove(plugin)
                for qtype in plugin.types:
                    if self._by_name.get(qtype.name.lower()) is qtype:
                        self._drop(qtype)

    def _check(self, qtype, replace, plugin, staged):
        if any(
            other is not qtype and (_same_name(other, qtype) or other.type_id == qtype.type_id) for other, _ in staged
        ):
            raise PluginError(f"{plugin.distribution} registers {qtype.name} (id {qtype.type_id}) twice")
        for other in self._in_the_way_of(qtype):
            owner = self._owners[other.name].distribution
            if not replace:
                raise PluginError(
                    f"{plugin.distribution} registers {qtype.name} with id {qtype.type_id}, but {owner} already "
                    f"provides {other.name} with id {other.type_id}: choose an id of 1000 and up, or "
                    "register(..., replace=True) to take it over on purpose"
                )
            if owner == BUILT_IN and _layout(qtype) != _layout(other):
                raise PluginError(
                    f"{plugin.distribution} replaces {other.name}, whose name, id and block layout are in files: it "
                    f"must keep {_layout(other)}, not {_layout(qtype)}; choose an id of 1000 and up for another format"
                )
        if plugin.distribution != BUILT_IN and qtype.name.upper() in FILE_TYPES:
            raise PluginError(
                f"{plugin.distribution} registers a type {qtype.name}, but `quantreg quantize` takes {qtype.name} for "
                f"a file type: choose another name, such as MY_{qtype.name}"
            )

    def _in_the_way_of(self, qtype):
        """The registered types of the same name, whatever its case, or id."""
        return {self._by_name.get(qtype.name.lower()), self._by_id.get(qtype.type_id)} - {None}

    def _add(self, qtype, plugin):
        for other in self._in_the_way_of(qtype):
            plugin.replaced.append((other.name, self._owners[other.name].distribution))
            self._drop(other)
        self._by_name[qtype.name.lower()] = self._by_id[qtype.type_id] = qtype
        self._owners[qtype.name] = plugin
        plugin.types.append(qtype)

    def _drop(self, qtype):
        del self._by_name[qtype.name.lower()], self._by_id[qtype.type_id], self._owners[qtype.name]

    # ---- looking up ----

    @property
    def hook(self):
        """Pluggy's hook relay, with all plugins loaded."""
        self._load()
        return self._manager.hook

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        self._load()
        return tuple(self._plugins)

    @property
    def unknown_limits(self) -> list[str]:
        """Names in QUANTREG_PLUGINS that no plugin or distribution has."""
        self._load()
        return self._unknown

    def owner(self, qtype) -> Plugin:
        """The plugin that provides this type."""
        self._load()
        return self._owners[qtype.name]

    def blame(self, name: str, impl, error) -> None:
        """Note what an implementation of the hook `name` has raised where `quantreg plugins` shows it."""
        for plugin in self._plugins:
            if impl.plugin_name == f"{plugin.distribution}:{plugin.name}":
                words = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
                plugin.error = f"{name}: {words}"

    def failed(self, name: str, error) -> str:
        """Words for an exception that came out of a hook: which plugin's implementation raised what."""
        from traceback import walk_tb  # slow to load, and seldom needed

        raised = {frame.f_code for frame, _ in walk_tb(error.__traceback__)}
        for impl in getattr(self.hook, name).get_hookimpls():
            if getattr(impl.function, "__code__", None) in raised:
                distribution, _, plugin = impl.plugin_name.partition(":")
                return f"plugin {plugin} of {distribution}: {name} failed: {type(error).__name__}: {error}"
        return f"{name} failed: {type(error).__name__}: {error}"

    def hooks_of(self, plugin) -> list[str]:
        """The names of the hooks that a plugin implements, in alphabetical order."""
        self._load()
        module = self._manager.get_plugin(f"{plugin.distribution}:{plugin.name}")
        callers = self._manager.get_hookcallers(module) if module is not None else None
        return sorted(caller.name for caller in callers or ())

    def find(self, key) -> QuantType | None:
        """The type of this name (any case), id or QuantType, or None."""
        if isinstance(key, QuantType):
            return key
        self._load()
        if isinstance(key, str):
            return self._by_name.get(key.lower())
        try:
            return self._by_id.get(key.__index__())
        except AttributeError:
            return None

    def get(self, key) -> QuantType:
        """As `find`, but UnknownTypeError, with a suggestion, where no plugin provides the type."""
        found = self.find(key)
        if found is not None:
            return found
        if not isinstance(key, str):
            hint = f"see `quantreg types` for those installed{self.why_missing('')}"
            raise UnknownTypeError(f"no plugin provides GGUF type id {key!r}: {hint}")
        from difflib import get_close_matches  # slow to load

        near = get_close_matches(key.upper(), [qtype.name for qtype in self._by_name.values()], n=1)
        hint = f"did you mean {near[0]}?" if near else "see `quantreg types` for those installed"
        raise UnknownTypeError(f"unknown quant type {key!r}: {hint}{self.why_missing(key)}")

    def why_missing(self, name: str) -> str:
        """What may be the reason that nobody provides what has this name, in brackets; empty if nothing may."""
        broken = sorted((p for p in self._plugins if p.error), key=lambda p: p.name.lower() != name.lower())
        limited = f"QUANTREG_PLUGINS={os.environ[LIMIT]} limits the plugins" if LIMIT in os.environ else ""
        found = "; ".join(filter(None, [broken[0].problem if broken else "", limited]))
        return f" ({found})" if found else ""

    def all_types(self) -> tuple[QuantType, ...]:
        """All types, ordered by id."""
        self._load()
        return tuple(self._by_id[i] for i in sorted(self._by_id))

    def scorer(self, qtype):
        """The hook score_importance, of those plugins that may know better than the type's encoder; None without any.

        Built-ins are left out, and the type's own plugin if its codec reads importance: they say what the encoder
        computes by itself from column statistics, only slower.
        """
        own = self._owners.get(qtype.name)
        fused = own is not None and qtype.codec.has_scorer
        key = f"{own.distribution}:{own.name}" if fused else None
        asked = self._manager.subset_hook_caller(
            "score_importance",
            [
                impl.plugin
                for impl in self.hook.score_importance.get_hookimpls()
                if impl.plugin_name == key or impl.plugin_name.startswith(f"{BUILT_IN}:")
            ],
        )
        return asked if asked.get_hookimpls() else None


def _checked(qtype):
    if not isinstance(qtype, QuantType):
        raise PluginError(f"register() takes a quantreg.QuantType, not {type(qtype).__name__}")
    return qtype


def _same_name(a, b):
    return a.name.lower() == b.name.lower()


def _layout(qtype) -> str:
    header = f" after {qtype.row_header_size} bytes a row" if qtype.row_header_size else ""
    return f"{qtype.name} with id {qtype.type_id}, {qtype.block_size} weights in {qtype.type_size} bytes{header}"


def _ordered(entries):
    """(entry point, Plugin) of each: built-ins first, then by distribution name."""
    known = {}  # a distribution's metadata is a file, and takes a while to read
    found = []
    for entry in entries:
        dist = entry.dist
        if id(dist) not in known:
            try:
                known[id(dist)] = _name_and_version(dist)
            except Exception:  # none, or one that is damaged or half installed
                known[id(dist)] = ("unknown", "")
        found.append((entry, Plugin(entry.name, *known[id(dist)], entry.value)))
    return sorted(found, key=lambda pair: (pair[1].distribution != BUILT_IN, pair[1].distribution, pair[1].name))


def _name_and_version(dist):
    """As dist.name and dist.version, which load the parser of e-mail and read the whole description with it."""
    header = (dist.read_text("METADATA") or dist.read_text("PKG-INFO")).partition("\n\n")[0]
    fields = dict(re.findall(r"^(Name|Version):[ \t]*(\S+)", header, re.MULTILINE))
    return fields["Name"], fields["Version"]


def _limited(found):
    """Those that QUANTREG_PLUGINS names, if it is set, and the names in it that fit none."""
    if LIMIT not in os.environ:
        return found, []
    names = {part.strip() for part in os.environ[LIMIT].split(",") if part.strip()}
    fitting = [
        {name for name in names if name == plugin.name or _same_distribution(name, plugin.distribution)}
        for _, plugin in found
    ]
    chosen = [pair for pair, fits in zip(found, fitting, strict=True) if fits]
    return chosen, sorted(names.difference(*fitting))


def _same_distribution(name, other):
    """Whether two names are of the same one: My_Q3 and my-q3 are."""
    return re.sub(r"[-_.]+", "-", name).lower() == re.sub(r"[-_.]+", "-", other).lower()


class Types(Mapping):
    """The registered types: ``types["Q4_K"]``, ``types[12]``; iterates over names, by id."""

    def __init__(self, registry):
        self._registry = registry

    def __getitem__(self, key):
        return self._registry.get(key)

    def __contains__(self, key):
        return self._registry.find(key) is not None

    def get(self, key, default=None):
        found = self._registry.find(key)
        return default if found is None else found

    def __iter__(self):
        return (qtype.name for qtype in self._registry.all_types())

    def __len__(self):
        return len(self._registry.all_types())

    def __repr__(self):
        return f"<{len(self)} quant types: {', '.join(self)}>"


registry = Registry()
types = Types(registry)
