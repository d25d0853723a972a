"""Measure models that run: `quantreg perplexity` against `llama-perplexity`, whole commands on two processors."""

import os
import sys
from statistics import median

from bench import targets
from bench.files import CommandError, folder, quantreg_command, spawn
from bench.model import write_model

__all__ = ["measure"]

CASES = ("F16", "Q4_K_M")
CONTEXT, CHUNKS, THREADS = 512, 8, 2
MISSING = "oracle missing: QUANTREG_LLAMA_PERPLEXITY=/path/to/llama-perplexity of the pinned llama.cpp, built natively"


def measure(params, workdir=None, rounds=3, names=None, tell=print):
    """Measure tokens per second and the memory that a run takes beyond the file of the model.

    Returns {"params", "rows", "notes", "failures"}.
    """
    theirs = os.environ.get("QUANTREG_LLAMA_PERPLEXITY")
    notes, failures, rows = [] if theirs else [MISSING], [], []
    with folder(workdir) as work:
        text = work / "text.txt"
        text.write_text(_text(CONTEXT * (CHUNKS + 1)))
        models = {"F16": work / "F16.gguf"}
        tell("writing the model")
        count = write_model(models["F16"], params, vocabulary=True)
        for name in CASES:
            if names and name not in names:
                continue
            models[name] = work / f"{name}.gguf"
            try:
                if not models[name].exists():
                    spawn(quantreg_command(str(models["F16"]), str(models[name]), name, 2), 2, str(work / "log"))
                tell(name)
                rows.append(_compare(models[name], name, text, theirs, rounds))
            except CommandError as error:
                failures.append(str(error))
    return {"params": count, "rows": rows, "notes": notes, "failures": failures}


def _text(n):
    """ASCII text of n bytes. The vocabulary of the model has only bytes, so each of them is a token."""
    words = "the quick brown fox jumps over the lazy dog and runs through seven quiet fields of summer wheat"
    return (f"{words}. " * (n // len(words) + 1))[:n]


def _compare(model, name, text, theirs, rounds):
    options = ["-f", str(text), "-c", str(CONTEXT), "--chunks", str(CHUNKS), "--threads", str(THREADS)]
    commands = {"ours": [sys.executable, "-P", "-m", "quantreg", "perplexity", str(model), *options]}
    if theirs:
        commands["theirs"] = [theirs, "-m", str(model), *options]
    runs = {who: [] for who in commands}
    for _ in range(rounds):
        for who, command in commands.items():
            runs[who].append(spawn(command, THREADS, str(text.with_name("log"))))
    speed = {who: CONTEXT * CHUNKS / median(run["seconds"] for run in found) for who, found in runs.items()}
    beyond = max(run["peak_mib"] for run in runs["ours"]) - model.stat().st_size / 2**20
    row = {"file": name, "tokens/s": speed["ours"]}
    if theirs:
        share = median(t["seconds"] / o["seconds"] for t, o in zip(runs["theirs"], runs["ours"], strict=True))
        goal = targets.RUN[name]
        row |= {"llama-perplexity tokens/s": speed["theirs"], "share": share, "goal": goal, "met": share >= goal}
    return row | {"MiB beyond the file": beyond, "memory met": beyond <= targets.RUN_MIB}
