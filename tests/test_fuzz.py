"""Run a bounded number of the cases that `tests/support/fuzz.py` and `interruptions.py` can generate without end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SUPPORT = Path(__file__).parent / "support"
CASES = {
    "header": 20_000, "file": 300, "blocks": 20_000, "weights": 4_000, "imatrix": 1_500, "plan": 400,
    "safetensors": 400, "journal": 300, "folders": 300,
}  # fmt: skip
KINDS = (
    "kill", "kill within a write", "full disk", "Ctrl-C", "shrinking source", "kill at random", "two at once",
)  # fmt: skip


def run(script, *words):
    done = subprocess.run([sys.executable, SUPPORT / script, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("target", CASES)
def test_no_damaged_input_gets_through(target):
    told = run("fuzz.py", "--only", target, "--cases", str(CASES[target]))
    assert told.startswith(f"{target}: {CASES[target]} inputs, ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_leaves_the_old_file_or_the_new_one(kind):
    told = run("interruptions.py", "--only", kind, "--seconds", "3")
    assert int(told.split()[-5]) > 20
