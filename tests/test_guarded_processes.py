"""The child processes in which the kit runs compiled codecs end when the process that checks them does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from quantreg.testing.guards import run_guarded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")

CHECK = """
import os, time
from quantreg.testing.guards import run_guarded

def forever():
    print(os.getpid(), flush=True)
    while True:
        time.sleep(1)

run_guarded([("forever", forever)], seconds=60)
"""


def is_running(process):
    """Whether a process is there and has not ended: a child of nobody may wait for its parent for ever."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_check_ends_with_the_process_that_runs_it(number):
    with subprocess.Popen(
        [sys.executable, "-P", "-c", CHECK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        child = int(run.stdout.readline())
        run.send_signal(number)
        run.wait(20)
        until = time.monotonic() + 20
        while is_running(child) and time.monotonic() < until:
            time.sleep(0.01)
        assert not is_running(child)


def test_a_check_that_is_interrupted_leaves_no_child(monkeypatch):
    children, wait = [], os.waitpid

    def interrupted(child, options):
        children.append(child)
        if len(children) == 1:
            raise KeyboardInterrupt
        return wait(child, options)

    monkeypatch.setattr(os, "waitpid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_guarded([("nothing", lambda: None)])
    assert len(set(children)) == 1
    with pytest.raises(ChildProcessError):
        wait(children[0], os.WNOHANG)
