"""Run the checks of the conformance kit on a codec."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantreg.errors import LossWarning
from quantreg.faults import PLUGIN_ERRORS, debugging, told
from quantreg.registry import registry
from quantreg.testing import arrays, dots, strides, twin, uses, values
from quantreg.testing.guards import can_fork, run_guarded
from quantreg.testing.report import ConformanceError, NotApplicable, Outcome, Report
from quantreg.testing.samples import Subject

if TYPE_CHECKING:
    from quantreg.codec import RowCodec
    from quantreg.qtype import QuantType

__all__ = ["CHECKS", "Check", "check_codec", "run_check"]

_SECONDS = 900  # for one check in a child process
_SECONDS_IF_UNSOUND = 60  # for a codec that writes where it likes: damaged memory may also make it wait forever


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the kit.

    ``run(subject)`` raises AssertionError if the codec fails the check, and NotApplicable if there is nothing to check.
    ``needs`` is "encoder" or "scorer" for checks that apply only to codecs which encode or read importance.
    """

    name: str
    run: Callable[[Subject], None]
    needs: Literal["encoder", "scorer"] | None = None

    @property
    def text(self) -> str:
        """What a codec must do, in one or two sentences."""
        return " ".join((self.run.__doc__ or "").split("\n\n")[0].split())


CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check("guard_pages", arrays.guard_pages),
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
        Check("input_arrays", arrays.input_arrays),
        Check("strides", strides.strides),
        Check("wrong_sizes", arrays.wrong_sizes),
        Check("arbitrary_bytes", arrays.arbitrary_bytes),
        Check("dot_rows", dots.dot_rows),
        Check("importance_none", uses.importance_none, "encoder"),
        Check("importance_ones", uses.importance_ones, "scorer"),
        Check("importance_zeros", uses.importance_zeros, "scorer"),
        Check("importance_nan", uses.importance_nan, "scorer"),
        Check("importance_helps", uses.importance_helps, "scorer"),
        Check("importance_weights", uses.importance_weights, "scorer"),
        Check("gil", arrays.gil),
        Check("pickling", uses.pickling),
        Check("fit", uses.fit),
        Check("twin", twin.twin),
        Check("golden", uses.golden),
        Check("gguf_file", uses.gguf_file),
    )
}


def check_codec(
    codec_or_type: "QuantType | RowCodec | str | int",
    level: Literal["quick", "full"] = "quick",
    expected_failures: Mapping[str, str] | None = None,
    *,
    golden: str | os.PathLike[str] | None = None,
    update_golden: bool = False,
    raises: bool = True,
) -> Report:
    """Run all checks on a codec and return a Report.

    ``codec_or_type`` is a QuantType, the name or id of a registered one, or a codec object. ``level`` is "quick", or
    "full" for more shapes, scales and seeds. ``expected_failures`` maps names of checks to reasons; these checks must
    fail. ``golden`` is the path of the author's golden file, which ``update_golden`` writes or replaces.

    The first check guards the memory around every buffer. The checks of a compiled codec run in child processes, so
    that a crash is a failed check; set QUANTREG_DEBUG=1 to run them in this process, under a debugger.

    Raises ConformanceError, which lists every failure, unless ``raises`` is false; ValueError for an unknown level or
    check; UnknownTypeError for an unknown name or id; CodecError if the codec cannot be loaded.
    """
    if level not in ("quick", "full"):
        raise ValueError(f"level is {level!r}, expected 'quick' or 'full'")
    expected = dict(expected_failures or {})
    unknown = set(expected) - set(CHECKS)
    if unknown:
        raise ValueError(
            f"expected_failures names checks that do not exist: {', '.join(sorted(unknown))}; quantreg.testing.CHECKS "
            "holds them all"
        )
    subject = Subject(codec_or_type, level == "full", None if golden is None else Path(golden), update_golden)
    _ = subject.codec  # a codec that cannot be loaded is one error here, not one error per check
    outcomes = tuple(run_check(name, subject, expected.get(name)) for name in CHECKS)
    report = Report(subject.qtype.name, level, outcomes)
    if raises and not report.ok:
        raise ConformanceError(report)
    return report


def run_check(name: str, subject: Subject, reason: str | None = None) -> Outcome:
    """Run the check of this name. ``reason`` says why it is expected to fail, if it is."""
    outcome = _outcome_of(name, subject, reason)
    if name == "guard_pages" and subject.codec.level == "python":
        subject.leaves_its_buffers = outcome.status in ("failed", "expected")
    return outcome


def _outcome_of(name: str, subject: Subject, reason: str | None) -> Outcome:
    check = CHECKS[name]
    try:
        if check.needs and not subject.codec.can_encode:
            raise NotApplicable("the type only decodes")
        if check.needs == "scorer" and not subject.codec.has_scorer:
            raise NotApplicable("the type does not read importance")
        with warnings.catch_warnings(), _without_scorers():
            warnings.simplefilter("ignore", LossWarning)  # many samples are hostile on purpose
            if check.run is not arrays.guard_pages and _may_crash(subject):
                seconds = _SECONDS_IF_UNSOUND if subject.leaves_its_buffers else _SECONDS
                run_guarded([("", partial(check.run, subject))], seconds=seconds)
            else:
                check.run(subject)
    except NotApplicable as why:
        return Outcome(name, "not applicable", str(why))
    except PLUGIN_ERRORS as error:  # whatever a codec raises is a failure of the codec
        message = str(error) if isinstance(error, AssertionError) else told(error)
        return (
            Outcome(name, "failed", message) if reason is None else Outcome(name, "expected", f"{reason} ({message})")
        )
    if reason is not None:
        return Outcome(name, "failed", "it passes now: remove it from expected_failures")
    return Outcome(name, "passed")


def _may_crash(subject: Subject) -> bool:
    """Whether to run a check in a child process, so that a crash becomes a failed check with a name.

    This holds for compiled codecs, and for codecs in Python that leave their buffers. With QUANTREG_DEBUG=1 all checks
    run in this process, where a debugger sees them.
    """
    if not can_fork() or debugging():
        return False
    if subject.codec.level == "python" and subject.leaves_its_buffers is None:
        run_check("guard_pages", subject)
    return subject.leaves_its_buffers is not False


@contextmanager
def _without_scorers() -> Iterator[None]:
    """Leave out the hooks score_importance of other plugins: they change bytes, and a codec is checked by itself."""
    before = registry.ask_scorers
    registry.ask_scorers = False
    try:
        yield
    finally:
        registry.ask_scorers = before
