"""Measure whole files: `quantreg quantize` against `llama-quantize`, and the memory that a huge tensor takes."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import quantreg
from bench import targets
from bench.model import write_imatrix, write_model, write_one_tensor
from bench.timing import pinned
from quantreg.dispatch import cpu_count

__all__ = ["memory", "whole_files"]

CASES = (("Q8_0", False), ("BF16", False), ("Q4_K_M", False), ("Q4_K_M", True), ("IQ2_XS", True))
MISSING = "oracle missing: QUANTREG_LLAMA_QUANTIZE=/path/to/llama-quantize of the pinned llama.cpp"


class CommandError(Exception):
    """A command failed that should have succeeded."""


def spawn(command, cores, log):
    """Run a command on `cores` processors and return the dict that child.py prints."""
    helper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")), *command]
    with pinned(cores):
        done = subprocess.run(helper, check=True, capture_output=True, text=True, env={**os.environ, "BENCH_LOG": log})
    result = json.loads(done.stdout)
    if result["code"] != 0:
        tail = Path(log).read_text(errors="replace").strip().splitlines()[-1:]
        raise CommandError(
            f"{Path(command[0]).name} {' '.join(command[1:4])}: exit code {result['code']}: {' '.join(tail)}"
        )
    return result


def quantreg_command(source, target, file_type, threads, imatrix=None, *options):
    extra = ["--imatrix", imatrix] if imatrix else []
    words = [source, target, file_type, str(threads)]
    return [sys.executable, "-P", "-m", "quantreg", "quantize", "--force", *extra, *options, *words]


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder(workdir):
    """Make a temporary folder, inside `workdir` if that is given."""
    with tempfile.TemporaryDirectory(prefix="quantreg-bench-", dir=workdir) as path:
        yield Path(path)


def whole_files(params, workdir=None, rounds=3, names=None, counts=(1, 2), tell=print):
    """Measure wall time and peak memory of whole files and compare their bytes.

    Returns {"params", "source_bytes", "rows", "scaling", "notes", "failures"}.
    """
    theirs = os.environ.get("QUANTREG_LLAMA_QUANTIZE")
    notes, failures, rows, scaling = [] if theirs else [MISSING], [], [], []
    usable = [n for n in counts if n <= cpu_count()]
    notes += [
        f"not measured with {n} threads: this machine has {cpu_count()} processors" for n in counts if n not in usable
    ]
    with folder(workdir) as work:
        source, imatrix = str(work / "model.gguf"), str(work / "imatrix.gguf")
        tell("writing the model")
        count = write_model(source, params)
        write_imatrix(imatrix, params)
        for file_type, weighted in CASES:
            name = f"{file_type} with imatrix" if weighted else file_type
            given = imatrix if weighted else None
            if names and file_type not in names:
                continue
            try:
                quantreg.plan(source, file_type, imatrix=given)
            except quantreg.QuantregError as error:
                notes.append(f"{name}: {error}")
                continue
            tell(name)
            try:
                found, times = _compare(work, source, given, file_type, name, usable, theirs, rounds)
            except CommandError as error:
                failures.append(str(error))
                continue
            rows += found
            scaling += times
        size = os.path.getsize(source)
    failures += [f"{row['file']}, {row['threads']} threads: bytes differ" for row in rows if row["same bytes"] is False]
    return {
        "params": count,
        "source_bytes": size,
        "rows": rows,
        "scaling": scaling,
        "notes": notes,
        "failures": failures,
    }


def _compare(work, source, imatrix, file_type, name, counts, theirs, rounds):
    """Run both programs with each number of threads, in turn.

    Returns (one row per number of threads, one row that compares two threads with one).
    """
    outs = {who: work / f"{who}.gguf" for who in (("ours", "theirs") if theirs else ("ours",))}
    runs = {(who, n): [] for n in counts for who in outs}
    digests = {}
    for _ in range(rounds):
        for who, n in runs:
            command = quantreg_command(source, str(outs[who]), file_type, n, imatrix)
            if who == "theirs":
                extra = ["--imatrix", imatrix] if imatrix else []
                command = [theirs, *extra, source, str(outs[who]), file_type, str(n)]
            outs[who].unlink(missing_ok=True)
            os.sync()  # so that this run does not pay for writes of the previous one
            runs[who, n].append(spawn(command, n, str(work / "log")))
            if len(runs[who, n]) == rounds:
                digests[who, n] = _sha256(outs[who])
    for out in outs.values():
        out.unlink(missing_ok=True)
    same = {n: digests["ours", n] == digests["theirs", n] if theirs else None for n in counts}
    rows = [_row(name, n, runs["ours", n], runs.get(("theirs", n)), same[n]) for n in counts]
    if not {1, 2} <= set(counts):
        return rows, []
    times, goal = _ratio(runs["ours", 1], runs["ours", 2]), targets.TWO_THREADS
    return rows, [{"file": name, "two threads x": times, "goal x": goal, "met": times >= goal}]


def _ratio(slow, fast):
    """Return the median over the rounds of the ratio within a round."""
    return median(s["seconds"] / f["seconds"] for s, f in zip(slow, fast, strict=True))


def _row(name, threads, ours, theirs, same):
    def of(runs, what):
        return what(runs) if runs else None

    def seconds(runs):
        return median(run["seconds"] for run in runs)

    def cpu(runs):
        return median(run["user"] + run["system"] for run in runs)

    def peak(runs):
        return round(max(run["peak_mib"] for run in runs))

    goal = targets.FILES.get(name) if threads == 2 else None
    times = _ratio(theirs, ours) if theirs else None
    return {
        "file": name,
        "threads": threads,
        "ours s": seconds(ours),
        "theirs s": of(theirs, seconds),
        "x": times,
        "goal x": goal,
        "met": None if goal is None or times is None else times >= goal,
        "ours CPU s": cpu(ours),
        "theirs CPU s": of(theirs, cpu),
        "ours MiB": peak(ours),
        "theirs MiB": of(theirs, peak),
        f"<= {targets.PEAK_MIB} MiB": peak(ours) <= targets.PEAK_MIB,
        "same bytes": same,
    }


def memory(nbytes, workdir=None, names=None, tell=print):
    """Measure the peak memory of quantizing one huge F16 tensor, which is a hole in a sparse file.

    Returns {"rows", "notes", "failures"}.
    """
    rows, notes, failures = [], [], []
    with folder(workdir) as work:
        source, out = str(work / "huge.gguf"), str(work / "out.gguf")
        write_one_tensor(source, nbytes)
        for file_type in names or ("Q4_0", "Q8_0"):
            try:
                quantreg.plan(source, file_type, pure=True)
            except quantreg.QuantregError as error:
                notes.append(f"{file_type}: {error}")
                continue
            for threads in (1, 2):
                tell(f"memory: {file_type}, {threads} thread(s)")
                command = quantreg_command(source, out, file_type, threads, None, "--pure")
                try:
                    run = spawn(command, threads, str(work / "log"))
                except CommandError as error:
                    failures.append(str(error))
                    continue
                rows.append(
                    {
                        "type": file_type,
                        "threads": threads,
                        "tensor GB": nbytes / 1e9,
                        "out GB": os.path.getsize(out) / 1e9,
                        "s": run["seconds"],
                        "peak MiB": round(run["peak_mib"]),
                        "goal": targets.PEAK_MIB,
                        "met": run["peak_mib"] <= targets.PEAK_MIB,
                    }
                )
                Path(out).unlink(missing_ok=True)
    return {"rows": rows, "notes": notes, "failures": failures}
