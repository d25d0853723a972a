"""File types such as Q4_K_M, and the registry that finds them by name, alias or number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantreg.errors import PluginError, UnknownFileTypeError
from quantreg.ggml import REMOVED_FILE_TYPES
from quantreg.recipes.plugged import Plugged
from quantreg.recipes.rules import Rule

if TYPE_CHECKING:
    from pluggy import HookImpl

    from quantreg.qtype import QuantType

__all__ = ["FileType", "FileTypes"]


@dataclass(frozen=True, slots=True)
class FileType:
    """A recipe that decides which type each tensor of a model gets.

    ``number`` is stored as ``general.file_type``; None stores nothing. ``type`` is the type of a tensor that no rule
    decides. ``rules`` are callables ``(Candidate, Choice | None) -> Choice | None`` that are called in order (see
    `quantreg.recipes.rules`). ``needs_imatrix`` names types that need an importance matrix in this recipe, although
    they do not need one elsewhere. ``only_copy`` marks the recipe that converts nothing.
    """

    name: str
    number: int | None
    type: str
    description: str
    aliases: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    needs_imatrix: tuple[str, ...] = ()
    only_copy: bool = False

    def derive(self, name: str, *rules: Rule, type: str | None = None, description: str | None = None) -> "FileType":
        """Return a file type with another name that asks ``rules`` first, and then the rules of this one.

        The first row that fits a tensor decides its type, so each rule takes precedence over those of this file type.
        ``type`` replaces the type of the tensors that no rule decides. The result has no number and no aliases, because
        each belongs to one file type only. Register it, or pass it to `quantreg.quantize_file` as it is::

            mine = file_types["Q4_K_M"].derive("MY_Q4", Row("ffn_down", None, "Q5_K"))
        """
        return replace(
            self,
            name=name,
            number=None,
            type=type or self.type,
            description=description or f"{self.name} with rules of its own",
            aliases=(),
            rules=(*rules, *self.rules),
        )

    def __repr__(self) -> str:
        return f"<FileType {self.name}: {self.type}, {len(self.rules)} rules>"


def _uniform(qtype: "QuantType") -> FileType:
    return FileType(qtype.name, None, qtype.name, f"{qtype.name} for every quantized tensor")


class FileTypes(Plugged[FileType]):
    """All file types by name: the built-in ones, those of plugins, and those registered by hand.

    ``file_types[key]`` takes a name or alias in any case, or a number. The arguments of the constructor are:

    - ``hooks`` and ``report``: those of `Plugged`; the hook is ``register_recipes``.
    - ``why_missing(name)``: returns words to append to the error about an unknown name.
    - ``find_type(name)``: returns the QuantType with this name, or None.
    - ``for_type(qtype)``: returns the recipe for a type whose name is used as a file type. By default every quantized
      tensor gets the type.
    """

    def __init__(
        self,
        built_in: Iterable[FileType] = (),
        hooks: "Callable[[], Iterable[HookImpl]]" = tuple,
        report: "Callable[[HookImpl, BaseException], object] | None" = None,
        why_missing: Callable[[str], str] | None = None,
        find_type: "Callable[[str], QuantType | None] | None" = None,
        for_type: "Callable[[QuantType], FileType]" = _uniform,
    ) -> None:
        super().__init__(hooks, report)
        self._built_in = tuple(built_in)
        self._find_type = find_type or (lambda name: None)
        self._why_missing = why_missing or (lambda name: "")
        self._for_type = for_type
        self._by_hand: list[FileType] = []
        self._index: dict[str | int, str] = {}  # normalized name, alias or number -> name

    def register(self, file_type: FileType, *, replace: bool = False) -> None:
        """Add a file type. A plugin calls the ``register`` that its hook ``register_recipes`` receives instead.

        Raises PluginError if the name, an alias or the number is taken, or if the name or an alias is that of a type
        other than ``file_type.type``. ``replace=True`` allows both.
        """
        with self._filled():
            self._add(self._checked(file_type, replace))
            self._by_hand.append(file_type)

    def find(self, key: "str | int | QuantType | FileType", types: "Mapping[str, QuantType] | None" = None) -> FileType:
        """The file type for a name, alias, number or QuantType; a FileType is returned as it is.

        If ``types`` (name -> QuantType) is given, the name of a type that is not also a file type stands for a recipe
        that uses that type (see `quantreg.recipes.builtin.recipe_for`). Raises UnknownFileTypeError, which suggests
        similar names.
        """
        if isinstance(key, FileType):
            return key
        wanted = _normal(key if isinstance(key, (str, int)) else getattr(key, "name", key))  # a QuantType has a name
        with self._filled():
            if wanted in self._index:
                return self._by_name[self._index[wanted]]
            names = [*self._by_name]
        for number, (name, instead) in REMOVED_FILE_TYPES.items():
            if wanted in (number, name):
                raise UnknownFileTypeError(f"file type {number} ({name}) was removed from ggml; use {instead} instead")
        if types is not None and isinstance(wanted, str):
            qtype = types.get(wanted)
            if qtype is not None:
                return self._for_type(qtype)
        known = list(dict.fromkeys([*names, *(types or ())]))
        hint = f"{_close_matches(str(key), known)}{self._why_missing(str(key))}"
        raise UnknownFileTypeError(f"unknown file type {key!r}: {hint}")

    def __getitem__(self, key: str | int | FileType) -> FileType:
        return self.find(key)

    def __contains__(self, key: object) -> bool:
        with self._filled():
            return _normal(key) in self._index

    def _fill(self, hooks: "Iterable[HookImpl]") -> None:
        self._index = {}
        for file_type in self._built_in:
            self._add(file_type)
        super()._fill(hooks)
        for file_type in self._by_hand:
            self._add(file_type)

    def _checked(self, file_type: FileType, replace: bool, staged: Sequence[FileType] = ()) -> FileType:
        if not isinstance(file_type, FileType):
            raise PluginError(f"register() got {file_type!r}, expected a quantreg.FileType")
        for key in () if replace else _keys(file_type):
            if key in self._index:
                raise PluginError(
                    f"file type {file_type.name}: {key!r} is taken by {self._index[key]}: choose another, or use "
                    "register(..., replace=True) to replace it on purpose"
                )
        for name in () if replace else (file_type.name, *file_type.aliases):
            qtype = self._find_type(name)
            if qtype is not None and qtype.name.upper() != file_type.type.upper():
                raise PluginError(
                    f"file type {file_type.name}: {name!r} is the name of a type, but the file type uses "
                    f"{file_type.type}: choose another name"
                )
        return file_type

    def _add(self, file_type: FileType) -> None:
        super()._add(file_type)
        for key in _keys(file_type):
            if file_type not in self._built_in:
                self._index[key] = file_type.name
            else:  # MXFP4 shares its number with MXFP4_MOE, which keeps it
                self._index.setdefault(key, file_type.name)


def _close_matches(name: str, known: list[str]) -> str:
    """A hint about an unknown name: similar known names, or all of them if none is similar."""
    from difflib import get_close_matches  # slow to load, and seldom needed

    near = get_close_matches(name.upper(), known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"the known ones are {', '.join(known)}"


def _normal(key: object) -> str | int:
    """A name in upper case, or a number as int (also for "15")."""
    if isinstance(key, int):
        return key
    text = str(key).strip()
    return int(text) if text.isascii() and text.isdigit() else text.upper()


def _keys(file_type: FileType) -> list[str | int]:
    names = [_normal(name) for name in (file_type.name, *file_type.aliases)]
    return names if file_type.number is None else [*names, file_type.number]
