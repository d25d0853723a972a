"""The results of checking one codec."""

from dataclasses import dataclass
from typing import Any

__all__ = ["ConformanceError", "NotApplicable", "Outcome", "Report", "expect"]


class NotApplicable(Exception):  # noqa: N818 - it is not an error
    """A check does not apply to this codec; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check on one codec.

    ``status`` is "passed", "failed", "expected" (it failed, and expected_failures gives the reason) or "not
    applicable"; ``message`` says what is wrong, or why the check does not apply.
    """

    check: str
    status: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of all checks on the codec of the type ``name``. ``level`` is "quick" or "full"."""

    name: str
    level: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes whose status is "failed"."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def ok(self) -> bool:
        """Whether no check failed unexpectedly."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: name, level, ok, and the check, status and message of each outcome."""
        outcomes = [{"check": o.check, "status": o.status, "message": o.message} for o in self.outcomes]
        return {"name": self.name, "level": self.level, "ok": self.ok, "checks": outcomes}

    def __str__(self) -> str:
        lines = [f"{o.status:>14}  {o.check}{': ' + o.message if o.message else ''}" for o in self.outcomes]
        passed = sum(o.status == "passed" for o in self.outcomes)
        return "\n".join([*lines, f"{self.name}: {passed} passed, {len(self.failures)} failed"])


class ConformanceError(AssertionError):
    """A codec fails one or more checks; ``report`` holds all outcomes."""

    def __init__(self, report: Report) -> None:
        self.report: Report = report
        failed = "\n".join(f"  {o.check}: {o.message}" for o in report.failures)
        super().__init__(f"{report.name} fails {len(report.failures)} of {len(report.outcomes)} checks:\n{failed}")

    def __reduce__(self) -> tuple[type["ConformanceError"], tuple[Report]]:
        return ConformanceError, (self.report,)


def expect(condition: object, message: str) -> None:
    """Raise AssertionError with this message unless the condition is true.

    An assert statement would vanish under ``python -O``.
    """
    if not condition:
        raise AssertionError(message)
