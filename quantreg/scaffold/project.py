"""A new plugin project: designs it from the user's options, and writes it from the templates."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from quantreg.errors import OutputError, PluginError
from quantreg.qtype import QuantType
from quantreg.registry import registry
from quantreg.scaffold.names import FIRST_FREE, check_id, check_project, check_type, free_type_id, numpy_type

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["Kind", "NewType", "Project", "for_pip"]

Kind: TypeAlias = Literal["python", "cython", "recipe", "hook"]

_SKIP = {"__pycache__"}
_BLOCK = 32
_LARGEST_BLOCK = 256  # the compiled encoder holds a few blocks per lane on the stack


@dataclass(frozen=True)
class NewType:
    """A type of a new project: name, id, layout and fallback."""

    name: str
    type_id: int
    block_size: int
    type_size: int
    row_header_size: int
    fallback: str | None = None

    @property
    def module(self) -> str:
        """The name of its module: "my_q3" for MY_Q3."""
        return self.name.lower()

    @property
    def layer(self) -> str:
        """The suffix of the template folder whose codec has this layout: "", "_row" or "_other"."""
        scaled = self.block_size % 8 == 0 and 16 <= self.block_size <= _LARGEST_BLOCK
        extra = self.type_size - 3 * self.block_size // 8  # bytes for the scale
        if scaled and self.row_header_size == 0 and extra == 2:
            return ""
        return "_row" if scaled and self.row_header_size >= 4 and extra == 1 else "_other"

    def words(self) -> dict[str, str]:
        """What replaces the words of a template."""
        codes = 3 * self.block_size // 8
        bits = f"{8 * self.type_size / self.block_size:.4f}".rstrip("0").rstrip(".")
        return {
            "MY_Q3": self.name,
            "MyQ3": "".join(part.capitalize() for part in self.module.split("_")),
            "my_q3": self.module,
            "my-q3": self.module.replace("_", "-"),
            "4242": str(self.type_id),
            "4848": str(self.row_header_size),
            "1414": str(self.type_size),
            "32": str(self.block_size),
            "12": str(codes),
            "13": str(codes + 1),
            "14": str(codes + 2),
            "3.5": bits,
            "3.25": bits,
        }


@dataclass(frozen=True)
class Project:
    """A project to be written. ``twin_of`` is the distribution whose codec in NumPy it compiles, or None."""

    name: str
    kind: Kind
    types: tuple[NewType, ...] = ()
    twin_of: str | None = None

    @classmethod
    def design(
        cls,
        name: str,
        kind: Kind = "python",
        type_names: Sequence[str] = (),
        type_id: int | None = None,
        block_size: int | None = None,
        row_header_size: int | None = None,
    ) -> "Project":
        """Check the arguments of `new_plugin` and fill in the defaults. Raises PluginError."""
        asked = {"id": type_id, "block": block_size, "row-header": row_header_size, "type": tuple(type_names) or None}
        given = [option for option, value in asked.items() if value is not None]
        if kind in ("recipe", "hook"):
            if given:
                raise PluginError(f"--{given[0]} is for projects with types, and a {kind} has none: leave it out")
            check_project(name)
            if kind == "recipe":
                check_type(name)  # a file type shares its names with types
            return cls(name, kind)
        modules = [each.lower().replace("-", "_") for each in type_names or [name]]
        if kind == "cython" and len(modules) == 1 and (found := numpy_type(modules[0])):
            return cls._twin(name, found, given)
        for each in type_names or [name]:
            check_type(each.lower())
        if repeated := [each for each in modules if modules.count(each) > 1]:
            raise PluginError(f"the type {repeated[0].upper()} is named twice: give each type a name of its own")
        check_project(name)
        block_size, header = _layout(block_size, row_header_size or 0)
        type_size = 3 * block_size // 8 + (1 if header else 2)
        found_types: list[NewType] = []
        for i, module in enumerate(modules):
            own = free_type_id(module.upper(), [t.type_id for t in found_types]) if type_id is None else type_id + i
            check_id(own)
            fallback = "Q4_0" if block_size > 32 else None  # rows that do not divide into its blocks may divide by 32
            found_types.append(NewType(module.upper(), own, block_size, type_size, header, fallback))
        return cls(name, kind, tuple(found_types))

    @classmethod
    def _twin(cls, name: str, qtype: QuantType, given: Sequence[str]) -> "Project":
        """The project that compiles the codec of an installed type in NumPy."""
        owner = registry.owner(qtype).distribution
        if fixed := [option for option in given if option != "type"]:
            raise PluginError(
                f"--{fixed[0]}: {qtype.name} of {owner} is installed, and its compiled twin keeps its id and layout: "
                "leave the option out, or choose another name"
            )
        name = name if given else f"{name}-cython"
        check_project(name)
        new = NewType(
            qtype.name, qtype.type_id, qtype.block_size, qtype.type_size, qtype.row_header_size, qtype.fallback
        )
        return cls(name, "cython", (new,), owner)

    @property
    def package(self) -> str:
        """The name of the Python package."""
        return self.name.replace("-", "_")

    @property
    def note(self) -> str | None:
        """What the author should know about the ids, or None."""
        low = [t.type_id for t in self.types if t.type_id < FIRST_FREE]
        if not low or self.twin_of:
            return None
        return (
            f"id {low[0]} is below {FIRST_FREE}, where ggml adds types of its own: keep it only if files with this id "
            "exist already, as from a fork of llama.cpp. Otherwise leave --id out to get a free one"
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The files to edit, relative to the project's folder: the codec of each type, or the module with the hook."""
        if not self.types:
            return (f"{self.package}/{'recipe' if self.kind == 'recipe' else 'importance'}.py",)
        name = "_{}.pyx" if self.kind == "cython" else "{}.py"
        return tuple(f"{self.package}/{name.format(t.module)}" for t in self.types)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the project to folder/name and return its folder. Raises OutputError if that exists."""
        target = Path(folder) / self.name
        if target.exists() or target.is_symlink():
            raise OutputError(f"{target} exists already: choose another name, or remove it{self._how_to_twin(target)}")
        for path, text in self._files():
            out = target.joinpath(*path)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text, encoding="utf-8")
        return target

    def _how_to_twin(self, target: Path) -> str:
        """What to do if the folder holds a plugin in NumPy and a compiled twin of it was asked for."""
        sources = [target / self.package / f"{t.module}.py" for t in self.types]
        if self.kind != "cython" or not all(path.is_file() for path in sources):
            return ""
        return (
            f". To make its compiled twin, install it first (pip install -e {for_pip(target)}) and repeat the command"
        )

    def _files(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """The path and the text of each file."""
        words = {
            "my-project": self.name,
            "my_project": self.package,
            "MY_PROJECT": self.package.upper(),
            "NUMPY_PROJECT": self.twin_of or "",
        }
        fill = partial(_filled, words)
        for path, texts in self._templates().items():
            if not self.types:
                yield tuple(map(fill, path)), fill(texts[""])
            elif any("my_q3" in part for part in path):
                for new in self.types:
                    named = partial(_filled, {**words, **new.words()})
                    text = texts.get(new.layer, texts[""])
                    if not new.row_header_size:  # it is 0 by default
                        text = text.replace("    row_header_size=4848,\n", "")
                    if new.fallback:
                        text = text.replace("    codec=", f'    fallback="{new.fallback}",\n    codec=', 1)
                    if self.twin_of:
                        text = text.replace(
                            "register(MY_Q3)\n", "register(MY_Q3, replace=True)  # NUMPY_PROJECT has it, too\n"
                        )
                    yield tuple(map(named, path)), named(text)
            else:
                text = "".join(self._each(line, fill) for line in texts[""].splitlines(True))
                yield tuple(map(fill, path)), _aligned(text) if path == ("README.md",) else text

    def _each(self, line: str, fill: Callable[[str], str]) -> str:
        """A line of a file that the types share. If it names the type, it stands once per type."""
        if "['my_q3']" in line:  # the list of codecs in meson.build
            return line.replace("'my_q3'", ", ".join(repr(t.module) for t in self.types))
        if line.startswith('"""') or not re.search("my.?q3", line, re.IGNORECASE):
            return fill(line.replace("MY_Q3", ", ".join(t.name for t in self.types)))
        names = [{key: value for key, value in t.words().items() if "q3" in key.lower()} for t in self.types]
        return fill("".join(_filled(each, line) for each in names))

    def _templates(self) -> dict[tuple[str, ...], dict[str, str]]:
        """For each path, the text of the template for each layout (see `NewType.layer`)."""
        root = files("quantreg.scaffold") / "_templates"
        shared = ["types"] if self.types else []
        layers = [("", name) for name in [*shared, self.kind, *(["twin"] if self.twin_of else [])]]
        layers += [
            (layer, f"{self.kind}{layer}") for layer in ("_row", "_other") if (root / f"{self.kind}{layer}").is_dir()
        ]
        found: dict[tuple[str, ...], dict[str, str]] = {}
        for layer, name in layers:
            for source, path in _walk(root / name, ()):
                found.setdefault(path, {})[layer] = source.read_text(encoding="utf-8")
        return found


def _layout(block_size: int | None, row_header_size: int) -> tuple[int, int]:
    """The block size and the size of the row header. Raises PluginError for those that the templates do not have."""
    block_size = _BLOCK if block_size is None else block_size
    if block_size % 8 or not 16 <= block_size <= _LARGEST_BLOCK:
        raise PluginError(
            f"--block {block_size}: the template packs 8 weights into 3 bytes, so use a multiple of 8 from 16 to "
            f"{_LARGEST_BLOCK}, and change the layout in the files for another size"
        )
    if row_header_size and not 4 <= row_header_size <= 4096:
        raise PluginError(
            f"--row-header {row_header_size}: the template keeps a float32 in the header, so use 4 to 4096 bytes, or 0 "
            "for no header"
        )
    return block_size, row_header_size


def _filled(words: dict[str, str], text: str) -> str:
    """The text with each word replaced. Numbers are replaced only where they stand alone: not in float32."""
    patterns = [rf"\b{re.escape(word)}\b" if word[0].isdigit() else word for word in words]
    return re.sub("|".join(patterns), lambda match: words[match[0]], text)


def _aligned(text: str) -> str:
    """The text with the comments behind commands in one column: names differ in length."""
    width = max(len(line.partition("  # ")[0].rstrip()) for line in text.splitlines() if "  # " in line)
    return re.sub(r"(?m)^( {4}.*?) +  # ", lambda match: f"{match[1].ljust(width)}  # ", text)


def for_pip(path: Path) -> str:
    """A folder as pip takes it: a word without a slash would be a name on PyPI."""
    return str(path) if path.is_absolute() else f"./{path}"


def _walk(folder: "Traversable", path: tuple[str, ...]) -> "Iterator[tuple[Traversable, tuple[str, ...]]]":
    """Yield each file under the folder, and the names that lead to it."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name in _SKIP:
            continue
        if item.is_dir():
            yield from _walk(item, (*path, item.name))
        else:
            yield item, (*path, item.name)
