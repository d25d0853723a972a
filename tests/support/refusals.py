"""Three ways to pass a bad file to quantreg, and the cost of a refusal in each. Run as a program, prints a table."""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from bad_files import BAD_FILES

import quantreg
from quantreg import cli
from quantreg.testing.guards import end_with

__all__ = ["MOST_KIB", "MOST_MS", "WAYS", "costs"]

MOST_MS, MOST_KIB = 50, 5000


def reader(path, folder):
    """Open and validate the file with the library; return (error code, message)."""
    try:
        with quantreg.open(path):
            pass
    except quantreg.GGUFFormatError as error:
        return error.code, str(error)
    problems = quantreg.validate(path, threads=1).problems
    return "non-finite" if problems else None, "; ".join(problems)


def command_line(path, folder):
    """Inspect and validate the file on the command line; return (error code, message)."""
    code, text = _command("inspect", path)
    if code == 0:  # the header is sound, or holds what can only be shown
        code, text = _command("validate", path)
        if code == 0 or "NaN or infinity" in text:
            return "non-finite" if code else None, text
    assert code == 1, f"exit code {code}"
    return re.search(r"\[([a-z0-9-]+)\]$", text.strip())[1], text


def quantize_file(path, folder):
    """Quantize the file; return (error code, message). The run must leave no files behind."""
    before = sorted(os.listdir(folder))
    try:
        quantreg.quantize_file(path, folder / "out.gguf", "Q8_0", allow_requantize=True, threads=1)
    except quantreg.GGUFFormatError as error:
        found = error.code, str(error)
    except quantreg.NonFiniteError as error:
        found = "non-finite", str(error)
    else:
        return None, ""
    assert sorted(os.listdir(folder)) == before, "the run left files behind"
    return found


WAYS = {"reader": reader, "command line": command_line, "quantize_file": quantize_file}


def _command(*words):
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        code = cli.main(list(map(str, words)))
    return code, text.getvalue()


def costs(bad, folder):
    """Measure one refusal in a new process per way: {way: (milliseconds, KiB of memory beyond that at the start)}."""
    path = bad.write(folder)
    return {way: _cost(refuse, path, folder) for way, refuse in WAYS.items()}


def _cost(refuse, path, folder):
    import resource

    reader, writer = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        end_with(parent)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        refuse(path, folder)
        ms = 1000 * (time.perf_counter() - begun)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writer, json.dumps([round(ms, 1), grown]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = json.loads(pipe.read())
    os.waitpid(child, 0)
    return found


def main():
    """Print the table, or with --json one line per file. Return whether a refusal takes more than it may."""
    as_json = "--json" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for bad in (BAD_FILES[0], BAD_FILES[-1]):  # load all modules now, so that they are not measured
            for refuse in WAYS.values():
                refuse(bad.write(Path(folder)), Path(folder))
    if not as_json:
        print("| rule | code | file | " + " | ".join(f"{way}: ms, KiB" for way in WAYS) + " |")
        print("|---:|---|---|" + "---:|" * len(WAYS))
    worst = [0, 0]
    for bad in BAD_FILES:
        with tempfile.TemporaryDirectory() as folder:
            found = costs(bad, Path(folder))
        worst = [max(pair) for pair in zip(worst, *found.values(), strict=True)]
        if as_json:
            print(json.dumps({"number": bad.number, "code": bad.code, "file": bad.name} | found))
        else:
            cells = " | ".join(f"{ms}, {kib}" for ms, kib in found.values())
            print(f"| {bad.number} | {bad.code} | {bad.name} | {cells} |")
    if not as_json:
        print(f"\n{len(BAD_FILES)} files, {len(WAYS)} ways each: at most {worst[0]} ms and {worst[1]} KiB")
    return worst[0] > MOST_MS or worst[1] > MOST_KIB


if __name__ == "__main__":
    sys.exit(main())
