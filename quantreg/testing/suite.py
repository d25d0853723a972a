"""The conformance kit as a class of pytest tests."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import pytest

from quantreg.testing.runner import CHECKS, run_check
from quantreg.testing.samples import Subject

if TYPE_CHECKING:
    from quantreg.codec import RowCodec
    from quantreg.qtype import QuantType

__all__ = ["CodecConformance"]


class CodecConformance:
    """Tests of a codec, one for each check. Subclass it in a test file::

        class TestMyQ3(CodecConformance):
            qtype = "MY_Q3"                                   # a name, an id, a QuantType or a codec
            golden = Path(__file__).parent / "golden.npz"     # written by `pytest --update-golden`; commit it

    ``level`` is "quick" or "full". ``expected_failures`` maps names of checks to reasons; these checks must fail. A
    check that does not apply is skipped, with the reason. The option ``--update-golden`` needs ``pytest_plugins =
    ["quantreg.testing.pytest_plugin"]`` in the top-level conftest.py.
    """

    qtype: "QuantType | RowCodec | str | int"
    level: Literal["quick", "full"] = "full"
    golden: Path | None = None
    expected_failures: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        """The codec under test; all checks of the class share it."""
        cls = request.cls
        if "_subject" not in vars(cls):
            update = request.config.getoption("--update-golden", default=False)
            cls._subject = Subject(cls.qtype, cls.level == "full", cls.golden, update)
        subject: Subject = cls._subject
        return subject

    @pytest.mark.parametrize("check", list(CHECKS))
    def test_codec(self, check: str, subject: Subject) -> None:
        """Run one check."""
        outcome = run_check(check, subject, self.expected_failures.get(check))
        if outcome.status == "failed":
            pytest.fail(f"{subject.qtype.name}: {outcome.message}\n{check}: {CHECKS[check].text}", pytrace=False)
        elif outcome.status == "expected":
            pytest.xfail(outcome.message)
        elif outcome.status == "not applicable":
            pytest.skip(outcome.message)
