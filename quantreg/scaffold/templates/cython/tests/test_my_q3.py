from quantreg.testing import CodecConformance


class TestMyQ3(CodecConformance):
    qtype = "MY_Q3"
    # When the format is final, pin its bytes: uncomment, run `pytest --update-golden` once, commit the file.
    # golden = Path(__file__).parent / "MY_Q3.npz"
    expected_failures = {}  # noqa: RUF012 - name of a check -> why it must fail
