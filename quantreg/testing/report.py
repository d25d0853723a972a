"""What came out of the checks of one codec."""

from dataclasses import dataclass

__all__ = ["ConformanceError", "NotApplicable", "Outcome", "Report", "expect"]


class NotApplicable(Exception):  # noqa: N818 - no error
    """A check has nothing to check on this codec; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check on one codec.

    ``status`` is "passed", "failed", "expected" (it failed, and expected_failures says why) or "not applicable";
    ``message`` says what was wrong or why it does not apply.
    """

    check: str
    status: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of all checks on one codec."""

    name: str
    level: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def ok(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict:
        """As JSON-ready data: name, level, ok, and check, status and message of each outcome."""
        outcomes = [{"check": o.check, "status": o.status, "message": o.message} for o in self.outcomes]
        return {"name": self.name, "level": self.level, "ok": self.ok, "checks": outcomes}

    def __str__(self):
        lines = [f"{o.status:>14}  {o.check}{': ' + o.message if o.message else ''}" for o in self.outcomes]
        passed = sum(o.status == "passed" for o in self.outcomes)
        return "\n".join([*lines, f"{self.name}: {passed} passed, {len(self.failures)} failed"])


class ConformanceError(AssertionError):
    """A codec breaks a rule; ``report`` holds all outcomes."""

    def __init__(self, report: Report):
        self.report = report
        failed = "\n".join(f"  {o.check}: {o.message}" for o in report.failures)
        super().__init__(f"{report.name} fails {len(report.failures)} of {len(report.outcomes)} checks:\n{failed}")

    def __reduce__(self):
        return ConformanceError, (self.report,)


def expect(condition, message) -> None:
    """AssertionError with this message unless the condition holds (``assert`` would vanish under ``python -O``)."""
    if not condition:
        raise AssertionError(message)
