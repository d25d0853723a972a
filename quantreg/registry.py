"""Which types exist and which plugin provides each: the one place that looks types up."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, ValuesView
from importlib.metadata import EntryPoint
from typing import Any

import pluggy

from quantreg import discovery, hookspecs
from quantreg.discovery import BUILT_IN, LIMIT, Plugin
from quantreg.errors import PluginError, UnknownTypeError
from quantreg.faults import PLUGIN_ERRORS, describe, trace
from quantreg.ggml import FILE_TYPE_NAMES, TYPES, TypeLayout
from quantreg.qtype import QuantType

__all__ = ["Plugin", "Registry", "Types", "find_layout", "layout_of", "registry", "types"]


class Registry:
    """Loads all plugin modules at the first need, built-ins first, then by distribution name.

    So hooks, replacements and clashes do not depend on what was asked for first. Codecs are not loaded here.
    """

    def __init__(self, find: Callable[[], Iterable[EntryPoint]] | None = None) -> None:
        self._find = find or discovery.installed
        self._lock = threading.RLock()
        self._loaded = False
        self._loading = False
        self._manager = pluggy.PluginManager("quantreg")
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(hookspecs.EncoderScores(), name=BUILT_IN)
        self._by_name: dict[str, QuantType] = {}  # by name in lower case
        self._by_id: dict[int, QuantType] = {}
        self._owners: dict[str, Plugin] = {}  # by type name
        self._replaced: dict[str, QuantType] = {}  # what a type with this name replaced
        self._plugins: list[Plugin] = []
        self._unknown: list[str] = []
        self._contested: dict[str, list[tuple[str, str]]] = {}  # type name -> (distribution, its type) not taken
        self.ask_scorers: bool = True  # the conformance kit checks codecs alone
        self._looked_up: set[str] = set()  # contested types that somebody looked up

    # ---- loading ----

    def _load(self) -> None:
        if self._loaded:
            return
        with self._lock:
            if self._loaded or self._loading:
                return
            self._loading = True
            try:
                found, self._unknown = discovery.found_plugins(self._find())
                for entry, plugin in found:
                    self._load_plugin(entry, plugin)
                self._loaded = True
            finally:
                self._loading = False

    def _load_plugin(self, entry, plugin):
        self._plugins.append(plugin)
        try:
            module = entry.load()
        except PLUGIN_ERRORS as error:  # it must disable only itself
            trace(error)
            plugin.error = (
                f"cannot be imported: {describe(error)} (repair or reinstall it, or run: pip uninstall "
                f"{plugin.distribution})"
            )
            return
        self.register_plugin(module, plugin)

    def register_plugin(self, module: object, plugin: Plugin | None = None) -> Plugin:
        """Register a module or object with hook implementations, as an entry point would. Returns its Plugin.

        Raises PluginError, and registers nothing, if the plugin clashes with another without replacing it on purpose.
        """
        by_hand = plugin is None
        if plugin is None:
            self._load()
            name = getattr(module, "__name__", type(module).__name__)
            plugin = Plugin(name, getattr(module, "__distribution__", name), "", name)
            self._plugins.append(plugin)
        with self._lock:
            staged: list[tuple[QuantType, bool]] = []
            first = self._manager.get_name(module)
            if first is None and self._manager.get_plugin(plugin.key):
                first = plugin.key
            try:
                if first is not None:
                    again = f"{plugin.module} is already registered, as {first}"
                    raise PluginError(f"{again}: use one entry point per module")
                problem = hookspecs.register(self._manager, module, plugin.key)
                if problem:
                    raise PluginError(problem)
                if hasattr(module, "register_types"):
                    module.register_types(lambda qtype, replace=False: staged.append((_checked(qtype), replace)))
                for qtype, replace in staged:
                    self._check(qtype, replace, plugin, staged)
            except PLUGIN_ERRORS as error:
                trace(error)
                plugin.error = str(error) if isinstance(error, PluginError) else describe(error)
                if first is None and self._manager.is_registered(module):
                    self._manager.unregister(module)
                if by_hand:
                    self._forget(plugin)
                    raise
                return plugin
            for qtype, _ in staged:
                self._add(qtype, plugin)
        return plugin

    def unregister_plugin(self, module: object) -> None:
        """Undo `register_plugin`. Types that the plugin had replaced do not come back."""
        with self._lock:
            key = self._manager.get_name(module)
            self._manager.unregister(module)
            for plugin in [p for p in self._plugins if p.key == key]:
                self._forget(plugin)
                self._change({qtype for qtype in plugin.types if self._by_name.get(qtype.name.lower()) is qtype})

    def _forget(self, plugin):
        self._plugins.remove(plugin)
        for others in self._contested.values():
            others[:] = [other for other in others if other[0] != plugin.distribution]

    def _check(self, qtype, replace, plugin, staged):
        if any(
            other is not qtype and (other.name.lower() == qtype.name.lower() or other.type_id == qtype.type_id)
            for other, _ in staged
        ):
            raise PluginError(f"{plugin.distribution} registers {qtype.name} (id {qtype.type_id}) twice")
        for other in self._in_the_way_of(qtype):
            owner = self._owners[other.name].distribution
            if not replace:
                self._contested.setdefault(other.name, []).append((plugin.distribution, qtype.name))
                another = "another name" if other.name.lower() == qtype.name.lower() else "another id, 1000 or above"
                raise PluginError(
                    f"{plugin.distribution} registers {qtype.name} with id {qtype.type_id}, but {owner} already "
                    f"provides {other.name} with id {other.type_id}: choose {another}, or use "
                    "register(..., replace=True) to replace it on purpose"
                )
            if owner == BUILT_IN and _layout(qtype) != _layout(other):
                raise PluginError(
                    f"{plugin.distribution} replaces {other.name}, which existing files use: the replacement must keep "
                    f"{_layout(other)}, not {_layout(qtype)}; choose an id of 1000 or above for another format"
                )
        if plugin.distribution != BUILT_IN and qtype.name.upper() in FILE_TYPE_NAMES:
            raise PluginError(
                f"{plugin.distribution} registers a type {qtype.name}, but `quantreg quantize` knows {qtype.name} as a "
                f"file type: choose another name, such as MY_{qtype.name}"
            )

    def _in_the_way_of(self, qtype):
        """The registered types that have the same name, in any case, or the same id."""
        return {self._by_name.get(qtype.name.lower()), self._by_id.get(qtype.type_id)} - {None}

    def _add(self, qtype, plugin):
        for other in (others := self._in_the_way_of(qtype)):
            plugin.replaced.append((other.name, self._owners[other.name].distribution))
            self._contested.setdefault(qtype.name, []).append(plugin.replaced[-1][::-1])
            self._replaced[qtype.name] = other
        self._change(others, qtype, plugin)
        plugin.types.append(qtype)

    def _change(self, gone, new=None, owner=None):
        """Take types out of the tables, and put a new one in. A thread that looks a type up finds one or the other."""
        owners = {qtype: self._owners[qtype.name] for qtype in self._by_name.values() if qtype not in gone}
        if new is not None:
            owners[new] = owner
        self._owners = {qtype.name: plugin for qtype, plugin in owners.items()}
        self._by_name, self._by_id = {q.name.lower(): q for q in owners}, {q.type_id: q for q in owners}
        self._replaced = {name: old for name, old in self._replaced.items() if name in self._owners}

    # ---- plugins and hooks ----

    @property
    def hook(self) -> Any:
        """Pluggy's hook relay, with all plugins loaded."""
        self._load()
        return self._manager.hook

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All plugins in the order in which they were loaded, those that failed included."""
        self._load()
        return tuple(self._plugins)

    @property
    def unknown_limits(self) -> list[str]:
        """Names in QUANTREG_PLUGINS that match no plugin and no distribution."""
        self._load()
        return self._unknown

    def owner(self, qtype: QuantType) -> Plugin:
        """The plugin that provides this type. Raises KeyError if the type is not registered."""
        self._load()
        return self._owners[qtype.name]

    def module_of(self, plugin: Plugin) -> Any:
        """The module or object that a plugin was registered with, or None if it could not be loaded."""
        return self._manager.get_plugin(plugin.key)

    def replaced_by(self, qtype: QuantType) -> QuantType | None:
        """The type that this registered type replaced on purpose, or None."""
        return self._replaced.get(qtype.name) if self.find(qtype.name) is qtype else None

    def blame(self, name: str, impl: Any, error: BaseException) -> None:
        """Record what a plugin's implementation of the hook ``name`` raised, for `quantreg plugins` to show."""
        trace(error)
        for plugin in self._plugins:
            if impl.plugin_name == plugin.key:
                words = str(error) if isinstance(error, PluginError) else describe(error)
                plugin.error = f"{name}: {words}"

    def failed(self, name: str, error: BaseException) -> str:
        """Describe an exception that came out of the hook ``name``: which plugin's implementation raised it."""
        from traceback import walk_tb  # slow to load, and seldom needed

        raised = {frame.f_code for frame, _ in walk_tb(error.__traceback__)}
        for impl in getattr(self.hook, name).get_hookimpls():
            if getattr(impl.function, "__code__", None) in raised:
                return f"{hookspecs.plugin_of(impl)}: {name} failed: {describe(error)}"
        return f"{name} failed: {describe(error)}"

    def answering(self, hook: Any, **given: Any) -> str:
        """Which plugin's implementation answers this call of a hook: "plugin MY_Q3 of my-q3"."""
        for impl in reversed(hook.get_hookimpls()):  # pluggy calls the last one first
            try:
                if impl.function(*(given[name] for name in impl.argnames)) is not None:
                    return hookspecs.plugin_of(impl)
            except PLUGIN_ERRORS:
                continue
        return "a plugin"

    def hooks_of(self, plugin: Plugin) -> list[str]:
        """The names of the hooks that a plugin implements, in alphabetical order."""
        self._load()
        module = self._manager.get_plugin(plugin.key)
        callers = self._manager.get_hookcallers(module) if module is not None else None
        return sorted(caller.name for caller in callers or ())

    def scorer(self, qtype: QuantType) -> Any:
        """The hook score_importance without what the encoder of this type computes by itself, or None if nobody else
        implements it.

        The encoder is faster than the hook, so the default and the plugin of a type that scores are left out.
        """
        own = self._owners.get(qtype.name)
        left_out = {BUILT_IN}
        if own is not None and qtype.codec.has_scorer:
            left_out.add(own.key)
        skipped = [
            impl.plugin
            for impl in self.hook.score_importance.get_hookimpls()
            if impl.plugin_name in left_out or impl.plugin_name.startswith(f"{BUILT_IN}:")
        ]
        asked = self._manager.subset_hook_caller("score_importance", skipped)
        return asked if self.ask_scorers and asked.get_hookimpls() else None

    # ---- looking up ----

    def find(self, key: object) -> QuantType | None:
        """The type with this name (in any case) or id, or the QuantType itself; None if there is no such type."""
        if isinstance(key, QuantType):
            return key
        self._load()
        if isinstance(key, str):
            found = self._by_name.get(key.lower())
        else:
            index = getattr(key, "__index__", None)
            found = None if index is None else self._by_id.get(index())
        if found is not None and self._contested.get(found.name):
            self._looked_up.add(found.name)
        return found

    def choices(self) -> list[str]:
        """Say which plugin provides each type that was looked up, if several do, and how to choose another."""
        said = []
        for name in sorted(self._looked_up.intersection(self._owners)):
            owner = self._owners[name].distribution
            others = ", ".join(dict.fromkeys(f"{name} of {dist}" for dist, name in self._contested[name]))
            how = "`quantreg plugins` says why" if owner == BUILT_IN else f"to choose another, set {LIMIT}=-{owner}"
            said.append(f"{name} comes from {owner}, which is used instead of {others}: {how}")
        self._looked_up.clear()
        return said

    def get(self, key: object) -> QuantType:
        """Like `find`, but raises UnknownTypeError, with a suggestion, if no plugin provides the type."""
        if (found := self.find(key)) is not None:
            return found
        if not isinstance(key, str):
            hint = f"see `quantreg types` for those installed{self.why_missing('')}"
            raise UnknownTypeError(f"no plugin provides GGUF type id {key!r}: {hint}")
        from difflib import get_close_matches  # slow to load

        near = get_close_matches(key.upper(), [qtype.name for qtype in self._by_name.values()], n=1)
        hint = "that is a file type, which mixes quant types: " if key.upper() in FILE_TYPE_NAMES else ""
        hint += f"did you mean {near[0]}?" if near else "see `quantreg types` for those installed"
        raise UnknownTypeError(f"unknown quant type {key!r}: {hint}{self.why_missing(key)}")

    def why_missing(self, name: str) -> str:
        """A likely reason, in brackets, why nothing of this name is registered; empty if there is none."""
        broken = sorted((p for p in self._plugins if p.error), key=lambda p: p.name.lower() != name.lower())
        limited = f"QUANTREG_PLUGINS={os.environ[LIMIT]} limits the plugins" if LIMIT in os.environ else ""
        project = discovery.uninstalled(name, self._find()) if name else ""
        found = "; ".join(filter(None, [project, broken[0].problem if broken else "", limited]))
        return f" ({found})" if found else ""

    def all_types(self) -> tuple[QuantType, ...]:
        """All types, ordered by id."""
        self._load()
        return tuple(qtype for _, qtype in sorted(self._by_id.items()))

    def is_built_in(self, key: object) -> bool:
        """Whether a type (name, id or QuantType) is registered and comes with quantreg itself."""
        found = self.find(key)
        return (
            found is not None and self._by_id.get(found.type_id) is found and self.owner(found).distribution == BUILT_IN
        )


def _checked(qtype: object) -> QuantType:
    if not isinstance(qtype, QuantType):
        raise PluginError(f"register() takes a quantreg.QuantType, not {type(qtype).__name__}")
    return qtype


def _layout(qtype: QuantType) -> str:
    header = f" after {qtype.row_header_size} bytes per row" if qtype.row_header_size else ""
    return f"{qtype.name} with id {qtype.type_id}, {qtype.block_size} weights in {qtype.type_size} bytes{header}"


class Types(Mapping[Any, QuantType]):
    """The registered types: ``types["Q4_K"]`` or ``types[12]``. Iterates over the names, ordered by id.

    A type that nobody registered raises UnknownTypeError, which is a KeyError.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __getitem__(self, key: object) -> QuantType:
        return self._registry.get(key)

    def __contains__(self, key: object) -> bool:
        return self._registry.find(key) is not None

    def get(self, key: object, default: Any = None) -> Any:
        """The type, or ``default`` if nobody registered it."""
        found = self._registry.find(key)
        return default if found is None else found

    def values(self) -> ValuesView[QuantType]:
        """The types, ordered by id. Going through all of them does not count as looking one up."""
        return _All(self)

    def __iter__(self) -> Iterator[str]:
        return (qtype.name for qtype in self._registry.all_types())

    def __len__(self) -> int:
        return len(self._registry.all_types())

    def __repr__(self) -> str:
        return f"<{len(self)} quant types: {', '.join(self)}>"


class _All(ValuesView[QuantType]):
    _mapping: Types

    def __iter__(self) -> Iterator[QuantType]:
        return iter(self._mapping._registry.all_types())


registry: Registry = Registry()
types: Types = Types(registry)


def layout_of(type_id: int) -> TypeLayout | None:
    """How a type stores its rows, or None for an unknown id. Plugins are asked only about ids that are not ggml's."""
    known = TYPES.get(type_id)
    if known is None:
        qtype = registry.find(type_id)
        known = None if qtype is None else qtype.layout
    return known


def find_layout(type: object) -> tuple[int, TypeLayout]:
    """(id, layout) of a type given by name, id or QuantType. Raises UnknownTypeError if nobody knows the type."""
    for type_id, known in TYPES.items():
        if type == type_id or type == known.name:
            return type_id, known
    qtype = registry.get(type)
    return qtype.type_id, qtype.layout


def _by_name(name):
    return types[name]


# A type pickles by its name, and only the registry looks names up.
QuantType._find = staticmethod(_by_name)
