"""Running the checks on a codec."""

from dataclasses import dataclass
from pathlib import Path

from quantreg.testing import arrays, strides, uses, values
from quantreg.testing.report import ConformanceError, NotApplicable, Outcome, Report
from quantreg.testing.samples import Subject

__all__ = ["CHECKS", "Check", "check_codec", "run_check"]


@dataclass(frozen=True, slots=True)
class Check:
    """A check by name: ``run(subject)`` raises AssertionError or NotApplicable; ``needs`` "encoder" or "scorer"."""

    name: str
    run: object
    needs: str | None = None

    @property
    def text(self) -> str:
        return " ".join(self.run.__doc__.split("\n\n")[0].split())


CHECKS = {
    check.name: check
    for check in (
        Check("size_algebra", values.size_algebra),
        Check("zero_rows", values.zero_rows, "encoder"),
        Check("constant_rows", values.constant_rows, "encoder"),
        Check("denormal_rows", values.denormal_rows, "encoder"),
        Check("huge_rows", values.huge_rows, "encoder"),
        Check("nonfinite_rows", values.nonfinite_rows, "encoder"),
        Check("any_rows", values.any_rows, "encoder"),
        Check("error", values.error, "encoder"),
        Check("determinism", arrays.determinism),
        Check("slabs", arrays.slabs),
        Check("threads", arrays.threads),
        Check("cpu_levels", arrays.cpu_levels),
        Check("guard_pages", arrays.guard_pages),
        Check("input_arrays", arrays.input_arrays),
        Check("strides", strides.strides),
        Check("wrong_sizes", arrays.wrong_sizes),
        Check("arbitrary_bytes", arrays.arbitrary_bytes),
        Check("importance_none", uses.importance_none, "encoder"),
        Check("importance_ones", uses.importance_ones, "scorer"),
        Check("importance_zeros", uses.importance_zeros, "scorer"),
        Check("importance_nan", uses.importance_nan, "scorer"),
        Check("importance_helps", uses.importance_helps, "scorer"),
        Check("importance_weights", uses.importance_weights, "scorer"),
        Check("gil", arrays.gil),
        Check("pickling", uses.pickling),
        Check("golden", uses.golden),
        Check("gguf_file", uses.gguf_file),
    )
}


def check_codec(
    codec_or_type, level="quick", expected_failures=None, *, golden=None, update_golden=False, raises=True
) -> Report:
    """Run all checks on a codec.

    ``codec_or_type`` is a QuantType, the name or id of a registered one, or a codec object. ``level`` is "quick" or
    "full" (more shapes, scales and seeds). ``expected_failures`` maps the names of checks to reasons; such a check must
    fail. ``golden`` is the path of the author's golden file, which ``update_golden`` writes anew. Returns the Report;
    raises ConformanceError with every failure unless ``raises`` is false, ValueError for unknown levels and checks,
    UnknownTypeError for a name, CodecError for a codec that cannot be loaded.
    """
    if level not in ("quick", "full"):
        raise ValueError(f"level is {level!r}, expected 'quick' or 'full'")
    expected = dict(expected_failures or {})
    unknown = set(expected) - set(CHECKS)
    if unknown:
        raise ValueError(f"expected_failures names no such check: {', '.join(sorted(unknown))}; see CHECKS")
    subject = Subject(codec_or_type, level == "full", golden and Path(golden), update_golden)
    _ = subject.codec  # one error, not one a check
    outcomes = tuple(run_check(name, subject, expected.get(name)) for name in CHECKS)
    report = Report(subject.qtype.name, level, outcomes)
    if raises and not report.ok:
        raise ConformanceError(report)
    return report


def run_check(name, subject, reason=None) -> Outcome:
    """One check; ``reason`` is why it is expected to fail, or None."""
    check = CHECKS[name]
    try:
        if check.needs and not subject.codec.can_encode:
            raise NotApplicable("it only decodes")
        if check.needs == "scorer" and not subject.codec.has_scorer:
            raise NotApplicable("it reads no importance")
        check.run(subject)
    except NotApplicable as why:
        return Outcome(name, "not applicable", str(why))
    except Exception as error:  # whatever a codec raises is a finding
        message = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return (
            Outcome(name, "failed", message) if reason is None else Outcome(name, "expected", f"{reason} ({message})")
        )
    if reason is not None:
        return Outcome(name, "failed", "it passes now: take it out of expected_failures")
    return Outcome(name, "passed")
