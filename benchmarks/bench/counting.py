"""Count instructions and estimate cycles per weight, of codecs and of the reference, on an emulated processor."""

import ctypes

import numpy as np
from emulated import Library, emulator, file_of
from row_codec import Args, with_scratch

from bench.codecs import COLS, WORKS, make_importance, make_weights
from bench.cycles import cycles
from bench.machine_code import Program
from bench.report import table
from quantreg import types

__all__ = ["Counting", "report"]

ROWS = 2  # of COLS weights each, so that all lanes have blocks


class _Job:
    """A function to run: its address and arguments, the array it writes to, and the values expected there."""

    def __init__(self, work, level, function, arguments, out, expected, keep):
        self.work, self.level, self.function, self.arguments = work, level, function, arguments
        self.out, self.expected, self.keep = out, expected, keep


class Counting:
    """Runs codecs one by one.

    A result is a dict of type, work, level ("reference" for the reference itself) and instructions per weight. For each
    processor in ``cpus`` it also has the estimated cycles per weight, under the name of the processor.
    """

    def __init__(self, ggml, cpus):
        self.ggml, self.cpus = ggml, cpus
        self.x = make_weights(ROWS)
        self.importance = make_importance()

    def measure(self, name, works, levels):
        """Measure one type and return (results, descriptions of the differences)."""
        codec = types[name]._load_codec()
        wanted = [level for level in levels if level in codec.built]
        libraries = {level: Library(file_of(name, codec.level, level)) for level in wanted}
        jobs = [job for work in works for job in self._jobs(work, types[name], codec, libraries)]
        for library in libraries.values():
            library.copy_variables(Library(file_of(name, codec.level, codec.level)))
            if library.function("prepare"):  # levels may have different tables
                emulator().call(library.function("prepare"))
        program, results, wrong = Program(), [], []
        for job in jobs:
            job.out.view(np.uint8).fill(0xAA)
            _, trace = emulator().call(job.function, *job.arguments, trace=True)
            if not np.array_equal(job.out.view(np.uint8), job.expected.view(np.uint8)):
                wrong.append(f"{name} {job.work} at {job.level}: bytes differ")
            count = program.count(trace)
            row = {"type": name, "work": job.work, "level": job.level, "instructions": count / self.x.size}
            results.append(row | {cpu: cycles(program, trace, count, cpu) / self.x.size for cpu in self.cpus})
        return results, wrong

    def _jobs(self, work, qtype, codec, libraries):
        if work == "encode plain" and qtype.requires_importance:
            return
        if work == "encode weighted" and not codec.has_scorer:
            return
        importance = self.importance if qtype.requires_importance or work == "encode weighted" else None
        data = np.zeros((ROWS, qtype.row_bytes(COLS)), np.uint8)
        codec.encode_rows(self.x, data, importance)
        source, out = self.x, data
        if work == "decode":
            source, out, importance = data, np.zeros_like(self.x), None
            codec.decode_rows(source, out)
        expected = out.copy()
        for level, library in libraries.items():
            args = _args(source, out, importance)
            function = library.function("decode_rows" if work == "decode" else "encode_rows")
            yield _Job(work, level, function, (0, ctypes.addressof(args)), out, expected, (args, source))
        theirs = self._reference(work, qtype, source, out, importance)
        if theirs is not None:
            theirs()  # one normal call first, in which it allocates what it needs
            function = ctypes.cast(theirs.func, ctypes.c_void_p).value
            arguments = [value or 0 for value in theirs.args]
            yield _Job(work, "reference", function, arguments, out, expected, (theirs, source))

    def _reference(self, work, qtype, source, out, importance):
        if self.ggml is None or not self.ggml.knows(qtype.type_id):
            return None
        if work == "decode":
            return self.ggml.decoder(qtype.type_id, source, out)
        return self.ggml.encoder(qtype.name, qtype.type_id, source, out, importance)


def _args(source, out, importance):
    weights = None if importance is None else importance.ctypes.data
    address, strides = (source.ctypes.data, out.ctypes.data), (source.shape[1], out.shape[1])
    return with_scratch(Args(ctypes.sizeof(Args), *address, ROWS, COLS, *strides, weights, importance is not None))


def report(rows, levels, cpus):
    """Return one Markdown table per kind of work.

    It has the instructions per weight, and for each processor how many times as fast as the second-last level the last
    one should be.
    """
    parts = []
    columns = ["reference", *levels]
    gains = [(cpu, levels[-2], levels[-1]) for cpu in cpus] if len(levels) > 1 else []
    for work in WORKS:
        found = {}
        for row in rows:
            if row["work"] == work:
                found.setdefault(row["type"], {})[row["level"]] = row
        if not found:
            continue
        lines = []
        for name, cells in found.items():
            line = [name] + [_short(cells[level]["instructions"]) if level in cells else "-" for level in columns]
            for cpu, slow, fast in gains:
                line.append(f"{cells[slow][cpu] / cells[fast][cpu]:.2f}" if slow in cells and fast in cells else "-")
            lines.append(line)
        head = ["type", *columns, *(f"{fast} against {slow}, {cpu}" for cpu, slow, fast in gains)]
        parts.append(f"### {work.capitalize()}: instructions per weight\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def _short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
