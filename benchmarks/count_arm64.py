"""Count the instructions per weight of codecs at the CPU levels of arm64, on a processor that QEMU emulates.

Nothing is timed: instructions say what the compiler made of the code, not how long a processor takes. The exit code is
1 if the levels write or read different bytes. README.md in this folder has the details.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench.options import refuse_unknown, words
from bench.report import table

HERE = Path(__file__).resolve().parent
LEVELS = ("base", "neon")
WORKS = {"plain": "encode", "weighted": "encode with importance", "decode": "decode", "product": "product"}
TYPES = words(
    "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL "
    "IQ4_XS TQ1_0 TQ2_0 Q1_0 Q2_0 MXFP4 NVFP4"
)
WEIGHTS = 8 * 4096  # of the difference between two calls: see bench/arm64_calls.py


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="what `.ci/arm64 FOLDER` has built")
    add("--types", type=words, default=TYPES, metavar="TYPE,...", help="default: all that encode")
    add("--levels", type=words, default=LEVELS, metavar="LEVEL,...", help=f"default: {','.join(LEVELS)}")
    add("--json", metavar="FILE", help="also write the counts to this file")
    given = parser.parse_args()
    refuse_unknown(parser, "--types", given.types, TYPES)
    refuse_unknown(parser, "--levels", given.levels, LEVELS)
    for tool in ("qemu-aarch64", "cc"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is missing")
    return given


def count(folder, pairs):
    """Return [(type, level, work, instructions per weight, digest of the result)] for pairs of type and level."""
    installed = next(folder.glob("installed/**/quantreg/__init__.py")).parents[1]
    python_path = ":".join(map(str, (installed, folder / "site", HERE.parent / "tests" / "support")))
    with tempfile.TemporaryDirectory() as made:
        plugin = Path(made) / "count.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", plugin, HERE / "bench" / "qemu_count.c"], check=True)
        sysroot = folder / "sysroot"
        command = ["qemu-aarch64", "-plugin", f"file={plugin}", "-L", sysroot, sysroot / "usr/bin/python3.11", "-P"]
        command += [HERE / "bench" / "arm64_calls.py", *(word for pair in pairs for word in pair)]
        environment = {"PYTHONPATH": python_path, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    marks = dict(map(int, line.split()) for line in done.stderr.splitlines() if line.count(" ") == 1)
    found = []
    for line in done.stdout.splitlines():
        name, level, work, number, digest = line.split()
        first = int(number)
        few, many = (marks[first + part + 1] - marks[first + part] for part in (0, 2))
        found.append((name, level, work, (many - few) / WEIGHTS, digest))
    return found


def short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def report(found, levels):
    """Return a Markdown table, and for each work the geometric mean of the last level's count over the first's."""
    counts = {(name, work, level): number for name, level, work, number, _ in found}
    works = [work for work in WORKS if any(work == row[2] for row in found)]
    lines = []
    for name in dict.fromkeys(row[0] for row in found):
        cells = [[counts.get((name, work, level)) for level in levels] for work in works]
        lines.append([name, *(" / ".join(map(short, cell)) if None not in cell else "" for cell in cells)])
    text = table(["type", *(WORKS[work] for work in works)], lines)
    for work in works:
        ratios = [
            counts[name, work, levels[-1]] / counts[name, work, levels[0]]
            for name in dict.fromkeys(row[0] for row in found)
            if (name, work, levels[-1]) in counts
        ]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        text += f"\n{WORKS[work]}: {levels[-1]} / {levels[0]} is {mean:.3f} on geometric average of {len(ratios)} types"
    return text


def main():
    given = arguments()
    found = count(Path(given.folder).resolve(), [(name, level) for name in given.types for level in given.levels])
    print(report(found, given.levels))
    digests = {}
    for name, _, work, _, digest in found:
        if work != "product":  # sums of products may be rounded differently
            digests.setdefault((name, work), set()).add(digest)
    wrong = [f"FAILED {name} {work}: bytes differ" for (name, work), several in digests.items() if len(several) > 1]
    print("\n".join(wrong))
    if given.json:
        keys = ("type", "level", "work", "instructions", "digest")
        Path(given.json).write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in found], indent=1))
    return 1 if wrong else 0


sys.exit(main())
