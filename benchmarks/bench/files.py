"""Whole files: `quantreg quantize` against `llama-quantize`, and the memory that a huge tensor takes."""

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
    """A command that should have worked."""


def spawn(command, cores, log):
    """Run a command on that many processors: the dict that child.py prints."""
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
    """A temporary folder, in `workdir` if one is given."""
    with tempfile.TemporaryDirectory(prefix="quantreg-bench-", dir=workdir) as path:
        yield Path(path)


def whole_files(params, workdir=None, rounds=3, names=None, counts=(1, 2), tell=print):
    """{"params", "source_bytes", "rows", "scaling", "notes", "failures"}: wall time and peak memory, bytes compared."""
    theirs = os.environ.get("QUANTREG_LLAMA_QUANTIZE")
    notes, failures, rows = [] if theirs else [MISSING], [], []
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
            for n in counts:
                if n > cpu_count():
                    notes.append(f"{name}: this machine has no {n} processors")
                    continue
                tell(f"{name}, {n} thread(s)")
                try:
                    rows.append(_compare(work, source, given, file_type, name, n, theirs, rounds))
                except CommandError as error:
                    failures.append(str(error))
        size = os.path.getsize(source)
    failures += [f"{row['file']}, {row['threads']} threads: bytes differ" for row in rows if row["same bytes"] is False]
    return {
        "params": count,
        "source_bytes": size,
        "rows": rows,
        "scaling": _scaling(rows),
        "notes": notes,
        "failures": failures,
    }


def _compare(work, source, imatrix, file_type, name, threads, theirs, rounds):
    """One row: the two programs in turn, `rounds` times."""
    log = str(work / "log")
    outs = {"ours": str(work / "ours.gguf"), "theirs": str(work / "theirs.gguf")}
    commands = {"ours": quantreg_command(source, outs["ours"], file_type, threads, imatrix)}
    if theirs:
        extra = ["--imatrix", imatrix] if imatrix else []
        commands["theirs"] = [theirs, *extra, source, outs["theirs"], file_type, str(threads)]
    runs = {who: [] for who in commands}
    for _ in range(rounds):
        for who, command in commands.items():
            Path(outs[who]).unlink(missing_ok=True)
            os.sync()  # what the run before left to be written is not this one's
            runs[who].append(spawn(command, threads, log))
    seconds = {who: median(run["seconds"] for run in found) for who, found in runs.items()}
    cpu = {who: median(run["user"] + run["system"] for run in found) for who, found in runs.items()}
    peak = {who: max(run["peak_mib"] for run in found) for who, found in runs.items()}
    goal = targets.FILES.get(name) if threads == 2 else None
    times = same = None
    if theirs:
        times = median(t["seconds"] / o["seconds"] for t, o in zip(runs["theirs"], runs["ours"], strict=True))
        same = _sha256(outs["ours"]) == _sha256(outs["theirs"])
    for out in outs.values():
        Path(out).unlink(missing_ok=True)
    return {
        "file": name,
        "threads": threads,
        "ours s": seconds["ours"],
        "theirs s": seconds.get("theirs"),
        "x": times,
        "goal x": goal,
        "met": None if goal is None or times is None else times >= goal,
        "ours CPU s": cpu["ours"],
        "theirs CPU s": cpu.get("theirs"),
        "ours MiB": round(peak["ours"]),
        "theirs MiB": round(peak["theirs"]) if "theirs" in peak else None,
        f"<= {targets.PEAK_MIB} MiB": peak["ours"] <= targets.PEAK_MIB,
        "same bytes": same,
    }


def _scaling(rows):
    """What a second thread brings."""
    by_file = {}
    for row in rows:
        by_file.setdefault(row["file"], {})[row["threads"]] = row["ours s"]
    rows = []
    for name, seconds in by_file.items():
        if len(seconds) == 2:
            times = seconds[1] / seconds[2]
            goal = targets.TWO_THREADS
            rows.append({"file": name, "two threads x": times, "goal x": goal, "met": times >= goal})
    return rows


def memory(nbytes, workdir=None, names=None, tell=print):
    """{"rows", "notes", "failures"}: peak memory (VmHWM) of quantizing one huge F16 tensor, a hole in a sparse file."""
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
