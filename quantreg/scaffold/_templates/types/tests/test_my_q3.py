from pathlib import Path

from quantreg.testing import CodecConformance

HERE = Path(__file__).parent


class TestMyQ3(CodecConformance):
    qtype = "MY_Q3"
    # Once the format is final, pin its bytes: uncomment this, run `pytest --update-golden` once, commit the new file.
    # golden = HERE / "MY_Q3.npz"
    expected_failures = {}  # noqa: RUF012 - name of a check: why it must fail
