"""Measure a tuned model on text that decided nothing, beside the file types of llama-quantize, and report on it."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quantreg import __version__, files
from quantreg.errors import PlanError
from quantreg.events import Advanced, Calibrating, Event, Started
from quantreg.inference.model import Model
from quantreg.jobs.planning import plan
from quantreg.jobs.quantize import quantize_file
from quantreg.jobs.results import QuantizeResult
from quantreg.jobs.tuned_model import calibration_of
from quantreg.jobs.tuning_options import TuningOptions
from quantreg.quality import ChunkDone, collect_imatrix, kl_divergence, perplexity
from quantreg.storage import temporary_folder
from quantreg.tuning.report import Search, TuningReport, Variant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.devices import DeviceLike
    from quantreg.importance import ImatrixLike
    from quantreg.jobs.tuning_options import CalibrationLike
    from quantreg.tuning.calibration import Calibration

__all__ = ["near", "tuning_report"]

# The file types that people choose from, and so compare with.
USUAL = ("IQ2_XS", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K")
FEWEST = 2  # chunks that a divergence is measured on


def tuning_report(
    src: str | bytes | os.PathLike[str],
    result: QuantizeResult,
    calibration: "CalibrationLike",
    *,
    n_ctx: int = 512,
    chunks: int | None = None,
    imatrix: "ImatrixLike | None" = None,
    found: Search | None = None,
    target: int | None = None,
    recipes: Sequence[str] | None = None,
    threads: int | None = None,
    device: "DeviceLike | None" = None,
    progress: "Callable[[Event], object] | None" = None,
) -> TuningReport:
    """Report on what `quantreg.quantize_file` made of the model at src with a calibration text.

    ``calibration``, ``n_ctx``, ``chunks``, ``imatrix`` and ``device`` are those of that run. The tenth of the text that
    decided nothing measures the result. ``found`` is what a search for types found, and ``target`` the bytes that were
    asked for. ``recipes``: file types that are made, measured and removed, to compare with; by default `near`, the two
    next smaller and the two next larger ones. Without an ``imatrix``, they get one of the same text. ``progress`` is
    called with `quantreg.events.Calibrating`, in the phase "report".

    If fewer than two chunks of the text are left to report, nothing is measured. Raises what `quantreg.load`,
    `quantreg.kl_divergence` and `quantreg.quantize_file` raise.
    """
    with files.open(src) as file:
        model = Model(file.metadata, file, threads=threads, device=device)
        cut = calibration_of(model, TuningOptions(calibration, n_ctx=n_ctx, chunks=chunks))
        measured: dict[str, Any] = {
            "model": str(file.metadata.get("general.name") or ""),
            "source": os.fsdecode(src),
            "output": result.path,
            "file_bytes": result.size,
            "target": target,
            "conditions": _conditions(cut, result),
        }
        if len(cut.part("report")) >= FEWEST:
            folder = os.path.dirname(os.path.abspath(result.path))  # has room for files of this size
            with temporary_folder(folder, ".report") as temporary:
                names = near(src, result.plan.bytes) if recipes is None else recipes
                needed = imatrix is None and bool(names)
                steps = _Steps(progress, (2 + 2 * len(names)) * len(cut.part("report")) + needed * len(cut.part("fit")))
                base = temporary / "base.kld"
                given: dict[str, Any] = {"threads": threads, "device": device, "progress": steps.of_chunks}
                perplexity(
                    model, _ids(cut, "report"), n_ctx=cut.tokens.shape[1], save_base=base, progress=steps.of_chunks
                )
                measured["divergence"] = kl_divergence(result.path, base, **given)
                if needed:
                    imatrix = collect_imatrix(
                        model, _ids(cut, "fit"), n_ctx=cut.tokens.shape[1], progress=steps.of_chunks
                    )
                variants = measured["variants"] = []
                for name in names:
                    path = temporary / f"{name}.gguf"
                    made = quantize_file(
                        src, path, name, imatrix, allow_requantize=True, on_missing_importance="fallback",
                        threads=threads, progress=steps.of_bytes(len(cut.part("report"))),
                    )  # fmt: skip
                    variants.append(Variant(name, made.size, kl_divergence(path, base, **given).kl_mean))
                    path.unlink()
    return TuningReport.of(result.plan, result.tuned, found, measured)


def near(src: str | bytes | os.PathLike[str], nbytes: int, each: int = 2) -> tuple[str, ...]:
    """The usual file types whose tensors are the next smaller and the next larger ones, at most ``each`` of both."""
    sizes = {}
    for name in USUAL:
        try:
            sizes[name] = plan(src, name, check=False, allow_requantize=True).bytes
        except PlanError:  # the rows of a tensor do not fit
            continue
    ordered = sorted(sizes, key=lambda name: (sizes[name], name))
    below = [name for name in ordered if sizes[name] <= nbytes]
    above = [name for name in ordered if sizes[name] > nbytes]
    return (*below[-each:], *above[:each])


class _Steps:
    """Tells how far a report is. One unit is a chunk that a model runs on; making a file counts like measuring it."""

    def __init__(self, progress: "Callable[[Event], object] | None", total: int) -> None:
        self._progress, self._total = progress, total
        self._done = 0.0
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(Calibrating("report", min(round(self._done), self._total), self._total))

    def of_chunks(self, event: object) -> None:
        """Count a chunk that is done; for `quantreg.perplexity` and its like."""
        if isinstance(event, ChunkDone):
            self._done += 1
            self._tell()

    def of_bytes(self, units: int) -> "Callable[[Event], None]":
        """Return what counts the slabs of a file that is quantized, as so many units."""
        total = [1]

        def count(event: Event) -> None:
            if isinstance(event, Started):
                total[0] = max(1, event.source_bytes)
            elif isinstance(event, Advanced):
                self._done += units * event.source_bytes / total[0]
                self._tell()

        return count


def _ids(calibration: "Calibration", part: Any) -> "NDArray[Any]":
    return calibration.part(part).reshape(-1)


def _conditions(calibration: "Calibration", result: QuantizeResult) -> dict[str, str]:
    """How the result was made, in words."""
    parts = {name: len(calibration.part(name)) for name in ("fit", "decide", "report")}
    chunks, n_ctx = calibration.tokens.shape
    shares = ", ".join(f"{n} to {name}" for name, n in parts.items())
    return {
        "calibration text": f"{chunks} chunks of {n_ctx} tokens: {shares}",
        "time": f"{result.seconds:.0f} seconds",
        "version": f"quantreg {__version__}",
    }
