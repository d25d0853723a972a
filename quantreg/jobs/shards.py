"""The output of a plan: which files it makes, their headers, and the place of every tensor in them."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from quantreg import gguf
from quantreg.errors import GGUFFormatError, OutputError, PlanError
from quantreg.jobs.source import Source
from quantreg.recipes import Plan, StoredParameter, TensorPlan
from quantreg.registry import find_layout
from quantreg.sizes import parse_size
from quantreg.storage import (
    AtomicFile,
    allocated_bytes,
    digest_of,
    free_bytes,
    one_at_a_time,
    partial_path,
    signals_held,
)

_F32: int = find_layout("F32")[0]

__all__ = ["OutputFile", "group_tensors", "lay_out", "opened"]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to write: its header, then its tensors as (TensorPlan, offset in the file). ``size`` is in bytes.

    ``parameters`` are the tensors that hold fitted parameters, as (StoredParameter, offset in the file).
    """

    path: str
    header: bytes
    tensors: tuple[tuple[TensorPlan, int], ...]
    size: int
    parameters: tuple[tuple[StoredParameter, int], ...] = ()

    @property
    def data(self) -> list[tuple[int, int]]:
        """Where tensor data lies in the file: (offset, bytes), in order."""
        tensors = [(offset, tensor.bytes) for tensor, offset in self.tensors]
        return sorted([*tensors, *((offset, parameter.bytes) for parameter, offset in self.parameters)])

    @property
    def digest(self) -> str:
        """A digest of the header, and so of the names, shapes, types and places of the tensors."""
        return digest_of(self.header)


def group_tensors(
    planned: Plan,
    source: Source,
    *,
    keep_split: bool = False,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
) -> tuple[list[list[TensorPlan]] | None, tuple[str, ...]]:
    """Decide which tensors go into which shard: (tensors of each shard, warnings); None stands for one unsplit file.

    ``keep_split`` follows the source's shards. ``split_max_tensors`` limits the tensors per shard, and
    ``split_max_size`` the bytes of padded tensor data (an int, or text such as "4G" or "500M"); like llama-gguf-split,
    it does not count the header. A larger tensor gets a shard of its own and a warning. Raises PlanError if more than
    one of the three is given.
    """
    if sum((bool(keep_split), split_max_size is not None, split_max_tensors is not None)) > 1:
        raise PlanError("keep_split, split_max_size and split_max_tensors exclude each other: give only one of them")
    if keep_split:
        kept: list[list[TensorPlan]] = [[] for _ in source.paths]
        for tensor in planned.tensors:
            kept[source.place(tensor.source)[0]].append(tensor)
        # The first shard holds the metadata, perhaps without tensors. Pruning may empty any of the others.
        return [kept[0], *(group for group in kept[1:] if group)], ()
    if split_max_tensors is not None:
        if isinstance(split_max_tensors, bool) or not isinstance(split_max_tensors, int) or split_max_tensors < 1:
            raise PlanError(f"split_max_tensors is {split_max_tensors!r}: expected a whole number above 0")
        step = split_max_tensors
        tensors = planned.tensors
        return [list(tensors[i : i + step]) for i in range(0, len(tensors), step)] or [[]], ()
    if split_max_size is None:
        return None, ()
    limit = parse_size(split_max_size)
    groups: list[list[TensorPlan]] = [[]]
    filled, warnings = 0, []
    for tensor in planned.tensors:
        nbytes = gguf.padded(tensor.bytes, gguf.DEFAULT_ALIGNMENT) + sum(
            gguf.padded(parameter.bytes, gguf.DEFAULT_ALIGNMENT) for parameter in tensor.parameters
        )
        if nbytes > limit:
            warnings.append(f"{tensor.name} alone takes {nbytes} bytes, more than split_max_size allows ({limit})")
        if groups[-1] and filled + nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += nbytes
    return groups, tuple(warnings)


def lay_out(
    dst: str | bytes | os.PathLike[str], planned: Plan, source: Source, groups: list[list[TensorPlan]] | None = None
) -> list[OutputFile]:
    """The files of a plan: dst itself or, for groups of tensors, its shards ``dst-00001-of-00003.gguf`` and so on.

    The first shard has the metadata, the others only the split keys. Raises PlanError for more shards than file names
    can number, GGUFFormatError for what GGUF cannot hold.
    """
    edit = gguf.HeaderEdit(source.metadata)
    for change in planned.metadata:
        if change.type is None:
            edit.remove(change.key)
        else:
            try:
                value = gguf.Value(change.type, change.value)
            except GGUFFormatError as error:
                raise PlanError(f"{change.key}: {error.message}") from None
            edit.set(change.key, value)
    dst = os.fsdecode(dst)
    if groups is None:
        return [_file(dst, edit, planned.tensors, planned.parameters)]
    count = len(groups)
    if count > gguf.MAX_SHARDS:
        raise PlanError(f"{count} shards are more than file names can number ({gguf.MAX_SHARDS}): allow larger shards")
    files = []
    for number, tensors in enumerate(groups):
        if number:
            edit = gguf.HeaderEdit()
        if count > 1 or not planned.options.keep_split:
            keys = gguf.split_values(number, count, _n_tensors(planned))
            # llama-quantize writes these keys in this order; llama-gguf-split writes split.count last.
            for key, value in keys if planned.options.keep_split else (keys[0], keys[2], keys[1]):
                edit.set(key, value)
        of_model = () if number else planned.parameters
        files.append(_file(gguf.shard_path(dst.removesuffix(".gguf"), number, count), edit, tensors, of_model))
    return files


def _n_tensors(planned: Plan) -> int:
    return len(planned.tensors) + len(planned.parameters) + sum(len(tensor.parameters) for tensor in planned.tensors)


def _file(
    path: str, edit: gguf.HeaderEdit, tensors: Sequence[TensorPlan], of_model: Sequence[StoredParameter]
) -> OutputFile:
    stated = edit.get("general.alignment")
    alignment = stated.data if stated else gguf.DEFAULT_ALIGNMENT
    kept: list[TensorPlan | StoredParameter] = [*of_model]
    for tensor in tensors:
        kept += [tensor, *tensor.parameters]
    entries = [
        (item.name, item.dims, item.to_id, item.bytes)
        if isinstance(item, TensorPlan)
        else (item.name, item.shape[::-1], _F32, item.bytes)
        for item in kept
    ]
    header = gguf.encode_header(edit.items(), entries, alignment)
    placed, parameters, position = [], [], len(header)
    for item in kept:
        if isinstance(item, TensorPlan):
            placed.append((item, position))
        else:
            parameters.append((item, position))
        position += gguf.padded(item.bytes, alignment)
    return OutputFile(path, header, tuple(placed), position, tuple(parameters))


@contextmanager
def opened(
    outputs: Sequence[Sequence[OutputFile]], make: Callable[[OutputFile], AtomicFile], finish: bool = True
) -> Iterator[list[list[AtomicFile]]]:
    """Open the files of all outputs at once; ``make(OutputFile)`` returns the AtomicFile for each.

    The first shard of an output is renamed last, and an old file under its name is removed first. So nobody can open a
    set that is incomplete or mixed from two models. Two runs in one folder rename one after the other, and signals wait
    until all files have their names. Without ``finish``, the caller calls `AtomicFile.finish` of each.
    """
    files = [file for output in outputs for file in output]
    folders = sorted({os.path.dirname(os.path.realpath(file.path)) for file in files})
    with ExitStack() as whole:
        with ExitStack() as stack:
            if len(files) > 1:
                _check_space(files, "shards" if len(outputs) == 1 else "files")
            targets = [[stack.enter_context(make(file)) for file in output] for output in outputs]
            yield targets
            every = [target for output in targets for target in output]
            if len(every) > 1:
                for target in every:
                    target.settle()  # takes as long as the disk, and may be interrupted
                for folder in folders:
                    whole.enter_context(one_at_a_time(folder))
                whole.enter_context(signals_held())
                for target in every:
                    target.settle()  # again: another run may have written meanwhile
                for output in targets:
                    if len(output) > 1:
                        output[0].retire()
        for target in every if finish else ():
            target.finish()


def _check_space(files: Sequence[OutputFile], what: str) -> None:
    """Raise OutputError if the files together do not fit on the disks of their folders."""
    disks: dict[int, list[OutputFile]] = {}
    for file in files:
        folder = os.path.dirname(os.path.realpath(file.path))
        if os.path.isdir(folder):
            disks.setdefault(os.stat(folder).st_dev, []).append(file)
    for there in disks.values():
        need = sum(file.size for file in there)
        have = sum(allocated_bytes(partial_path(file.path)) for file in there)
        folder = os.path.dirname(os.path.realpath(there[0].path))
        free = free_bytes(folder)
        if free + have < need:
            raise OutputError(
                f"{there[0].path}: the {what} take {need} bytes, but only {free} are free in {folder}: free some "
                "space, or choose a folder on another disk"
            )
