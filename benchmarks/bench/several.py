"""Measure several file types in one run of `quantreg quantize` against a run for each, and against llama-quantize."""

import os
from pathlib import Path
from statistics import median

from bench.files import MISSING, CommandError, _sha256, folder, quantreg_command, spawn
from bench.model import write_model

__all__ = ["TYPES", "measure"]

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M")
PARAMS = 100_000_000  # at most: a publisher's model is larger, and the ratio is the same


def measure(params, workdir=None, rounds=1, names=None, threads=2, tell=print):
    """Measure wall time and peak memory of five types, and compare the bytes.

    Returns {"params", "source_bytes", "rows", "notes", "failures"}.
    """
    theirs = os.environ.get("QUANTREG_LLAMA_QUANTIZE")
    names = tuple(names or TYPES)
    notes, failures, times = [] if theirs else [MISSING], [], {}
    with folder(workdir) as work:
        source, log = str(work / "model.gguf"), str(work / "log")
        tell("writing the model")
        count = write_model(source, min(params, PARAMS))
        size = os.path.getsize(source)
        commands = {
            "one run": [quantreg_command(source, str(work / "one-{type}.gguf"), ",".join(names), threads)],
            "a run for each": [
                quantreg_command(source, str(work / f"each-{name}.gguf"), name, threads) for name in names
            ],
        }
        if theirs:
            commands["llama-quantize for each"] = [
                [theirs, source, str(work / f"theirs-{name}.gguf"), name, str(threads)] for name in names
            ]
        try:
            for _ in range(rounds):
                for how, each in commands.items():
                    tell(how)
                    os.sync()  # so that this run does not pay for writes of the previous one
                    done = [spawn(command, threads, log) for command in each]
                    times.setdefault(how, []).append(done)
        except CommandError as error:
            failures.append(str(error))
        failures += _differences(work, names, bool(theirs)) if not failures else []
    rows = [_row(how, runs, times["one run"]) for how, runs in times.items()]
    return {"params": count, "source_bytes": size, "rows": rows, "notes": notes, "failures": failures}


def _differences(work: Path, names, theirs):
    """Yield a sentence for each file whose bytes are not those of the others."""
    for name in names:
        digests = {_sha256(work / f"{who}-{name}.gguf") for who in ("one", "each", *(("theirs",) if theirs else ()))}
        if len(digests) > 1:
            yield f"several types in one run, {name}: bytes differ"


def _row(how, runs, first):
    seconds = [sum(one["seconds"] for one in done) for done in runs]
    of_one = [sum(one["seconds"] for one in done) for done in first]
    return {
        "files": how,
        "s": median(seconds),
        "x": median(mine / theirs for mine, theirs in zip(seconds, of_one, strict=True)),
        "CPU s": median(sum(one["user"] + one["system"] for one in done) for done in runs),
        "peak MiB": round(max(one["peak_mib"] for done in runs for one in done)),
    }
