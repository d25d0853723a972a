"""Measure start-up time, and the time to open a file against the C reader and gguf-py."""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import quantreg
from bench import targets
from bench.files import spawn
from bench.oracle import MISSING, load, optional
from bench.timing import interleave, pinned, ratio

__all__ = ["open_files", "startup"]

TOKENS = "tokenizer.ggml.tokens"

# name -> (code that runs first, code whose seconds a fresh interpreter prints, goal)
PROBES = {
    "import quantreg, after numpy": ("import numpy", "import quantreg", targets.IMPORT_SECONDS),
    "all plugin modules, after the registry": ("import numpy, quantreg.registry", "len(quantreg.types)", None),
    "one encode: first codec loaded": (
        "import numpy, quantreg; x = numpy.ones((1, 256), 'f4'); q = quantreg.types[12]",
        "quantreg.quantize(x, q, threads=1)",
        None,
    ),
}


def startup(rounds=9, tell=print):
    """Measure fresh processes. The times are medians. Returns {"rows", "notes", "failures"}."""
    tell("start-up")
    python = [sys.executable, "-P"]
    commands = {
        "python -c pass": [*python, "-c", "pass"],
        "python -c 'import numpy'": [*python, "-c", "import numpy"],
        "quantreg --help": [*python, "-m", "quantreg", "--help"],
        "quantreg types": [*python, "-m", "quantreg", "types"],
    }
    with tempfile.TemporaryDirectory() as work:
        log = str(Path(work) / "log")
        for name, (before, probed, _) in PROBES.items():
            text = f"{before}; from time import perf_counter as t; b = t(); {probed}; print(t() - b)"
            commands[name] = [*python, "-c", text]
        samples = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, command in commands.items():
                run = spawn(command, 1, log)
                wall = float(Path(log).read_text()) if name in PROBES else run["seconds"]
                cpu = None if name in PROBES else run["user"] + run["system"]
                if turn:  # the first turn only warms the file cache
                    samples[name].append((wall, cpu))
    goals = {"quantreg --help": targets.HELP_SECONDS, **{name: goal for name, (*_, goal) in PROBES.items()}}
    rows = []
    for name, found in samples.items():
        value, goal = median(wall for wall, _ in found), goals.get(name)
        rows.append(
            {
                "": name,
                "ms": value * 1e3,
                "CPU ms": None if name in PROBES else median(cpu for _, cpu in found) * 1e3,
                "goal ms": None if goal is None else goal * 1e3,
                "met": None if goal is None else value <= goal,
            }
        )
    return {"rows": rows, "notes": [], "failures": []}


def open_files(vocab, rounds=5, gguf_py=False, tell=print):
    """Measure opening the GGUF files of a folder and reading their tokens. Returns {"rows", "notes", "failures"}."""
    paths = sorted(Path(vocab).glob("*.gguf"))
    ggml, module = load(), optional("gguf")
    notes = [] if ggml else [MISSING]
    notes += [] if paths else [f"{vocab} holds no GGUF files"]
    notes += [] if module else ["gguf is not installed: pip install '.[bench]'"]
    rows, failures = [], []
    with pinned():
        for path in paths:
            tell(f"open {path.name}")
            row, wrong = _open(path, ggml, rounds)
            rows.append(row)
            failures += [f"{path.name}: tokens differ from the C reader's"] if wrong else []
        if gguf_py and module and rows:
            largest = max(rows, key=lambda row: row["tokens"])
            tell(f"gguf-py: {largest['file']}")
            begun = time.process_time()
            reader = module.GGUFReader(str(Path(vocab) / largest["file"]))
            opened = time.process_time() - begun
            reader.get_field(TOKENS).contents()
            took = time.process_time() - begun
            notes.append(
                f"gguf-py, {largest['file']}: opens in {opened:.1f} s and has read all tokens after {took:.1f} s"
            )
    return {"rows": rows, "notes": notes, "failures": failures}


def _open(path, ggml, rounds):
    """Return (row of the table, whether the tokens are wrong)."""

    def tokens():
        with quantreg.open(path) as model:
            return model.metadata.get(TOKENS, [])

    works = {"ours": lambda: quantreg.open(path).close(), "tokens": tokens}
    if ggml:
        works["C"] = lambda: ggml.open_file(path)
    samples = interleave(works, rounds)
    found = tokens()
    expected = ggml.strings(path, TOKENS) if ggml else None
    wrong = False
    if expected is not None:  # C strings end at the first zero byte
        wrong = expected != [text.encode("utf-8", "surrogateescape").partition(b"\0")[0] for text in found]
    opened, read = median(samples["ours"]), median(samples["tokens"])
    times = ratio(samples["C"], samples["ours"]) if ggml else None
    row = {
        "file": path.name,
        "tokens": len(found),
        "open ms": opened * 1e3,
        "C reader ms": median(samples["C"]) * 1e3 if ggml else None,
        "x": times,
        f"<= {targets.OPEN_SECONDS * 1e3:g} ms, faster than C": opened <= targets.OPEN_SECONDS and (times or 1) >= 1,
        "open and all tokens ms": read * 1e3,
        f"<= {targets.TOKENS_SECONDS * 1e3:g} ms": read <= targets.TOKENS_SECONDS,
    }
    return row, wrong
