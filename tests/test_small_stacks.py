"""Codecs in threads with small stacks. musl gives a thread 128 KiB, unless a program asks for more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from oracles import NATIVE

from quantreg.testing import selfcheck

SCRIPT = Path(__file__).parent / "support" / "small_stacks.py"
BUILT_IN = sorted(json.loads(selfcheck.DIGESTS.read_text(encoding="utf-8")))


@pytest.mark.parametrize("level", NATIVE)
def test_half_of_128_kib_of_stack_is_enough_for_every_codec(monkeypatch, level):
    """The other half is for their callers. At avx512, a codec whose large arrays lie on the stack ends the process."""
    monkeypatch.setenv("QUANTREG_CPU", level)
    command = [sys.executable, "-P", str(SCRIPT), str(64 << 10), *BUILT_IN]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{len(BUILT_IN)} types\n")
