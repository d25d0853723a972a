"""Passes damaged inputs to quantreg: python tests/support/fuzz.py [--seconds 60] [--only header,blocks] [--seed 1]

Each target runs in its own process, so that crashes and hangs are findings too. Case N of a seed is always the same
input, and a finding says how to repeat it. The exit code is 1 if anything got through.
"""

import argparse
import mmap
import os
import random
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HANG = 60  # seconds without a finished input


def run(name, *, seconds=None, cases=None, seed=0):
    """Run one target for ``seconds`` or ``cases``; return (inputs, refused inputs, what got through or None)."""
    shared = mmap.mmap(-1, 16)  # (inputs, refused); still readable after the process has died
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        parent, child = os.getpid(), os.fork()
        if child == 0:
            os.close(reader)
            _child(name, Path(folder), shared, writer, seconds, cases, seed, parent)
        os.close(writer)
        finding = _wait(child, reader, shared)
    done, refused = struct.unpack("<QQ", shared)
    return done, refused, finding


def _child(name, folder, shared, writer, seconds, cases, seed, parent):
    status = 1
    try:
        from quantreg.testing.guards import end_with

        end_with(parent)
        warnings.simplefilter("error")
        from fuzz_targets import TARGETS

        target = TARGETS[name](folder)
        done = refused = 0
        until = time.monotonic() + seconds if seconds else float("inf")
        while (cases is None or done < cases) and (done % 64 or time.monotonic() < until):
            refused += not target(case(seed, done))
            done += 1
            struct.pack_into("<QQ", shared, 0, done, refused)
        status = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(status)


def case(seed, number):
    return random.Random(seed << 48 | number)


def _wait(child, reader, shared):
    """Wait for the process; return what went wrong, or None."""
    before, since = None, time.monotonic()
    while not select.select([reader], [], [], 1)[0]:
        if shared[:] != before:
            before, since = shared[:], time.monotonic()
        elif time.monotonic() - since > HANG:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"an input took more than {HANG} s"
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return text or (f"exit code {os.WEXITSTATUS(status)}" if status else None)


def main():
    names = ["header", "file", "blocks", "weights", "imatrix", "plan", "safetensors", "journal", "folders"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (default: 60)")
    parser.add_argument("--cases", type=int, help="inputs per target, instead of a time")
    parser.add_argument("--only", default=",".join(names), metavar="TARGET,...", help=f"any of {', '.join(names)}")
    parser.add_argument("--seed", type=int, default=0, help="a different seed gives different inputs")
    parser.add_argument("--case", type=int, help="run only this input of the target, in this process")
    given = parser.parse_args()
    chosen = given.only.split(",")
    if wrong := sorted(set(chosen) - set(names)):
        parser.error(f"--only {wrong[0]}: the targets are {', '.join(names)}")
    if given.case is not None:
        from fuzz_targets import TARGETS

        warnings.simplefilter("error")
        with tempfile.TemporaryDirectory() as folder:
            for name in chosen:
                print(name, "accepted" if TARGETS[name](Path(folder))(case(given.seed, given.case)) else "refused")
        return 0
    through = 0
    for name in chosen:
        seconds = None if given.cases else given.seconds / len(chosen)
        done, refused, finding = run(name, seconds=seconds, cases=given.cases, seed=given.seed)
        print(f"{name}: {done} inputs, {refused} refused, {int(finding is not None)} got through", flush=True)
        if finding:
            through += 1
            print(
                f"{finding}\nrepeat: python {sys.argv[0]} --only {name} --seed {given.seed} --case {done}", flush=True
            )
    return 1 if through else 0


if __name__ == "__main__":
    sys.exit(main())
