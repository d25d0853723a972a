"""Measure a tuned model on text that decided nothing, beside the file types of llama-quantize, and report on it."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantreg import __version__, files
from quantreg.errors import PlanError
from quantreg.inference.model import Model
from quantreg.jobs.planning import plan
from quantreg.jobs.quantize import quantize_file
from quantreg.jobs.results import QuantizeResult
from quantreg.jobs.tuned import calibration_of
from quantreg.jobs.tuning_options import TuningOptions
from quantreg.quality import collect_imatrix, kl_divergence, perplexity
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
) -> TuningReport:
    """Report on what `quantreg.quantize_file` made of the model at src with a calibration text.

    ``calibration``, ``n_ctx``, ``chunks``, ``imatrix`` and ``device`` are those of that run: the tenth of the text that
    decided nothing measures the result. ``found`` is what a search for types found, and ``target`` the bytes that were
    asked for. ``recipes``: file types that are made, measured and removed, to compare with; by default `near`, the two
    next smaller and the two next larger ones. Without an ``imatrix``, they get one of the same text.

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
            with tempfile.TemporaryDirectory(prefix=".quantreg-report-", dir=folder) as temporary:
                base = Path(temporary, "base.kld")
                perplexity(model, _ids(cut, "report"), n_ctx=cut.tokens.shape[1], save_base=base)
                measured["divergence"] = kl_divergence(result.path, base, threads=threads, device=device)
                if imatrix is None and recipes != ():
                    imatrix = collect_imatrix(model, _ids(cut, "fit"), n_ctx=cut.tokens.shape[1])
                names = near(src, result.plan.bytes) if recipes is None else recipes
                measured["variants"] = list(_measured(src, names, imatrix, base, Path(temporary), threads, device))
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


def _measured(
    src: Any,
    names: Sequence[str],
    imatrix: Any,
    base: Path,
    folder: Path,
    threads: int | None,
    device: "DeviceLike | None",
) -> Iterator[Variant]:
    """Make each file type, measure it and remove it."""
    for name in names:
        path = folder / f"{name}.gguf"
        made = quantize_file(
            src, path, name, imatrix, allow_requantize=True, on_missing_importance="fallback", threads=threads
        )
        yield Variant(name, made.size, kl_divergence(path, base, threads=threads, device=device).kl_mean)
        path.unlink()


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
