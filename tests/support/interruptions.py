"""Stops every way of writing a file at every stage: python tests/support/interruptions.py [--seconds 60]

A stage is a call by which a run changes the disk: open, write, truncate, sync, rename or remove. Afterwards the output
must be the old file or the complete new one, and the next run must succeed. Otherwise the exit code is 1.
"""

import argparse
import errno
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import gguf_files as gf
import numpy as np
from structured import Key, Tensor, build

import quantreg
from quantreg.jobs import slabs
from quantreg.testing.guards import end_with

SHAPES = {"token_embd.weight": (256, 3), "blk.0.attn_q.weight": (256, 5), "blk.0.ffn_up.weight": (64, 9), "norm": (64,)}
SHARDS = [f"out-{i:05d}-of-00002.gguf" for i in (1, 2)]


class Operation:
    """A way to write files: ``run(kind, again)`` writes ``paths`` in the current folder from in.gguf.

    The kinds "a" and "b" give different bytes. ``again`` is True for the run after one that was stopped.
    """

    def __init__(self, run, *paths, resumable=False):
        self.run, self.paths, self.resumable = run, [Path(path) for path in paths], resumable


def quantize(**options):
    def run(kind, again):
        more = options | ({"resume": True} if again and options.get("resumable") else {})
        quantreg.quantize_file("in.gguf", "out.gguf", {"a": "Q4_K_M", "b": "Q8_0"}[kind], force=True, threads=2, **more)

    return run


def plan(kind, again):
    quantreg.write_plan(quantreg.plan("in.gguf", {"a": "Q4_K_M", "b": "Q8_0"}[kind]), "out.json", force=True)


def write(kind, again):
    with quantreg.open("in.gguf") as model:
        quantreg.write("out.gguf", {"general.name": kind}, model, force=True)


def metadata(kind, again):
    quantreg.edit_metadata("in.gguf", "out.gguf", set={"k": kind}, force=True)


def merge(kind, again):
    quantreg.merge(f"{kind}-00001-of-00002.gguf", "out.gguf", force=True)


def split(kind, again):
    quantreg.split(f"{kind}.gguf", "out", split_max_tensors=2, force=True)


def export(kind, again):
    quantreg.export("in.gguf", "out.safetensors", dtype={"a": "f16", "b": "f32"}[kind], force=True)


OPERATIONS = {
    "quantize": Operation(quantize(), "out.gguf"),
    "quantize to shards": Operation(quantize(split_max_tensors=2), *SHARDS),
    "quantize, resumable": Operation(quantize(resumable=True), "out.gguf", resumable=True),
    "quantize to shards, resumable": Operation(quantize(resumable=True, split_max_tensors=2), *SHARDS, resumable=True),
    "metadata": Operation(metadata, "out.gguf"),
    "merge": Operation(merge, "out.gguf"),
    "split": Operation(split, *SHARDS),
    "export": Operation(export, "out.safetensors"),
    "plan": Operation(plan, "out.json"),
    "write": Operation(write, "out.gguf"),
}


def make_inputs():
    """Write in.gguf, and a.gguf and b.gguf with other metadata, to the current folder, each also as shards."""
    tensors = [
        Tensor(name, dims, 1, (np.arange(np.prod(dims)) % 97 / 97 - 0.5).astype("<f2").tobytes())
        for name, dims in SHAPES.items()
    ]
    for name in ("in", "a", "b"):
        raw = build([Key("general.architecture", gf.STRING, "llama"), Key("k", gf.STRING, name)], tensors).raw
        Path(f"{name}.gguf").write_bytes(raw)
        quantreg.split(f"{name}.gguf", name, split_max_tensors=2)


# ---- stages ----

CHANGING = ("open", "write", "ftruncate", "truncate", "fchmod", "fsync", "replace", "unlink")


def at_stage(number, act):
    """Replace call ``number`` of those that change the disk by ``act(name, function, arguments)``; count them all."""
    count, lock = [0], threading.Lock()

    def watched(name, function):
        def call(*args, **keywords):
            if name == "open" and not args[1] & os.O_CREAT:
                return function(*args, **keywords)
            with lock:
                count[0] += 1
                hit = count[0] == number
            return act(name, function, args) if hit else function(*args, **keywords)

        return call

    for name in CHANGING:
        setattr(os, name, watched(name, getattr(os, name)))
    os.pwrite = watched("write", os.pwrite)
    return count


def die(name, function, args):
    os.kill(os.getpid(), signal.SIGKILL)


def die_half_way(name, function, args):
    """Die after half of a write, or after any other call."""
    function(args[0], args[1][: len(args[1]) // 2], *args[2:]) if name == "write" else function(*args)
    die(name, function, args)


def fail(name, function, args):
    if name in ("unlink", "truncate", "fchmod"):  # these need no space
        return function(*args)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(name, function, args):
    signal.raise_signal(signal.SIGINT)
    return function(*args)


STAGED = {"kill": die, "kill within a write": die_half_way, "full disk": fail, "Ctrl-C": interrupt}


def stop_at_stage(how, operation, number):
    """Run the operation and exit from this process. Exit code 0 means that it finished before that stage."""
    count = at_stage(number, STAGED[how])
    status = 0
    try:
        operation.run("b", False)
    except (quantreg.OutputError, KeyboardInterrupt):
        status = 1
    os._exit(0 if status == 0 and count[0] < number else 1)


def shrink_at_read(operation, number):
    """Run the operation, but cut the source at read ``number`` of its data, and exit from this process."""
    count, read = [0], os.preadv

    def preadv(fd, *args):
        count[0] += 1
        if count[0] == number:
            for path in Path().glob("in*.gguf"):
                os.truncate(path, path.stat().st_size // 2)
        return read(fd, *args)

    os.preadv = preadv
    status = 1
    try:
        operation.run("b", False)
        status = 0
    except quantreg.GGUFFormatError:
        pass
    os._exit(status if count[0] >= number else 0)


# ---- judging ----


class Judge:
    """Knows the outputs of an operation, and checks a folder after a run was stopped."""

    def __init__(self, operation):
        self.operation = operation
        self.bytes = {}
        for kind in "ab":
            operation.run(kind, False)
            self.bytes[kind] = self.read()
        self.inputs = {path.name: path.read_bytes() for path in Path().iterdir() if path not in operation.paths}

    def read(self):
        return [path.read_bytes() if path.exists() else None for path in self.operation.paths]

    def reset(self, old):
        """Restore the folder to its state before a run: the inputs, and the old output if ``old``."""
        for path in Path().iterdir():
            if path.name not in self.inputs:
                path.unlink()
        for name, data in self.inputs.items():
            if Path(name).stat().st_size != len(data):
                Path(name).write_bytes(data)
        for path, data in zip(self.operation.paths, self.bytes["a"], strict=True):
            if old:
                path.write_bytes(data)

    def check(self, old, killed):
        found, new = self.read(), self.bytes["b"]
        before = self.bytes["a"] if old else [None] * len(new)
        whole = found in (before, new)
        # Shards cannot all appear at once. Without the first they are not a model, and every reader refuses them.
        under_way = found[0] is None and all(f in (b, n, None) for f, b, n in zip(found, before, new, strict=True))
        assert whole or (len(found) > 1 and under_way), "neither the old file nor the new one"
        names = {path.name for path in Path().iterdir()} - set(self.inputs) - {p.name for p in self.operation.paths}
        temporary = {name for name in names if name.startswith(".quantreg-") and name.endswith(".tmp")}
        partial = {name for name in names if name.endswith((".partial", ".partial.journal"))}
        assert names == temporary | partial, f"left behind: {names}"
        assert killed or not temporary, f"left behind: {temporary}"
        assert self.operation.resumable or not partial, f"left behind: {partial}"

    def check_next_run(self):
        self.operation.run("b", True)
        assert self.read() == self.bytes["b"], "the next run wrote another file"
        left = [path.name for path in Path().iterdir() if ".partial" in path.name or path.name.startswith(".quantreg-")]
        assert not left, f"left behind: {left}"


def fork():
    """Fork a process that ends with this one."""
    sys.stdout.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        end_with(parent)
    return child


def forked(function, *args):
    """Call the function in a new process; return its exit code, negative for a signal."""
    child = fork()
    if child == 0:
        try:
            function(*args)
            os._exit(0)
        except BaseException as error:
            traceback.print_exception(error)
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stages(how, operation, judge, tell):
    """Stop at the first stage, the second and so on until the run finishes first; with an old output, then without."""
    stopped = 0
    for old in (True, False):
        for number in range(1, 10_000):
            judge.reset(old)
            code = (
                forked(stop_at_stage, how, operation, number)
                if how in STAGED
                else forked(shrink_at_read, operation, number)
            )
            if code == 0:
                break
            stopped += 1
            try:
                assert code in (1, -signal.SIGKILL), f"exit code {code}"
                judge.check(old, code < 0)
                if how != "shrinking source":
                    judge.check_next_run()
            except AssertionError as error:
                tell(f"{how}, stage {number}, {'an' if old else 'no'} old file: {error}")
    return stopped


def at_random(operation, judge, tell, seconds, rng):
    """Kill runs from outside at random times."""
    judge.reset(False)
    begun = time.monotonic()
    forked(operation.run, "b", False)
    usual, until, stopped = time.monotonic() - begun, time.monotonic() + seconds, 0
    while time.monotonic() < until:
        old = rng.random() < 0.5
        judge.reset(old)
        child = fork()
        if child == 0:
            operation.run("b", False)
            os._exit(0)
        time.sleep(rng.random() * usual)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stopped += 1
        try:
            judge.check(old, killed=True)
            judge.check_next_run()
        except AssertionError as error:
            tell(f"killed at random, {'an' if old else 'no'} old file: {error}")
    return stopped


def two_at_once(operation, judge, tell, seconds, rng):
    """Start two runs with one output: it must hold everything that one of them wrote."""
    until, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        judge.reset(rng.random() < 0.5)
        children, start = [], time.monotonic() + 0.002
        for kind in "ab":
            delay = rng.random() * 0.01
            child = fork()
            if child == 0:
                time.sleep(max(0, start + delay - time.monotonic()))
                try:
                    operation.run(kind, False)
                except quantreg.OutputError:
                    os._exit(1)
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        rounds += 1
        found = judge.read()
        ended = [judge.bytes[kind] for kind, code in zip("ab", codes, strict=True) if code == 0]
        if found not in ended or not set(codes) <= {0, 1}:
            held = "the other file" if found in judge.bytes.values() else "neither file"
            tell(f"two at once: exit codes {codes}, {held}")
    return rounds


KINDS = [*STAGED, "shrinking source", "kill at random", "two at once"]


def run(kind, name, seconds, seed, tell):
    """Stop one operation in one way, in a new folder; return how many runs were stopped."""
    operation = OPERATIONS[name]
    home = os.getcwd()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        os.chdir(folder)
        try:
            make_inputs()
            judge = Judge(operation)
            if kind == "kill at random":
                return at_random(operation, judge, tell, seconds, random.Random(seed))
            if kind == "two at once":
                return two_at_once(operation, judge, tell, seconds, random.Random(seed))
            if kind == "shrinking source" and name in ("plan", "write", "merge", "split"):
                return 0  # in.gguf is not their source, or they do not read its data with preadv
            return stages(kind, operation, judge, tell)
        finally:
            os.chdir(home)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(KINDS), metavar="KIND,...", help=f"any of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=60, help="for all kinds without an end together (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="a different seed gives different times")
    given = parser.parse_args()
    slabs.SLAB_WEIGHTS = 512
    kinds = given.only.split(",")
    if wrong := sorted(set(kinds) - set(KINDS)):
        parser.error(f"--only {wrong[0]}: the kinds are {', '.join(KINDS)}")
    findings, endless = Counter(), [kind for kind in kinds if kind not in STAGED and kind != "shrinking source"]
    for kind in kinds:
        total = 0
        for name in OPERATIONS:

            def tell(text, kind=kind, name=name):
                findings[kind] += 1
                print(f"{name}: {text}", flush=True)

            total += run(kind, name, given.seconds / max(1, len(endless)) / len(OPERATIONS), given.seed, tell)
        print(f"{kind}: {total} runs, {findings[kind]} went wrong", flush=True)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
