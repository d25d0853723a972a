"""File types (Q4_K_M ...): what one is, and the registry that finds one by name, alias or number."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from quantreg.errors import PluginError, UnknownFileTypeError
from quantreg.ggml import REMOVED_FILE_TYPES

__all__ = ["FileType", "FileTypes"]


@dataclass(frozen=True, slots=True)
class FileType:
    """A recipe: which type each tensor of a model gets.

    ``type`` is the type of a tensor that no rule speaks of. ``rules`` are callables ``(Candidate, Choice | None) ->
    Choice | None``, asked in order (see `quantreg.recipes.rules`). ``number`` is stored as ``general.file_type``; None
    stores nothing. ``needs_imatrix`` names types that need an importance matrix in this recipe though they can do
    without elsewhere. ``only_copy`` marks the recipe that converts nothing.
    """

    name: str
    number: int | None
    type: str
    description: str
    aliases: tuple[str, ...] = ()
    rules: tuple[Callable, ...] = ()
    needs_imatrix: tuple[str, ...] = ()
    only_copy: bool = False


class FileTypes(Mapping):
    """All file types by name: the built-in ones, those of plugins, those registered by hand.

    ``file_types[key]`` takes a name or alias in any case, or a number. ``hooks`` gives the plugins' implementations of
    ``register_recipes`` and ``report(hook, error)`` is told of one that fails, which then adds nothing;
    ``why_missing(name)`` gives words to put after the error for an unknown name, ``find_type(name)`` the QuantType of
    this name or None.
    """

    def __init__(self, built_in=(), hooks: Callable = tuple, report=None, why_missing=None, find_type=None):
        self._built_in, self._hooks, self._report = tuple(built_in), hooks, report
        self._find_type = find_type or (lambda name: None)
        self._why_missing = why_missing or (lambda name: "")
        self._by_hand: list[FileType] = []
        self._seen = None
        self._by_name: dict[str, FileType] = {}
        self._index: dict[str | int, str] = {}  # normalized name, alias or number -> name

    def register(self, file_type: FileType, *, replace: bool = False) -> None:
        """Add a file type. A plugin does this in its hook ``register_recipes``, with the ``register`` that it is
        handed.

        Raises PluginError if its name, an alias or its number is taken, also by a type that is not its own, unless
        ``replace`` says that it is on purpose.
        """
        self._refresh()
        self._add(self._checked(file_type, replace))
        self._by_hand.append(file_type)

    def find(self, key, types: Mapping | None = None) -> FileType:
        """The file type for a name, alias, number or FileType.

        With ``types`` (name -> QuantType) a type that is no file type stands for the uniform recipe: that type
        everywhere. Raises UnknownFileTypeError, with the nearest names.
        """
        if isinstance(key, FileType):
            return key
        self._refresh()
        wanted = _normal(key)
        if wanted in self._index:
            return self._by_name[self._index[wanted]]
        for number, (name, instead) in REMOVED_FILE_TYPES.items():
            if wanted in (number, name):
                raise UnknownFileTypeError(f"file type {number} ({name}) was removed from ggml; use {instead} instead")
        if types is not None and isinstance(wanted, str):
            qtype = types.get(wanted)
            if qtype is not None:
                return FileType(qtype.name, None, qtype.name, f"{qtype.name} for every tensor that is quantized")
        known = list(dict.fromkeys([*self._by_name, *(types or ())]))
        hint = f"{_close_matches(str(key), known)}{self._why_missing(str(key))}"
        raise UnknownFileTypeError(f"unknown file type {key!r}: {hint}")

    def __getitem__(self, key) -> FileType:
        return self.find(key)

    def __contains__(self, key) -> bool:
        self._refresh()
        return _normal(key) in self._index

    def __iter__(self) -> Iterator[str]:
        self._refresh()
        return iter(tuple(self._by_name))

    def __len__(self) -> int:
        self._refresh()
        return len(self._by_name)

    def _refresh(self):
        """Start over when plugins came or went, so that the outcome does not depend on when they did."""
        hooks = tuple(self._hooks())
        if hooks == self._seen:
            return
        self._seen, self._by_name, self._index = hooks, {}, {}
        for file_type in self._built_in:
            self._add(file_type)
        for hook in hooks:
            staged: list[FileType] = []
            try:
                hook.function(lambda new, replace=False, staged=staged: staged.append(self._checked(new, replace)))
            except Exception as error:  # a plugin may fail in any way; it must disable only itself
                if self._report is not None:
                    self._report(hook, error)
                continue
            for file_type in staged:
                self._add(file_type)
        for file_type in self._by_hand:
            self._add(file_type)

    def _checked(self, file_type, replace) -> FileType:
        if not isinstance(file_type, FileType):
            raise PluginError(f"register: got {file_type!r}, expected a quantreg.FileType")
        for key in () if replace else _keys(file_type):
            if key in self._index:
                raise PluginError(
                    f"file type {file_type.name}: {key!r} is taken by {self._index[key]}: choose another, or "
                    f"register(..., replace=True) to take it over on purpose"
                )
        for name in () if replace else (file_type.name, *file_type.aliases):
            qtype = self._find_type(name)
            if qtype is not None and qtype.name.upper() != file_type.type.upper():
                raise PluginError(
                    f"file type {file_type.name}: {name!r} is a type and not the one it gives, {file_type.type}: "
                    "choose another name"
                )
        return file_type

    def _add(self, file_type):
        self._by_name[file_type.name] = file_type
        for key in _keys(file_type):
            if file_type not in self._built_in:
                self._index[key] = file_type.name
            else:  # MXFP4 shares its number with MXFP4_MOE, which keeps it
                self._index.setdefault(key, file_type.name)


def _close_matches(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the nearest known ones, or all."""
    from difflib import get_close_matches

    near = get_close_matches(name.upper(), known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"


def _normal(key):
    """Names in upper case, numbers as int (also from "15")."""
    if isinstance(key, int):
        return key
    text = str(key).strip()
    return int(text) if text.isascii() and text.isdigit() else text.upper()


def _keys(file_type):
    names = [_normal(name) for name in (file_type.name, *file_type.aliases)]
    return names if file_type.number is None else [*names, file_type.number]
