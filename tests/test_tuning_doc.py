"""docs/tuning.md: its example runs and prints what the page shows."""

import contextlib
import io

from documents import file_in


def test_the_example_of_error_feedback_prints_what_the_page_shows():
    shown = file_in("tuning.md", "feedback.py prints")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(file_in("tuning.md", "feedback.py"), "feedback.py", "exec"), {})
    assert printed.getvalue() == shown
