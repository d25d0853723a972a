"""What an evaluation returns: figures, what could not be measured, and the conditions under which it ran."""

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantreg.html import table

if TYPE_CHECKING:
    from quantreg.quality import Divergence

__all__ = ["Conditions", "Evaluation", "Failed", "Measure", "Skipped", "TextMeasure", "TextResult"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One type on one tensor, or on all sampled tensors together (``tensor`` is None).

    - ``type``: the name of the type or of the file type.
    - ``weights``: how many weights were encoded.
    - ``bits_per_weight``: the size of the encoded rows, with scales and row headers. For the total of a file type, that
      of all tensors of the model.
    - ``rmse``, ``max_error``: the root mean square error and the largest error, in units of the weights.
    - ``error``: ``rmse`` divided by the root mean square of the weights.
    - ``weighted_error``: like ``error``, but each square is multiplied by the calibration statistic of its column.
      Without an imatrix it equals ``error``.
    - ``cosine``: the cosine similarity of the weights and the decoded weights.
    - ``encode_speed``, ``decode_speed``: millions of weights per second, in one thread. 0 if nothing was encoded.
    - ``file_type``: whether ``type`` is a file type, which gives each tensor a type of its own.
    - ``encoded_as``: the type of this tensor. None in the total of a file type.
    """

    type: str
    tensor: str | None
    weights: int
    bits_per_weight: float
    rmse: float
    error: float
    weighted_error: float
    max_error: float
    cosine: float
    encode_speed: float
    decode_speed: float
    file_type: bool = False
    encoded_as: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TextMeasure:
    """One type as the weights of the whole model, and what this does to the predictions of a text.

    - ``type``, ``file_type``: as in `Measure`. A type is given to every tensor that ``quantize_file(..., pure=True)``
      would give it; one that it does not fit, or that lacks the importance it needs, gets a fallback.
    - ``bits_per_weight``: that of all tensors of the model as it ran.
    - ``divergence``: the `quantreg.Divergence` from the model as it is.
    """

    type: str
    bits_per_weight: float
    file_type: bool
    divergence: "Divergence"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready data. Those of the divergence have the names that they have there."""
        left_out = ("chunks", "n_ctx", "running", "warnings")
        figures = {name: value for name, value in self.divergence.to_dict().items() if name not in left_out}
        return {"type": self.type, "file_type": self.file_type, "bits_per_weight": self.bits_per_weight, **figures}


@dataclass(frozen=True, slots=True)
class TextResult:
    """What a model predicts of a text, as it is and with its weights in other types.

    - ``file``: the file with the text; None if it was given as a string or as token ids.
    - ``chunks``, ``n_ctx``: how many chunks were evaluated, and how many tokens each has.
    - ``perplexity``, ``perplexity_error``: those of the model as it is.
    - ``types``: one `TextMeasure` per type, in the order in which the types were given.
    """

    file: str | None
    chunks: int
    n_ctx: int
    perplexity: float
    perplexity_error: float
    types: tuple[TextMeasure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready data."""
        return {
            "file": self.file,
            "chunks": self.chunks,
            "n_ctx": self.n_ctx,
            "perplexity": self.perplexity,
            "perplexity_error": self.perplexity_error,
            "types": [measure.to_dict() for measure in self.types],
        }


class Skipped(NamedTuple):
    """A tensor that could not be encoded in a type, and the reason."""

    type: str
    tensor: str
    reason: str


class Failed(NamedTuple):
    """A type that could not be measured at all, or not on the text, and the reason."""

    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """How and where an evaluation ran, so that it can be repeated.

    - ``model``, ``architecture``: the name and the architecture in the model's metadata, or None.
    - ``sample``, ``seed``: the arguments of `evaluate`.
    - ``date``: when it began, in UTC, such as "2025-01-31T12:00:00Z".
    - ``cpu``, ``system``: the processor, and the operating system with its machine type.
    - ``versions``: those of quantreg, Python, NumPy and of the distributions that provide the measured types.
    """

    model: str | None
    architecture: str | None
    sample: int
    seed: int
    date: str
    cpu: str
    system: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(
        cls, metadata: Mapping[str, Any], sample: int, seed: int, versions: Mapping[str, str] | None = None
    ) -> "Conditions":
        """Describe this machine and this moment. ``versions`` are those of the packages whose types are measured."""
        return cls(
            model=_text(metadata, "general.name"),
            architecture=_text(metadata, "general.architecture"),
            sample=sample,
            seed=seed,
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            cpu=_cpu(),
            system=f"{platform.system()} {platform.machine()}",
            versions={"Python": platform.python_version(), "NumPy": np.__version__, **(versions or {})},
        )


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) and value else None


def _cpu() -> str:
    """Name the processor. On Linux the platform module knows only its family."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        from subprocess import SubprocessError, run

        try:
            asked = run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=5)
            if asked.stdout.strip():
                return asked.stdout.strip()
        except (OSError, SubprocessError):
            pass
    return platform.processor() or platform.machine() or "unknown"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate`.

    - ``path``, ``imatrix``: the files that were read. ``imatrix`` is None if there was none.
    - ``totals``: one Measure per type, in the order in which the types were given.
    - ``tensors``: one Measure per type and tensor.
    - ``skipped``: the tensors that a type could not encode. The total of such a type covers fewer weights.
    - ``failed``: the types that could not be measured at all, which have no total, or not on the text.
    - ``conditions``: how and where it ran.
    - ``text``: what the types do to the predictions of a text; None if there was none.
    """

    path: str
    imatrix: str | None
    totals: tuple[Measure, ...]
    tensors: tuple[Measure, ...]
    skipped: tuple[Skipped, ...]
    failed: tuple[Failed, ...] = ()
    conditions: Conditions | None = None
    text: TextResult | None = None

    def incomplete(self) -> dict[str, list[Skipped]]:
        """Return the skipped tensors of each type that has a total: it covers only the others."""
        failed = {entry.type for entry in self.failed} - {total.type for total in self.totals}
        found: dict[str, list[Skipped]] = {}
        for skip in self.skipped:
            if skip.type not in failed:
                found.setdefault(skip.type, []).append(skip)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready data. The key "text" is there only if there was a text."""
        found = {
            "file": self.path,
            "imatrix": self.imatrix,
            "conditions": None if self.conditions is None else asdict(self.conditions),
            "types": [measure.to_dict() for measure in self.totals],
            "tensors": [measure.to_dict() for measure in self.tensors],
            "skipped": [entry._asdict() for entry in self.skipped],
            "failed": [entry._asdict() for entry in self.failed],
        }
        return found if self.text is None else {**found, "text": self.text.to_dict()}

    def __repr__(self) -> str:
        types = ", ".join(f"{total.type} {total.weighted_error:.2%}" for total in self.totals[:4])
        more = f" and {len(self.totals) - 4} more" if len(self.totals) > 4 else ""
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        return f"<Evaluation of {os.path.basename(self.path)}: {types}{more}{failed}>"

    def _repr_html_(self) -> str:
        importance = f"importance from {self.imatrix}" if self.imatrix else "without importance"
        failed = [entry.type for entry in self.failed]
        incomplete = ", ".join(self.incomplete())
        partly = f"; not every tensor could be encoded in {incomplete}" if incomplete else ""
        missing = f"; not measured: {', '.join(failed)}" if failed else ""
        return table(
            f"{self.path}, {importance}{partly}{missing}",
            (
                "type", "weights", "bits per weight", "error", "weighted error", "RMSE", "largest error", "cosine",
                "encode, M/s", "decode, M/s",
            ),
            (
                (
                    m.type, m.weights, m.bits_per_weight, m.error, m.weighted_error, m.rmse, m.max_error, m.cosine,
                    m.encode_speed, m.decode_speed,
                )
                for m in by_size(self.totals)
            ),
        )  # fmt: skip


def by_size(measures: Iterable[Measure]) -> list[Measure]:
    """Order by bits per weight, then by error."""
    return sorted(measures, key=lambda m: (m.bits_per_weight, m.weighted_error))
