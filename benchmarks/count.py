"""Count the instructions of codecs at every CPU level, including those that this machine lacks.

The compiled codecs run on an emulated processor. The exit code is 1 if their bytes differ from those that this machine
computes. README.md in this folder has the details.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench.codecs import SKIP, WORKS
from bench.counting import Counting, report
from bench.machine_code import tool
from bench.options import refuse_unknown, words
from bench.oracle import MISSING, load

from quantreg import types

X86_LEVELS = ("base", "avx2", "avx512")  # count_arm64.py counts those of arm64


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--types", type=words, metavar="TYPE,...", help="default: all that encode")
    add("--levels", type=words, default=X86_LEVELS, metavar="LEVEL,...", help=f"default: {','.join(X86_LEVELS)}")
    add("--works", type=words, metavar="WORK,...", help="any of plain, weighted, decode; default: all")
    add(
        "--cpus",
        type=words,
        default=[],
        metavar="CPU,...",
        help="LLVM names of processors, such as znver4,icelake-server, for estimated cycles; default: none",
    )
    add("--json", metavar="FILE", help="also write the results to this file")
    given = parser.parse_args()
    refuse_unknown(parser, "--types", given.types, list(types))
    refuse_unknown(parser, "--levels", given.levels, X86_LEVELS)
    refuse_unknown(parser, "--works", given.works, [work.split()[-1] for work in WORKS])
    return given


def main():
    given = arguments()
    for name in ["llvm-objdump"] + ["llvm-mca"] * bool(given.cpus):
        if tool(name) is None:
            sys.exit(f"{name} is missing: install LLVM 17 or newer (Debian: llvm-19)")
    ggml = load()
    if ggml is None:
        print(MISSING, file=sys.stderr)
    counting = Counting(ggml, given.cpus)
    works = [work for work in WORKS if not given.works or work.split()[-1] in given.works]
    rows, wrong = [], []
    for name in given.types or [name for name in types if name not in SKIP]:
        print(name, file=sys.stderr, flush=True)
        found, differ = counting.measure(name, works, given.levels)
        rows += found
        wrong += differ
    print(report(rows, given.levels, given.cpus))
    for line in wrong:
        print(f"FAILED {line}")
    if given.json:
        Path(given.json).write_text(json.dumps({"rows": rows, "failures": wrong}, indent=1))
    return 1 if wrong else 0


sys.exit(main())
