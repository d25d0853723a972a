"""Checks of importance, pickling, golden bytes and GGUF files."""

import os
import pickle
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import quantreg
from quantreg.dispatch import quantize
from quantreg.errors import CodecError, NonFiniteError
from quantreg.ggml import INTEGER_TYPES
from quantreg.parameters import Sample
from quantreg.testing.guards import run_guarded
from quantreg.testing.report import NotApplicable, expect
from quantreg.testing.samples import bits_of
from quantreg.testing.values import deserved_error, relative_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.testing.samples import Subject

__all__ = [
    "fit",
    "gguf_file",
    "golden",
    "importance_helps",
    "importance_nan",
    "importance_none",
    "importance_ones",
    "importance_weights",
    "importance_zeros",
    "pickling",
]


def importance_none(s: "Subject") -> None:
    """The type encodes without importance or says that it needs some. A type without a scorer ignores importance."""
    x = s.rows()
    if s.qtype.requires_importance:
        try:
            quantize(x, s.qtype, threads=1, parameters=s.parameters)
        except CodecError as refused:
            expect("importance" in str(refused), f"the refusal does not name importance: {refused}")
            return
        raise AssertionError("requires_importance is set, but quantize() works without importance: report this")
    plain = s.encode(x)
    if not s.codec.has_scorer:
        given = s.encode(x, s.columns(x.shape[1]))
        words = "the type has no scorer, but importance changes its bytes: add a scorer, or ignore importance"
        expect((plain == given).all(), words)


def importance_ones(s: "Subject") -> None:
    """With importance of ones, as columns or as weights, the error is at most what the bits per weight deserve."""
    x = s.rows(rows=16, blocks=4)
    limit = deserved_error(s.qtype.bits_per_weight)
    for importance in (np.ones(x.shape[1], np.float32), np.ones_like(x)):
        lost = relative_error(x, s.decode(s.encode(x, importance)))
        words = f"with {importance.ndim}-D importance of ones the error is {lost:.2%}, more than {limit:.2%}"
        expect(lost <= limit, f"{words}: ones must do as well as no importance")


def importance_zeros(s: "Subject") -> None:
    """Importance of zero, everywhere or in some columns, still gives finite values."""
    x = s.rows()
    zero = np.zeros(x.shape[1], np.float32)
    some = s.columns(x.shape[1])
    some[::2] = 0
    block = s.columns(x.shape[1])
    block[: s.qtype.block_size] = 0
    for words, importance in (("everywhere", zero), ("in some columns", some), ("in a block", block)):
        for given in (importance, np.ascontiguousarray(np.broadcast_to(importance, x.shape))):
            back = s.decode(s.encode(x, given))
            how = "where the weights of a sum are all 0, use equal ones"
            expect(np.isfinite(back).all(), f"importance of zero {words} gives NaN or infinity: {how}")


def importance_nan(s: "Subject") -> None:
    """`quantize` refuses NaN, infinite and negative importance, and the codec itself survives it."""
    x = s.rows()
    cases = []
    for value in (np.nan, np.inf, -1.0):
        columns = s.columns(x.shape[1])
        columns[3] = value
        try:
            quantize(x, s.qtype, columns, threads=1, parameters=s.parameters)
        except NonFiniteError:
            pass
        else:
            raise AssertionError(f"quantize() accepts importance of {value}")
        for given in (columns, np.ascontiguousarray(np.broadcast_to(columns, x.shape))):
            words = f"encoding with importance of {value}, {given.ndim}-D"
            cases.append((words, partial(_encode_or_refuse, s, x, given)))
    run_guarded(cases)


def _encode_or_refuse(s: "Subject", x: "NDArray[np.float32]", importance: "NDArray[np.float32]") -> None:
    try:
        s.encode(x, importance)
    except ValueError as refused:
        expect(hasattr(refused, "row"), f"the codec refuses it without naming a row: {refused}")


def importance_helps(s: "Subject") -> None:
    """Importance changes the bytes, and makes the weighted error smaller, or at most 2% larger."""
    x = s.rows("normal", rows=16, blocks=4)
    columns = s.columns(x.shape[1])
    columns[::3] *= 100
    plain = s.encode(x, s.given(x.shape[1]))
    errors = [float((columns * (s.decode(data) - x) ** 2).sum()) for data in (s.encode(x, columns), plain)]
    words = f"importance makes the weighted error {errors[0]:.4g}, but without importance it is {errors[1]:.4g}"
    expect(errors[0] <= errors[1] * 1.02, f"{words}: minimize the sum of importance * (decoded - x)^2")
    expect(
        (s.encode(x, columns) != plain).any(),
        "importance changes no byte, though the codec says that it reads it: use it, or take no importance "
        "(`encode(rows)` in NumPy, NULL for score_rows in Cython)",
    )


def importance_weights(s: "Subject") -> None:
    """Column statistics give the same bytes as the error weights that score_rows computes from them."""
    for kind in ("normal", "heavy", "sparse"):
        x = s.rows(kind)
        columns = s.columns(x.shape[1])
        weights = np.full_like(x, np.nan)
        s.codec.score_rows(x, columns, weights)
        good = np.isfinite(weights).all() and (weights >= 0).all()
        expect(good, "score_rows gives negative or non-finite weights: the error of a weight counts 0 times or more")
        want, got = s.encode(x, columns), s.encode(x, weights)
        words = f"{(want != got).sum()} bytes differ between column statistics and the error weights from score_rows"
        expect((want == got).all(), f"{words}: call the same function in the encoder and in score_rows")


def fit(s: "Subject") -> None:
    """The parameters that are fitted to the same rows are the same, however the rows are cut into slabs."""
    spec = s.qtype.parameters
    if spec is None:
        raise NotApplicable("the type fits no parameters")
    x = s.rows(rows=24)
    columns, context = s.columns(x.shape[1]), quantreg.TensorContext("blk.0.attn_q.weight", x.shape, expert=0)
    for importance in (None, columns):
        found = []
        for step in (24, 24, 7, 1):
            samples = [Sample(x[i : i + step], importance, context) for i in range(0, 24, step)]
            found.append(spec.checked(s.qtype.name, spec.fit(iter(samples), context), context))
        for name, values in found[0].items():
            same = (values == found[1][name]).all()
            expect(same, f"fit gives another {name} for the same rows again: keep no state, and seed random numbers")
            for other in found[2:]:
                same = (values == other[name]).all()
                expect(same, f"fit gives another {name} if rows come in other slabs: join the rows before you sum them")


def pickling(s: "Subject") -> None:
    """The type can be pickled, and unpickling returns the registered type."""
    with s.registered():
        again = pickle.loads(pickle.dumps(s.qtype))
        words = f"unpickling returns {again!r} instead of the registered type: do not override __reduce__"
        expect(again is s.qtype, words)


def golden(s: "Subject") -> None:
    """The bytes and floats equal those of the golden file that the author committed."""
    if s.golden is None:
        raise NotApplicable("there is no golden file")
    path = Path(s.golden)
    if s.update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = _golden_data(s)
        np.savez_compressed(path, **arrays)
    if not path.exists():
        raise AssertionError(f"{path} does not exist: run once with --update-golden and commit it")
    with np.load(path) as file:
        kept = dict(file)
    cases = {"plain": None, "weighted": kept.get("columns")} if s.codec.can_encode else {}
    for name, importance in cases.items():
        if name in kept:
            found = s.encode(kept["x"], importance)
            words = f"{(found != kept[name]).sum()} bytes differ from {path} ({name})"
            expect((found == kept[name]).all(), f"{words}: undo the change, or write a new file with --update-golden")
    back = s.decode(kept["data"])
    same = (bits_of(back) == bits_of(kept["decoded"])).all()
    expect(same, f"decoded floats differ from {path}: files of this type would change, so give a new format a new id")


def _golden_data(s: "Subject") -> "dict[str, NDArray[Any]]":
    """Return what a golden file holds.

    "x" and "columns" are the input, "plain" and "weighted" the bytes without and with the columns as importance.
    "decoded" holds the floats of the bytes in "data".
    """
    x = np.concatenate([s.rows("normal", rows=2, blocks=2), s.rows("heavy", rows=1, blocks=2)])
    found: dict[str, NDArray[Any]] = {"x": x, "columns": s.columns(x.shape[1])}
    data = s.some_bytes(rows=3, blocks=2)
    if s.codec.can_encode:
        if not s.qtype.requires_importance:
            found["plain"] = s.encode(x)
        if s.codec.has_scorer:
            found["weighted"] = s.encode(x, found["columns"])
        data = np.concatenate([s.encode(x), data])
    return {**found, "data": data, "decoded": s.decode(data)}


def gguf_file(s: "Subject") -> None:
    """A tensor of the type survives a GGUF file, and `quantize_file` quantizes a model to the type."""
    data = s.some_bytes(rows=6)
    floats = bits_of(s.decode(data))
    with s.registered(), tempfile.TemporaryDirectory(prefix="quantreg-check-") as folder:
        path = os.path.join(folder, "tensor.gguf")
        tensor = quantreg.QuantizedTensor("blk.0.attn_q.weight", floats.shape, s.qtype.type_id, data, s.parameters)
        quantreg.write(path, {"general.architecture": "llama"}, {tensor.name: tensor})
        with quantreg.open(path) as model:
            read = model[tensor.name]
            expect(read.type_name == s.qtype.name, f"the tensor in the file has type {read.type_name}")
            expect((np.asarray(read.data) == data).all(), "the bytes of the tensor change in the file: report this")
            same = (bits_of(read.dequantize()) == floats).all()
            expect(same, "the tensor in the file decodes to different floats: decode any number of rows alike")
        if s.codec.can_encode and s.qtype.name not in INTEGER_TYPES:
            _quantize_model(s, folder)


def _quantize_model(s: "Subject", folder: str) -> None:
    x = s.rows(rows=6)
    name = "blk.0.attn_q.weight"
    source, target = os.path.join(folder, "in.gguf"), os.path.join(folder, "out.gguf")
    quantreg.write(source, {"general.architecture": "llama", "llama.block_count": 1}, {name: x})
    columns = s.given(x.shape[1])
    imatrix = None if columns is None else quantreg.ImportanceMatrix({name: columns})
    recipe = quantreg.FileType("CHECK", None, s.qtype.name, "this type for every tensor")  # no mixture, as for IQ2_S
    quantreg.quantize_file(source, target, recipe, imatrix, threads=1, on_missing_importance="plain")
    with quantreg.open(target) as model:
        expect(model[name].type_name == s.qtype.name, f"quantize_file writes the tensor as {model[name].type_name}")
        written = model[name]
        codec = s.qtype.codec_for(written.parameters, quantreg.TensorContext(name, x.shape, expert=0))
        expected = np.empty(written.data.shape, np.uint8)
        codec.encode_rows(x, expected, columns)
        expect(
            (np.asarray(written.data) == expected).all(), "the bytes from quantize_file differ from those of the codec"
        )
