"""The same tensors in other files: split, merge, change metadata. Nothing is decoded, so unknown types are copied."""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from os import PathLike
from types import MappingProxyType
from typing import Any

from quantreg import gguf
from quantreg.errors import MetadataError, PlanError
from quantreg.jobs import shards
from quantreg.jobs.results import WriteResult
from quantreg.jobs.source import Source
from quantreg.jobs.writing import write_files
from quantreg.keywords import names_nearest
from quantreg.recipes import MetadataEdit, Plan, TensorPlan, file_types

__all__ = ["edit_metadata", "merge", "split"]


@names_nearest
def split(
    src: str | bytes | PathLike[str],
    prefix: str | bytes | PathLike[str],
    *,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    force: bool = False,
) -> WriteResult:
    """Write the GGUF model at src as shards ``prefix-00001-of-00003.gguf`` and so on.

    ``split_max_size`` ("4G", "500M" or bytes) limits the tensor data of a shard, ``split_max_tensors`` the number of
    its tensors (128 by default, as in llama-gguf-split). The first shard has the metadata.

    Raises GGUFFormatError, PlanError, OutputError, OSError.
    """
    if split_max_size is None and split_max_tensors is None:
        split_max_tensors = 128
    source = Source(src)
    plan = _copy_plan(source)
    groups, _ = shards.group_tensors(plan, source, split_max_size=split_max_size, split_max_tensors=split_max_tensors)
    return _write(source, plan, shards.lay_out(prefix, plan, source, groups), force)


@names_nearest
def merge(
    src: str | bytes | PathLike[str] | Iterable[str | bytes | PathLike[str]],
    dst: str | bytes | PathLike[str],
    *,
    force: bool = False,
) -> WriteResult:
    """Write the shards of a model as one file; src is any one of them, or several, in any order.

    A file that was split by `split` comes back byte for byte. Raises PlanError for a file that is not a shard of the
    same model as the first; GGUFFormatError, OutputError, OSError.
    """
    given = [src] if isinstance(src, (str, bytes, PathLike)) else list(src)
    if not given:
        raise PlanError("no shard to merge: give at least one")
    if len(given) > 1:
        paths = Source(given[0]).paths
        for other in given[1:]:
            if not any(os.path.samefile(other, path) for path in paths):
                first = os.fsdecode(given[0])
                raise PlanError(
                    f"{os.fsdecode(other)} is not one of the {len(paths)} shards of the model of {first}: give the "
                    "shards of one model"
                )
    return edit_metadata(given[0], dst, force=force)


@names_nearest
def edit_metadata(
    src: str | bytes | PathLike[str],
    dst: str | bytes | PathLike[str],
    *,
    set: Mapping[str, Any] = MappingProxyType({}),
    remove: Iterable[str] = (),
    rename: Mapping[str, str] = MappingProxyType({}),
    force: bool = False,
) -> WriteResult:
    """Write the GGUF model at src to dst with other metadata. Shards are merged.

    ``rename`` maps old keys to new ones, ``remove`` is a key or lists keys, and ``set`` maps keys to Python objects or
    `gguf.Value`; they are applied in this order. A key keeps its place, and a new one is appended.

    Raises MetadataError for a key that the model lacks or a new name that is taken; GGUFFormatError for what GGUF
    cannot hold; OutputError, OSError.
    """
    source = Source(src)
    values = dict(gguf.HeaderEdit(source.metadata).items())
    for old, new in dict(rename).items():
        _require(values, old, source)
        if new in values:
            raise MetadataError(f"{source.paths[0]}: cannot rename {old} to {new}: the key {new} exists")
        values = {new if key == old else key: value for key, value in values.items()}
    for key in [remove] if isinstance(remove, str) else remove:
        _require(values, key, source)
        del values[key]
    values |= {key: gguf.Value.of(value) for key, value in dict(set).items()}
    source.metadata = values
    plan = _copy_plan(source)
    return _write(source, plan, shards.lay_out(dst, plan, source), force)


def _require(values: Mapping[str, gguf.Value], key: str, source: Source) -> None:
    if key not in values:
        near = get_close_matches(key, values, n=1)
        hint = f"did you mean {near[0]}?" if near else "see `quantreg metadata get FILE`"
        raise MetadataError(f"{source.paths[0]} has no key {key}: {hint}")


def _copy_plan(source: Source) -> Plan:
    """The plan that copies every tensor as it is, in the same order, without the split keys."""
    tensors = tuple(
        TensorPlan(
            info.name, info.dims, info, info.type_name, info.type_id, info.type_name, info.type_id, "kept",
            info.nbytes,
        )
        for info in source.tensors
    )  # fmt: skip
    return Plan(file_types["COPY"], tensors, tuple(map(MetadataEdit, gguf.SPLIT_KEYS)))


def _write(source: Source, plan: Plan, files: list[shards.OutputFile], force: bool) -> WriteResult:
    for _ in write_files(source, plan, files, force=force, check=False):
        pass
    return WriteResult.of(files)
