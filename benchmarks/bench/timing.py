"""Timing on one core: pinned, interleaved, median of rounds; and what the core itself can do."""

import os
import platform
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

__all__ = ["Rates", "aligned", "cache_bytes", "cpu_model", "interleave", "pinned"]

SAMPLE_SECONDS = 0.02  # a sample runs at least this long


@contextmanager
def pinned(cores=1):
    """Keep this process, and children started meanwhile, on the last `cores` processors it may use."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[-cores:]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def interleave(works, rounds, clock=time.process_time):
    """Seconds a call of each of `works` (name -> function), one list of `rounds` samples a name.

    Every round runs all of them in turn, so that whatever slows the machine slows all alike. The clock is CPU time of
    the process by default: on one core it is wall time without what other processes took.
    """
    repeats, samples = {}, {name: [] for name in works}
    for name, work in works.items():  # also warms up
        work()
        begun = clock()
        work()
        repeats[name] = max(1, round(SAMPLE_SECONDS / max(clock() - begun, 1e-7)))
    for _ in range(rounds):
        for name, work in works.items():
            begun = clock()
            for _ in range(repeats[name]):
                work()
            samples[name].append((clock() - begun) / repeats[name])
    return samples


def ratio(theirs, ours):
    """Median over the rounds of how many times faster ours was."""
    return median(t / max(o, 1e-9) for t, o in zip(theirs, ours, strict=True))


def aligned(nbytes):
    """uint8 (nbytes,) that begins at a cache line, its pages already there."""
    base = np.zeros(nbytes + 64, np.uint8)
    base.fill(1)
    start = -base.ctypes.data % 64
    return base[start : start + nbytes]


class Rates:
    """What this core does at best with `nbytes` of memory, in bytes a second: `fill` writes, `read` reads."""

    def __init__(self, nbytes, rounds=5):
        floats = aligned(nbytes).view(np.float32)
        words = floats.view(np.uint64)
        samples = interleave(
            {"fill": lambda: floats.fill(1), "max": lambda: floats.max(), "or": lambda: np.bitwise_or.reduce(words)},
            rounds,
        )
        self.fill = nbytes / median(samples["fill"])
        self.read = nbytes / min(median(samples["max"]), median(samples["or"]))

    def to_dict(self):
        return {"fill_bytes_per_second": self.fill, "read_bytes_per_second": self.read}


def cache_bytes():
    """Size of the last-level cache; 32 MiB where the system does not say."""
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) << (20 if text.endswith("M") else 10))
    return max(sizes)


def cpu_model():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
