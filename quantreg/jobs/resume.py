"""What the bytes of an output depend on. An unfinished run is continued only if all of it is unchanged."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from quantreg import __version__
from quantreg.importance import ImportanceMatrix
from quantreg.jobs.source import Source, stamp_of
from quantreg.qtype import QuantType
from quantreg.recipes import Plan
from quantreg.registry import Plugin, registry, types
from quantreg.storage import digest_of, digest_of_file, new_digest

__all__ = ["identity_of"]


def identity_of(source: Source, planned: Plan, imatrix: ImportanceMatrix | None) -> dict[str, Any]:
    """JSON-ready facts about a run, under the names by which an error mentions them if they differ."""
    recipe = [[t.name, t.source.name, t.from_type, t.to_type, t.importance, list(t.dims)] for t in planned.tensors]
    used = any(tensor.importance for tensor in planned.tensors)
    return {
        "quantreg": __version__,
        "source": [list(stamp_of(path)) for path in source.paths],
        "imatrix": None if imatrix is None or not used else _imatrix_digest(imatrix),
        "imatrix_floor": planned.options.imatrix_floor if used else 0.0,
        "plan": _digest(json.dumps(recipe).encode()),
        **_plugins(planned),
    }


def _imatrix_digest(imatrix: ImportanceMatrix) -> str:
    if imatrix.path is not None:
        with open(imatrix.path, "rb") as file:
            return digest_of_file(file).hexdigest()
    digest = new_digest()
    for name in sorted(imatrix.entries):
        digest.update(name.encode() + b"\0" + imatrix.entries[name].tobytes())
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return digest_of(data)


# ---- plugins ----


def _plugins(planned: Plan) -> dict[str, str]:
    """The version and a digest of each distribution whose codecs or scores take part in a plan, by "plugin NAME".

    A version is not enough: who writes a plugin changes its code without a new version. The built-in types have a
    digest only if they are installed to be edited, for their bytes do not depend on the platform or the CPU.
    """
    parts: dict[str, list[Any]] = {}
    versions: dict[str, str] = {}

    def add(plugin: Plugin, *objects: Any) -> None:
        versions[plugin.distribution] = plugin.version
        parts.setdefault(plugin.distribution, []).extend((registry.module_of(plugin), *objects))

    pairs = {(tensor.from_id, tensor.to_id) for tensor in planned.tensors if tensor.converted}
    for type_id in sorted({type_id for pair in pairs for type_id in pair}):
        add(registry.owner(types[type_id]), types[type_id])
    for scorer in filter(None, (registry.scorer(types[type_id]) for type_id in {to_id for _, to_id in pairs})):
        names = {impl.plugin_name for impl in scorer.get_hookimpls()}
        for plugin in registry.plugins:
            if plugin.key in names:
                add(plugin)
    return {
        f"plugin {name}": ", ".join(filter(None, (versions[name], _code_digest(name, parts[name]))))
        for name in sorted(parts)
    }


def _code_digest(name: str, parts: Iterable[Any]) -> str:
    """A digest of the files of a distribution's plugins, or "" for the built-in types as released."""
    if name == "quantreg" and not _is_editable(name):
        return ""
    digest = new_digest()
    files: dict[str, Path] = {}
    for part in parts:
        found = dict(_files_of(part))
        files |= found
        if not found:  # made in a notebook, say
            for function in _functions_of(part):
                digest.update(repr(_facts(function.__code__)).encode())
    for label, path in sorted(files.items()):
        digest.update(label.encode("utf-8", "surrogateescape") + b"\0")
        with open(path, "rb") as file:
            digest.update(digest_of_file(file).digest())
    return f"files {digest.hexdigest()}"


def _is_editable(name: str) -> bool:
    try:
        text = distribution(name).read_text("direct_url.json")
    except (PackageNotFoundError, OSError):
        return True
    return text is not None and bool(json.loads(text).get("dir_info", {}).get("editable"))


def _files_of(part: Any) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of the files of a plugin or type: its package with all in it, or its module."""
    for root in {_root_of(name) for name in _modules_of(part)}:
        folders = [os.path.realpath(folder) for folder in getattr(sys.modules.get(root), "__path__", ())]
        for folder in folders:
            for here, inner, names in os.walk(folder):
                inner[:] = sorted(name for name in inner if name != "__pycache__" and not name.startswith("."))
                for name in names:
                    path = Path(here, name)
                    if not name.startswith(".") and path.suffix != ".pyc" and path.is_file():
                        yield f"{root}/{path.relative_to(folder).as_posix()}", path
        for name, module in list(sys.modules.items()):
            if name != root and not name.startswith(f"{root}."):
                continue
            file = os.path.realpath(getattr(module, "__file__", None) or "")
            elsewhere = not any(file.startswith(folder + os.sep) for folder in folders)
            if elsewhere and os.path.isfile(file):  # editable installs keep compiled modules outside the package
                yield f"module {name}", Path(file)


def _modules_of(part: Any) -> set[str]:
    """The names of the modules in which a plugin, or the codec of a type, is defined."""
    if isinstance(part, ModuleType):
        return {part.__name__}
    names = {getattr(found, "__module__", None) or "" for found in (type(_codec_or(part)), *_functions_of(part))}
    own = {name for name in names if name in sys.modules and name.partition(".")[0] not in sys.stdlib_module_names}
    return {name for name in own if not name.startswith(("quantreg.", "quantreg_kernels"))}


def _root_of(module: str) -> str:
    """The outermost package of a module that has code of its own, so no folder shared by several distributions."""
    parts = module.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return next((name for name in names if getattr(sys.modules.get(name), "__file__", None)), module)


def _codec_or(part: Any) -> Any:
    return part.codec if isinstance(part, QuantType) else part


def _functions_of(part: Any) -> Iterator[Any]:
    """Yield the Python functions that a plugin object or a codec is made of."""
    holder = _codec_or(part)
    own = {"codec": part._load, **getattr(part.parameters, "__dict__", {})} if isinstance(part, QuantType) else {}
    for value in (own | vars(type(holder)) | getattr(holder, "__dict__", {})).values():
        function = getattr(value, "__func__", getattr(value, "func", value))  # of a method, of a partial
        if isinstance(getattr(function, "__code__", None), CodeType):
            yield function


def _facts(code: CodeType) -> tuple[object, ...]:
    """The code of a function, without the place where it is written."""
    consts = tuple(_facts(const) if isinstance(const, CodeType) else repr(const) for const in code.co_consts)
    return code.co_code.hex(), consts, code.co_names
