"""Time functions on one core, in turn, and measure the memory bandwidth of the core."""

import os
import platform
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

__all__ = ["Rates", "aligned", "cache_bytes", "cpu_model", "interleave", "pinned"]

SAMPLE_SECONDS = 0.02  # a sample takes about this long


@contextmanager
def pinned(cores=1):
    """Keep this process, and the children that it starts, on the last `cores` processors that it may use."""
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
    """Return the seconds per call of each function in `works`, as a list of `rounds` samples for each name.

    Every round runs all functions in turn, so that a slow phase of the machine affects all of them. The default clock
    is the CPU time of the process: on one core this is the wall time without the time that other processes took.
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
    """Return the median over the rounds of their time divided by ours."""
    return median(t / max(o, 1e-9) for t, o in zip(theirs, ours, strict=True))


def aligned(nbytes):
    """Return uint8 (nbytes,) that begins at a cache line and whose pages are in memory."""
    base = np.zeros(nbytes + 64, np.uint8)
    base.fill(1)
    start = -base.ctypes.data % 64
    return base[start : start + nbytes]


class Rates:
    """The highest rates of this core on `nbytes` of memory, in bytes per second: `fill` writes, `read` reads."""

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
    """Return the size of the last-level cache, and at least 32 MiB."""
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) << (20 if text.endswith("M") else 10))
    return max(sizes)


def cpu_model():
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
