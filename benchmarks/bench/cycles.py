"""Cycles that a processor would need for a trace, by LLVM's model of it.

`llvm-mca` is given what was run, in the order of running, as if it had no branches: it knows each instruction's latency
and the units that can do it, and how many may be under way. It does not know caches, wrong guesses at branches, or
loads that wait for stores.
"""

import random
import re
import subprocess
import sys

from bench.machine_code import tool

__all__ = ["WINDOW", "cycles"]

WINDOW = 12_000  # instructions of a sample: many times what a processor has under way
SAMPLES = 4


def cycles(program, trace, count, cpu):
    """Estimated cycles of the `count` instructions of the trace, from samples of it, on what LLVM calls `cpu`."""
    sampled = needed = 0
    for start in _starts(trace.order, count):
        lines = []
        for number in trace.order[start:]:
            lines += program.texts(trace.spans[number])
            if len(lines) >= WINDOW:
                break
        done, took = _simulate(lines, cpu)
        sampled += done
        needed += took
    return count * needed / sampled


def _starts(order, count):
    """Where samples begin: at the beginning if all of it fits into one, else evenly spread."""
    if count <= WINDOW:
        return [0]
    last = max(0, int(len(order) * (1 - WINDOW / count)))
    spread = random.Random(0)
    return [int(last * (i + spread.random()) / SAMPLES) for i in range(SAMPLES)]


def _simulate(lines, cpu):
    """(instructions, cycles)."""
    text = "\n".join(map(_without_target, lines))
    command = [tool("llvm-mca"), f"-mcpu={cpu}", "-iterations=1", "--skip-unsupported-instructions=any", "-"]
    command += ["-all-views=0", "-summary-view"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{command[0]} (17 or newer is needed) says: {result.stderr.splitlines()[0]}")
    found = {name: int(re.search(rf"{name}:\s+(\d+)", result.stdout)[1]) for name in ("Instructions", "Total Cycles")}
    return found["Instructions"], found["Total Cycles"]


def _without_target(line):
    """Jumps and calls go nowhere: the trace has what follows them."""
    return re.sub(r"^(j\w+|callq?)\s.*", r"\1 0", line)
