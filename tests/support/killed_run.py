"""Runs with a calibration text, each in a process that kills itself at an event."""

import json
import signal
import subprocess
import sys

_RUN = """
import json, os, signal, sys
import numpy as np
import quantreg

call, arguments, phase, nth, given = sys.argv[1:]
seen = 0
def stop(event):
    global seen
    seen += phase in (type(event).__name__, getattr(event, "phase", None))
    if seen == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
getattr(quantreg, call)(*json.loads(arguments), calibration=np.load("ids.npy"), n_ctx=32, chunks=40, resume=True,
                        progress=stop, **json.loads(given))
"""


def kill(call, arguments, phase, nth, **given):
    """Call a function of quantreg with the text in ids.npy, and kill it at the nth event of a name or phase."""
    command = [sys.executable, "-P", "-c", _RUN, call, json.dumps(arguments), phase, str(nth), json.dumps(given)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL, phase
