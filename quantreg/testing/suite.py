"""The checks as pytest tests."""

from pathlib import Path
from typing import ClassVar

import pytest

from quantreg.testing.runner import CHECKS, run_check
from quantreg.testing.samples import Subject

__all__ = ["CodecConformance"]


class CodecConformance:
    """Subclass it in a test file, and every check is a test of its own.

        class TestMyQ3(CodecConformance):
            qtype = "MY_Q3"                                   # a name, an id, a QuantType or a codec
            golden = Path(__file__).parent / "golden.npz"     # written by `pytest --update-golden`; commit it

    ``level`` is "quick" or "full"; ``expected_failures`` maps names of checks to reasons. Checks that do not apply are
    skipped, with the reason. ``--update-golden`` needs ``pytest_plugins = ["quantreg.testing.pytest_plugin"]`` in the
    conftest.py at the root.
    """

    qtype = None
    level = "full"
    golden: Path | None = None
    expected_failures: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def subject(self, request):
        cls = request.cls
        if "_subject" not in vars(cls):  # one for all checks of the class
            update = request.config.getoption("--update-golden", default=False)
            cls._subject = Subject(cls.qtype, cls.level == "full", cls.golden, update)
        return cls._subject

    @pytest.mark.parametrize("check", list(CHECKS))
    def test_codec(self, check, subject):
        outcome = run_check(check, subject, self.expected_failures.get(check))
        if outcome.status == "failed":
            pytest.fail(f"{subject.qtype.name}: {outcome.message}\n{check}: {CHECKS[check].text}", pytrace=False)
        elif outcome.status == "expected":
            pytest.xfail(outcome.message)
        elif outcome.status == "not applicable":
            pytest.skip(outcome.message)
