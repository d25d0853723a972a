"""Checking a whole file: whether its blocks are sound, and the digests of its tensors."""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantreg.dispatch import cpu_count
from quantreg.errors import CodecError, NonFiniteError, ShapeError
from quantreg.ggml import PLAIN_TYPES
from quantreg.gguf import TensorInfo
from quantreg.html import figures
from quantreg.jobs.in_order import in_order
from quantreg.jobs.inputs import open_described
from quantreg.jobs.slabs import SLAB_BYTES, Slab, Worker, byte_ranges, matrix_of
from quantreg.jobs.source import Source
from quantreg.recipes.contradictions import contradictions
from quantreg.recipes.layers import incomplete_layers
from quantreg.registry import types
from quantreg.words import named

__all__ = ["Validation", "hash_tensors", "validate"]


@dataclass(frozen=True, slots=True)
class Validation:
    """What `validate` found.

    ``problems`` are sentences, one per tensor that is not sound and one per fault of the layers (a layer that is
    missing, or that lacks a tensor of its neighbours); ``warnings`` are about the header, which is readable.
    ``paths`` are the files of the model and ``n_tensors`` counts its tensors.
    """

    paths: tuple[str, ...]
    n_tensors: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        found = f"{len(self.problems)} problems, {len(self.warnings)} warnings"
        return f"<Validation of {self.paths[0]!r}: {self.n_tensors} tensors, {found}>"

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def _repr_html_(self) -> str:
        return figures(
            self.paths[0],
            {
                "files": len(self.paths),
                "tensors": self.n_tensors,
                "problems": "; ".join(self.problems) or "none",
                "warnings": "; ".join(self.warnings) or "none",
            },
        )


def validate(path: str | bytes | PathLike[str], *, threads: int | None = None) -> Validation:
    """Decode every block of a GGUF model, all its shards included, and report what is wrong with its tensors.

    A folder with a published model is checked as the GGUF model that it becomes.
    Layers that are missing, or that lack tensors which their neighbours have, are reported as well.
    NaN and infinity, in scales or weights, are reported once per tensor, with their place. Raises GGUFFormatError for a
    damaged header, what `quantreg.convert` raises for a folder, and OSError for a file that cannot be read.
    """
    source = open_described(path)
    blank: set[str] = set()
    problems = list(incomplete_layers([info.name for info in source.tensors], source.metadata))
    problems += contradictions(source.tensors, source.metadata)
    warnings = list(source.warnings)
    for info, problem, all_zero, is_blank in _validated(source, threads or cpu_count()):
        if is_blank:
            blank.add(info.name)
        if problem is not None:
            problems.append(problem)
        elif all_zero and not is_blank and info.type_name not in PLAIN_TYPES:
            warnings.append(
                f"{info.name}: every weight is zero. If the source has other values, {info.type_name} lost the tensor: "
                "compare the two with `quantreg compare`"
            )
        elif types.get(info.type_id) is None:
            problems.append(f"{info.name} was not checked: no installed plugin reads {info.type_name}")
    unfinished = list(_blank_ends(source, blank))
    problems += [sentence for _, sentence in unfinished]
    told = {name for names, _ in unfinished for name in names}
    warnings += about_blank([info.name for info in source.tensors if info.name in blank - told and is_matrix(info)])
    return Validation(tuple(source.paths), len(source.tensors), tuple(problems), tuple(warnings))


def _validated(source, threads):
    with source:
        worker = Worker(lambda path, stamp: source.file(path))
        stamp = (0, 0)  # the files stay open: nobody looks at it

        def look(item):
            info, start, nbytes = item
            qtype = types.get(info.type_id)
            if qtype is None or not info.known:
                return None, False, False
            shard, position = source.place(info)
            path = os.path.abspath(source.paths[shard])
            stored = source.stored.get(info.name)
            try:
                slab = Slab(
                    info.name, path, stamp, position + start, nbytes, qtype.name, info.n_cols, start,
                    had=source.parameters(info),
                    context=source.context(info, matrix_of(info, start // max(1, info.row_bytes))),
                    stored=stored,
                    files=tuple((n, os.path.abspath(source.paths[n]), stamp) for n in (stored.files if stored else ())),
                )  # fmt: skip
                done = worker.run(slab)
                return None, done.all_zero and info.n_elements > 0, done.blank and info.n_elements > 0
            except (NonFiniteError, CodecError, ShapeError) as error:
                return str(error), False, False

        items = (
            (info, start, nbytes)
            for info in source.tensors
            for start, nbytes in (byte_ranges(info) if info.nbytes else [(0, 0)])
        )
        found: dict[str, tuple[str | None, bool, bool]] = {}
        for (info, start, nbytes), (problem, all_zero, blank) in on_threads(items, look, threads):
            before = found.get(info.name, (None, True, True))
            found[info.name] = before[0] or problem, before[1] and all_zero, before[2] and blank
            if start + nbytes >= info.nbytes:
                yield info, *found[info.name]


def is_matrix(info: TensorInfo) -> bool:
    """Whether a tensor has several rows and columns: vectors, such as biases, may well be zeros."""
    return info.n_rows > 1 and info.n_cols > 1


def about_blank(names: Sequence[str]) -> tuple[str, ...]:
    """The sentence about matrices of the source that hold nothing but zero bytes, or nothing."""
    if not names:
        return ()
    what = f"{names[0]} holds" if len(names) == 1 else f"{len(names)} matrices ({named(names)}) hold"
    return (
        f"{what} nothing but zeros: if that is not on purpose, the download or copy of the model is unfinished: "
        "compare the checksum of the file with that of its source",
    )


def _blank_ends(source: Source, blank: Set[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the names of the blank tensors with which each file ends, and a sentence about them.

    Such an end is what an unfinished download leaves in a file whose size was reserved before.
    """
    for shard, path in enumerate(source.paths):
        here = [info for info in source.tensors if source.place(info)[0] == shard and info.nbytes]
        infos = sorted(here, key=lambda info: source.place(info)[1])
        end = list(takewhile(lambda info: info.name in blank, reversed(infos)))
        if any(map(is_matrix, end)):
            names = [info.name for info in reversed(end)]
            what = f"the last tensor of the file ({names[0]}) holds" if len(names) == 1 else (
                f"the last {len(names)} tensors of the file (from {names[0]} on) hold"
            )  # fmt: skip
            where = f"{path}: " if len(source.paths) > 1 else ""
            yield names, f"{where}{what} nothing but zeros: the download or copy is unfinished: make it again"


def hash_tensors(path: str | bytes | PathLike[str], *, threads: int | None = None) -> dict[str, str]:
    """Map each tensor's name to the SHA-256 (hex) of its bytes, without padding, in file order.

    Order, offsets, alignment and shards do not matter: the same tensors give the same digests. The digests of a folder
    with a published model are those of the GGUF model that it becomes, in the types in which it is stored ("COPY").
    Raises GGUFFormatError, what `quantreg.convert` raises for a folder, and OSError.
    """
    source = open_described(path)
    with source:
        import hashlib  # OpenSSL takes 3.5 MiB, and jobs that digest nothing load this module, too

        def digest(info):
            state = hashlib.sha256()
            buffer = thread_buffer()
            for start in range(0, info.nbytes, SLAB_BYTES):
                piece = buffer[: min(SLAB_BYTES, info.nbytes - start)]
                source.read_into(info, start, piece)
                state.update(piece.data)
            return state.hexdigest()

        return {info.name: found for info, found in on_threads(source.tensors, digest, threads or cpu_count())}


# ---- shared with compare ----


def on_threads(
    items: Iterable[Any], function: Callable[[Any], Any], threads: int
) -> Generator[tuple[Any, Any], None, None]:
    """Yield (item, function(item)) in order, computed by several threads."""
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="quantreg") as pool,
        closing(in_order(items, lambda item: pool.submit(function, item), threads)) as done,
    ):
        yield from done


_local = threading.local()


def thread_buffer(name: str = "a") -> NDArray[np.uint8]:
    """A buffer of SLAB_BYTES that belongs to the calling thread; the same one each time for the same name."""
    if not hasattr(_local, name):
        setattr(_local, name, np.empty(SLAB_BYTES, np.uint8))
    buffer: NDArray[np.uint8] = getattr(_local, name)
    return buffer
