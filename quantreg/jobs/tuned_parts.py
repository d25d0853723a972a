"""Error feedback on the workers of an executor: other processes, perhaps on other machines."""

import os
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import Executor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import OutputError, QuantregError, UnknownTypeError
from quantreg.faults import unknown_elsewhere
from quantreg.inference.model import Model
from quantreg.jobs.alignment import aligned
from quantreg.jobs.in_order import in_order
from quantreg.jobs.slabs import Slab, read_floats
from quantreg.jobs.source import Source, stamp_of
from quantreg.recipes import Plan
from quantreg.registry import types
from quantreg.tuning.encoding import Across, Part
from quantreg.tuning.feedback import Factor
from quantreg.tuning.rows import Basis, Rows, Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Elsewhere", "arithmetic", "run_part"]


@dataclass(frozen=True, slots=True)
class KeptBasis:
    """A `Basis` in a file, as it was at ``stamp``: float32 numbers, namely ``upper`` and h of the factor, both
    (cols, cols), the importance (cols,), and the held-out inputs (tokens, cols).

    ``factored`` says whether there is an ``upper``; ``ridge`` and ``reason`` are those of the factor. If the basis is
    ``across`` layers, there follow its drift (cols, cols) and the other held-out inputs.
    """

    path: str
    stamp: tuple[int, int]
    cols: int
    tokens: int
    factored: bool
    ridge: float
    reason: str | None
    across: bool


class Elsewhere(Runner):
    """Encodes rows on an executor. Its workers see the source, and ``folder``, under the same paths.

    Factors of H are computed here and go through files in ``folder``, so that each worker machine reads them once.
    """

    def __init__(
        self, model: Model, executor: Executor, threads: int, folder: Path, source: Source, planned: Plan
    ) -> None:
        super().__init__(model)
        self._executor, self._threads, self._folder = executor, threads, folder
        self._source, self._tensors = source, {tensor.name: tensor.source for tensor in planned.tensors}
        self._stamps = [stamp_of(path) for path in source.paths]
        self._files: list[Path] = []
        self._own = arithmetic()

    def keep(self, basis: Basis) -> KeptBasis:
        """Write a basis to a file."""
        path = self._folder / f"basis-{os.getpid()}-{len(self._files)}.f32"
        self._files.append(path)
        factor, across = basis.factor, basis.across
        more = () if across is None else (across.drift, across.held_out)
        try:
            with open(path, "wb") as out:
                for array in (factor.upper, factor.h, basis.importance, basis.held_out, *more):
                    out.write(np.ascontiguousarray(array, np.float32).data)
        except OSError as error:
            raise OutputError(f"{path}: cannot keep what the workers need: {error.strerror}") from None
        cols, tokens = len(factor.h), len(basis.held_out)
        return KeptBasis(
            str(path), stamp_of(path), cols, tokens, len(factor.upper) > 0, factor.ridge, factor.reason, bool(more)
        )

    def run(self, items: "Iterable[Rows | float]") -> "Generator[tuple[Rows | None, Any], None, None]":
        """Yield what `Runner.run` does. Up to three parts for each thread are under way at a time."""

        def submit(item: "Rows | float") -> Any:
            return self._executor.submit(run_part, item, self._slab(item)) if isinstance(item, Rows) else None

        last: str | None = None
        try:
            with closing(in_order(items, submit, self._threads, twice=True)) as done:
                for item, result in done:
                    if not isinstance(item, Rows):
                        yield None, item
                        continue
                    if last is not None and item.basis.path != last:
                        _remove(Path(last))  # nothing of an earlier matrix is to come
                    last = item.basis.path
                    part, there = result
                    self._compare(there)
                    yield item, part
        finally:
            for path in self._files:
                _remove(path)

    def _slab(self, rows: Rows) -> Slab:
        """Where the weights of these rows are."""
        source, info = self._source, self._tensors[rows.name]
        shard, position = source.place(info)
        first = rows.matrix * info.matrix_rows + rows.first
        asks = types[info.type_id].by_matrix
        return Slab(
            info.name, os.path.abspath(source.paths[shard]), self._stamps[shard],
            position + first * info.row_bytes, (rows.last - rows.first) * info.row_bytes, types[info.type_id].name,
            info.n_cols, first, context=source.context(info, rows.matrix) if asks else None,
            had=self._model.tensors[rows.name].parameters,
        )  # fmt: skip

    def _compare(self, there: list[str]) -> None:
        if there != self._own:
            raise QuantregError(
                f"a worker of the executor computes with {', '.join(there)}, and this process with "
                f"{', '.join(self._own)}: the bytes of error feedback depend on it, so use workers with the same "
                "NumPy, BLAS and CPU as here, or none (without executor, --processes)"
            )


def arithmetic() -> list[str]:
    """What the sums of floating-point numbers depend on here: NumPy, its BLAS, and the CPU that they are made for."""
    from threadpoolctl import threadpool_info  # slow to load, and only this needs it

    found = [info for info in threadpool_info() if info.get("user_api") == "blas"]
    blas = (
        f"{info.get('internal_api')} {info.get('version')} {info.get('architecture', '')}".strip() for info in found
    )
    return [f"numpy {np.__version__}", f"cpu {types['Q4_0'].codec.level}", *sorted(set(blas))]


def _remove(path: Path) -> None:
    with suppress(OSError):  # Windows keeps a file that a worker has mapped; it goes with the folder
        path.unlink(missing_ok=True)


# ---- in other processes ----


_lock = threading.Lock()


def run_part(rows: Rows, slab: Slab) -> tuple[Part, list[str]]:
    """Encode some rows, and say what computed them: the work item for an executor."""
    try:
        with _lock:
            basis = _basis(rows.basis)
        return aligned(rows).encode(read_floats(slab), basis), arithmetic()
    except UnknownTypeError as error:
        raise unknown_elsewhere(error) from None


@lru_cache(maxsize=2)
def _basis(kept: KeptBasis) -> Basis:
    """A basis from its file, which stays mapped."""
    values: NDArray[np.float32] = np.asarray(np.memmap(kept.path, np.float32, "r"))
    square = kept.cols * kept.cols
    inputs = kept.tokens * kept.cols
    sizes = [square if kept.factored else 0, square, kept.cols, inputs, square * kept.across]
    upper, h, importance, held_out, drift, as_it_is = np.split(values, np.cumsum(sizes))
    side = (kept.cols, kept.cols)
    across = Across(drift.reshape(side), as_it_is.reshape(-1, kept.cols)) if kept.across else None
    factor = Factor(upper.reshape(side if kept.factored else (0, 0)), h.reshape(side), kept.reason, kept.ridge)
    return Basis(factor, importance, held_out.reshape(kept.tokens, kept.cols), across)
