"""Find the instructions of a trace, as text."""

import re
import subprocess
from bisect import bisect_left, bisect_right
from collections import Counter
from functools import cache
from pathlib import Path

from emulated import Library

__all__ = ["Program", "tool"]


def tool(name):
    """Return the path of an LLVM tool: the newest with a version in its name, else the one without; None if missing."""
    found = [path for folder in ("/usr/bin", "/usr/local/bin") for path in Path(folder).glob(f"{name}*")]
    exact = [path for path in found if re.fullmatch(rf"{name}(-\d+)?", path.name)]
    return max(exact, key=lambda path: int(path.name.rpartition("-")[2]) if path.name != name else 0, default=None)


@cache
def disassemble(path):
    """Return (addresses, texts) of the instructions of a library of this process, in order."""
    library = Library(path)
    command = [tool("llvm-objdump"), "-d", "--no-show-raw-insn", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    addresses, texts = [], []
    for line in text.splitlines():
        found = re.match(r"\s*([0-9a-f]+):\s+(\S.*)", line)
        if found:
            addresses.append(library.base + int(found[1], 16))
            texts.append(re.sub(r"\s*(#|<).*", "", found[2]))
    return addresses, texts


class Program:
    """The instructions of all libraries of this process, found by address."""

    def __init__(self):
        self._spans = []
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "x" in line.split()[1] and "/" in line:
                first, last = (int(text, 16) for text in line.split()[0].split("-"))
                self._spans.append((first, last, line[line.index("/") :]))
        self._spans.sort()

    def _lines(self, address):
        first, last, path = self._spans[bisect_right(self._spans, (address, 1 << 64, "")) - 1]
        if not first <= address < last:
            raise LookupError(f"no library of this process has code at {address:#x}")
        return disassemble(path)

    def count(self, trace):
        """Return the number of instructions in a trace."""
        times = Counter(trace.order)
        return sum(times[i] * len(self.texts(span)) for i, span in enumerate(trace.spans))

    def texts(self, span):
        """Return the instructions from the first to the last address, as text."""
        addresses, texts = self._lines(span[0])
        return texts[bisect_left(addresses, span[0]) : bisect_right(addresses, span[1])]
