"""What jobs return: the files that were written, and what quantizing did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantreg.html import figures
from quantreg.jobs.shards import OutputFile
from quantreg.recipes import Plan, TensorPlan

if TYPE_CHECKING:
    from quantreg.tuning.search import Found
    from quantreg.tuning.tune import Tuned

__all__ = ["FolderResult", "QuantizeResult", "WriteResult"]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The files that a job wrote: one, or the shards in order. ``path`` is the first, ``size`` their bytes together.

    Stands for its first file wherever a path is expected: ``quantreg.open(quantreg.merge(shard, "whole.gguf"))``.
    """

    paths: tuple[str, ...]
    size: int

    @classmethod
    def of(cls, files: Sequence[OutputFile]) -> "WriteResult":
        """The result of writing these files."""
        return cls(tuple(file.path for file in files), sum(file.size for file in files))

    def __repr__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"<{type(self).__name__} {self.path!r}{more}: {self._facts()}>"

    def _facts(self) -> str:
        return f"{self.size:,} bytes"

    @property
    def path(self) -> str:
        """The first file."""
        return self.paths[0]

    def __fspath__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, repr=False)
class FolderResult(WriteResult):
    """The folder that `quantreg.export` wrote. ``path`` is the folder, and ``paths`` are its files.

    ``warnings`` say what the model has and the folder does not.
    """

    folder: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The folder."""
        return self.folder


@dataclass(frozen=True, slots=True, repr=False)
class QuantizeResult(WriteResult):
    """What `quantize_file` did.

    ``paths`` are the files written: one, or the shards in order; ``path`` is the first. ``size`` and ``source_size``
    are the bytes of whole files; ``plan.tensors`` holds the decision for each tensor; ``seconds`` is wall time;
    ``warnings`` are sentences for the user. ``tuned`` says what error feedback did to each tensor that a calibration
    text reached; it is empty without calibration. ``found`` is what the search for types found, if there was a target.
    """

    plan: Plan
    source_size: int
    seconds: float
    warnings: tuple[str, ...]
    tuned: "tuple[Tuned, ...]" = ()
    found: "Found | None" = None

    def _facts(self) -> str:
        return (
            f"{self.size:,} bytes, {len(self.plan)} tensors, {self.bits_per_weight:.4f} bits per weight, "
            f"{len(self.warnings)} warnings"
        )

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """The decision for each tensor, in the order of the output."""
        return self.plan.tensors

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data per weight, over all tensors."""
        return self.plan.bits_per_weight

    def _repr_html_(self) -> str:
        return figures(
            self.path,
            {
                "file type": self.plan.file_type.name,
                "files": len(self.paths),
                "size": f"{self.size:,} bytes",
                "source": f"{self.source_size:,} bytes",
                "bits per weight": f"{self.bits_per_weight:.4f}",
                "seconds": f"{self.seconds:.1f}",
                "warnings": "; ".join(self.warnings) or "none",
            },
        )
