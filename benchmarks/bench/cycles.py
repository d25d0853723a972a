"""Estimate how many cycles a processor needs for a trace, with LLVM's model of the processor.

`llvm-mca` gets the instructions in the order in which they ran, as if there were no branches. Its model has the latency
of each instruction, the units that can execute it, and how many can be in flight. It does not have caches, mispredicted
branches, or loads that wait for stores.
"""

import random
import re
import subprocess
import sys

from bench.machine_code import tool

__all__ = ["WINDOW", "cycles"]

WINDOW = 12_000  # instructions per sample: many times what a processor has in flight
SAMPLES = 4


def cycles(program, trace, count, cpu):
    """Estimate the cycles of a trace of `count` instructions from samples, on the processor that LLVM calls `cpu`."""
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
    """Return where samples begin: at 0 if the whole trace fits into one, otherwise spread evenly."""
    if count <= WINDOW:
        return [0]
    last = max(0, int(len(order) * (1 - WINDOW / count)))
    spread = random.Random(0)
    return [int(last * (i + spread.random()) / SAMPLES) for i in range(SAMPLES)]


def _simulate(lines, cpu):
    """Return (instructions, cycles) of these lines of assembly."""
    text = "\n".join(map(_without_target, lines))
    command = [tool("llvm-mca"), f"-mcpu={cpu}", "-iterations=1", "--skip-unsupported-instructions=any", "-"]
    command += ["-all-views=0", "-summary-view"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{command[0]} (it must be 17 or newer) failed: {result.stderr.splitlines()[0]}")
    found = {name: int(re.search(rf"{name}:\s+(\d+)", result.stdout)[1]) for name in ("Instructions", "Total Cycles")}
    return found["Instructions"], found["Total Cycles"]


def _without_target(line):
    """Remove the targets of jumps and calls: the trace already holds what runs next."""
    return re.sub(r"^(j\w+|callq?)\s.*", r"\1 0", line)
