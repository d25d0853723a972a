"""Measure codecs against the reference: encode without and with importance, and decode, at each CPU level."""

import os
from functools import partial
from statistics import median

import numpy as np

from bench import targets
from bench.oracle import MISSING, load, optional
from bench.timing import Rates, aligned, cache_bytes, interleave, pinned, ratio
from quantreg import CodecError, types
from quantreg.dispatch import SLAB_WEIGHTS
from quantreg_kernels import LEVELS, usable_levels

__all__ = ["DEFAULT", "WORKS", "measure", "others"]

COLS = 4096
DEFAULT = "default"  # the level that users get; it may depend on type and work
WORKS = ("encode plain", "encode weighted", "decode")
SKIP = {"F32", "F64", "I8", "I16", "I32", "I64"}  # there is nothing to encode
THEIR_SECONDS = 0.1  # about how long one call of the reference may take
STEP_ROWS = SLAB_WEIGHTS // COLS  # rows per call of our codecs, as in quantreg.quantize


def measure(names=None, levels=None, rounds=5, tell=print, works=WORKS):
    """Measure the given types and levels (default: all).

    Returns {"rates", "oracle", "levels", "cells", "decode_geomeans", "notes", "failures"}.
    """
    ggml = load()
    chosen = [name for name in (names or types) if name not in SKIP]
    levels = [level for level in (*LEVELS, DEFAULT) if level in (levels or (*usable_levels(), DEFAULT))]
    cells, notes, failures = [], [], []
    with pinned():
        nbytes = min(max(2 * cache_bytes(), 64 << 20), 512 << 20)
        rates = Rates(nbytes)
        bench = _Bench(ggml, nbytes // 4 // COLS, rates, rounds)
        for name in chosen:
            if ggml is None:
                notes.append(f"{name}: {MISSING}")
                continue
            try:
                if not ggml.knows(types[name].type_id):
                    notes.append(f"{name}: ggml does not have this type")
                    continue
                codecs = _codecs(name, levels)
            except (LookupError, CodecError) as error:
                notes.append(f"{name}: {error}")
                continue
            for work in works:
                tell(f"{name}: {work}")
                found, note, failure = bench.run(work, types[name], codecs)
                cells += found
                notes += [f"{name} {work}: {note}"] if note else []
                failures += failure
    means = {}
    for level in levels:
        if level == DEFAULT:
            continue
        decode = [(c["ratio"], c["share"]) for c in cells if c["work"] == "decode" and c["level"] == level]
        if decode:
            means[level] = targets.decode_geomean(decode, level)
    if ggml is not None:
        notes += _same_library(ggml)
    return {
        "rates": rates.to_dict(),
        "oracle": os.path.basename(ggml.path) if ggml else None,
        "levels": levels,
        "cells": cells,
        "decode_geomeans": means,
        "notes": notes,
        "failures": failures,
    }


def _same_library(ggml):
    """Name the types whose blocks the library defines differently, which means that it is not the pinned version."""
    ours = [qtype for qtype in types.values() if ggml.knows(qtype.type_id)]
    wrong = [q.name for q in ours if ggml.layout(q.type_id)[1:] != (q.block_size, q.type_size)]
    return [f"the reference has different blocks for {', '.join(wrong)}: is it the pinned version?"] if wrong else []


def _codecs(name, levels):
    """Return the codec of a type for each of the levels that was built."""
    before = os.environ.get("QUANTREG_CPU")
    found = {}
    try:
        for level in levels:
            os.environ["QUANTREG_CPU"] = (before or "") if level == DEFAULT else level
            try:
                found[level] = types[name]._load_codec()
            except CodecError:
                if level == levels[-1] and not found:
                    raise
    finally:
        os.environ.pop("QUANTREG_CPU")
        if before is not None:
            os.environ["QUANTREG_CPU"] = before
    return found


def _level_of(codec, work):
    """Return the CPU level at which a codec does this work."""
    part = work.split()[-1]
    if part == "weighted" and not codec.has_scorer:
        part = "plain"
    return codec.lower.get(part, codec).level


def make_weights(rows, cols=COLS, seed=0):
    """Return float32 (rows, cols) like those of models: normal, with a different scale per row and a few outliers."""
    rng = np.random.default_rng(seed)
    x = aligned(4 * rows * cols).view(np.float32).reshape(rows, cols)
    rng.standard_normal(out=x, dtype=np.float32)
    x *= rng.lognormal(-4, 0.5, (rows, 1)).astype(np.float32)
    outliers = rng.integers(0, x.size, x.size // 500)
    x.reshape(-1)[outliers] *= 6
    return x


def make_importance():
    """Return float32 (COLS,) in which some columns matter much more than others."""
    return np.random.default_rng(1).gamma(0.5, 1, COLS).astype(np.float32) + np.float32(1e-3)


class _Bench:
    def __init__(self, ggml, rows, rates, rounds):
        self.ggml, self.rates, self.rounds = ggml, rates, rounds
        self.x = make_weights(rows)
        self.importance = make_importance()
        self.floats = [aligned(self.x.nbytes).view(np.float32).reshape(self.x.shape) for _ in range(2)]
        self.blocks = [aligned(self.x.nbytes + (self.x.nbytes >> 3)) for _ in range(2)]

    def run(self, work, qtype, codecs):
        """Measure one kind of work and return (cells, note, failures)."""
        codecs = {level: codec for level, codec in codecs.items() if work == "decode" or codec.can_encode}
        importance = self.importance if work == "encode weighted" else None
        if work == "encode plain" and self.ggml.requires_importance(qtype.type_id):
            return [], None, []
        rows = self._rows(work, qtype, importance)
        if rows is None or not codecs:
            return [], "the reference exports no function for it", []
        x, data = self.x[:rows], self._packed(rows, qtype)
        if work == "decode":
            self.ggml.encoder(qtype.name, qtype.type_id, x, data[0], self._needed(qtype))()
            results = [out[:rows] for out in self.floats]
            theirs = self.ggml.decoder(qtype.type_id, data[0], results[0])
            ours = {level: partial(codec.decode_rows, data[0], results[1], True) for level, codec in codecs.items()}
        else:
            results = data
            theirs = self.ggml.encoder(qtype.name, qtype.type_id, x, results[0], importance)
            ours = {level: _by_slab(codec.encode_rows, x, results[1], importance) for level, codec in codecs.items()}
        theirs()
        wrong = [level for level, function in ours.items() if not _same(function, results)]
        default = codecs.get(DEFAULT)
        same = default and _level_of(default, work)  # the default need not be measured twice
        if same in ours:
            del ours[DEFAULT]
        samples = interleave({**ours, "reference": theirs}, self.rounds)
        cells = [self._cell(work, qtype.name, level, samples, x.size) for level in ours if level not in wrong]
        cells += [cell | {"level": DEFAULT} for cell in cells if DEFAULT not in ours and cell["level"] == same]
        return cells, None, [f"{qtype.name} {work} at {level}: bytes differ from the reference" for level in wrong]

    def _needed(self, qtype):
        return self.importance if self.ggml.requires_importance(qtype.type_id) else None

    def _packed(self, rows, qtype):
        width = qtype.row_bytes(COLS)
        return [buffer[: rows * width].reshape(rows, width) for buffer in self.blocks]

    def _rows(self, work, qtype, importance):
        """Return how many rows the reference encodes in about THEIR_SECONDS. Decoders get all, to exceed the caches."""
        if work == "decode":
            out = self.floats[0][:1]
            return len(self.x) if self.ggml.decoder(qtype.type_id, self._packed(1, qtype)[0], out) else None
        x, out = self.x[:8], self._packed(8, qtype)[0]
        function = self.ggml.encoder(qtype.name, qtype.type_id, x, out, importance)
        if function is None:
            return None
        seconds = median(interleave({"": function}, 1)[""])
        rows = round(8 * THEIR_SECONDS / seconds)
        return min(max(rows, 16), len(self.x))

    def _cell(self, work, name, level, samples, size):
        seconds, theirs = median(samples[level]), median(samples["reference"])
        times = ratio(samples["reference"], samples[level])
        limit = self.rates.fill if work == "decode" else self.rates.read
        share = size * 4 / seconds / limit
        goal_level = usable_levels()[-1] if level == DEFAULT else level
        goal, met = targets.verdict(work, name, goal_level, times, share)
        return {
            "work": work,
            "type": name,
            "level": level,
            "ratio": times,
            "weights_per_second": size / seconds,
            "reference_weights_per_second": size / theirs,
            "share": share,
            "goal": goal,
            "met": met,
        }


def _by_slab(function, source, target, *arguments):
    """Call the function in slabs as large as those of quantreg. A codec reads a slab twice, first to look for NaN."""
    slabs = [(source[i : i + STEP_ROWS], target[i : i + STEP_ROWS]) for i in range(0, len(source), STEP_ROWS)]

    def run():
        for rows, out in slabs:
            function(rows, out, *arguments)

    return run


def _same(function, results):
    expected, found = (result.view(np.uint8) for result in results)
    found.fill(0xAA)
    function()
    return np.array_equal(expected, found)


# ---- other packages ----

OTHERS = ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS")


def others(names=None, rounds=3, tell=print):
    """Compare our default codecs of a few types with libgguf and gguf-py. Returns {"cells", "notes"}."""
    libgguf, gguf_py = optional("libgguf"), optional("gguf.quants")
    notes = [
        f"{name} is not installed: pip install '.[bench]'"
        for name, module in (("libgguf", libgguf), ("gguf", gguf_py))
        if module is None
    ]
    cells = []
    x = make_weights(256)
    with pinned():
        for name in [name for name in OTHERS if name in types and name in (names or OTHERS)]:
            tell(f"{name}: other packages")
            qtype = types[name]
            codec = qtype.codec
            data = np.empty((len(x), qtype.row_bytes(COLS)), np.uint8)
            codec.encode_rows(x, data)
            back = np.empty_like(x)
            ours = {
                "encode plain": _by_slab(codec.encode_rows, x, data),
                "decode": partial(codec.decode_rows, data, back),
            }
            codec.decode_rows(data, back)
            expected = {"encode plain": data.copy(), "decode": back.copy()}
            for package, functions in (
                ("libgguf", _libgguf(libgguf, qtype, x, data)),
                ("gguf-py", _gguf_py(gguf_py, qtype, x, data)),
            ):
                for work, function in functions.items():
                    cell = _other_cell(ours[work], function, expected[work], rounds)
                    cells += [{"type": name, "work": work, "package": package, **cell}] if cell else []
    return {"cells": cells, "notes": notes}


def _libgguf(module, qtype, x, data):
    if module is None:
        return {}
    return {
        "encode plain": lambda: module.quantize_rows(x, qtype.type_id, None),
        "decode": lambda: module.dequantize_rows(data, qtype.type_id, x.shape[1]),
    }


def _gguf_py(module, qtype, x, data):
    if module is None:
        return {}
    from gguf import GGMLQuantizationType

    kind = GGMLQuantizationType(qtype.type_id)
    return {"encode plain": lambda: module.quantize(x, kind), "decode": lambda: module.dequantize(data, kind)}


def _other_cell(ours, theirs, expected, rounds):
    try:
        found = theirs()
    except NotImplementedError:
        return None
    samples = interleave({"ours": ours, "theirs": theirs}, rounds)
    same = np.ascontiguousarray(found).view(np.uint8).reshape(-1)
    same = np.array_equal(same, np.ascontiguousarray(expected).view(np.uint8).reshape(-1))
    return {"ratio": ratio(samples["theirs"], samples["ours"]), "same_bytes": bool(same)}
