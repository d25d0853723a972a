"""The kit itself: a sound codec passes every check, and one broken on purpose fails the check that is meant for it."""

import ctypes
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

import quantreg
from quantreg import PythonCodec, UnknownTypeError
from quantreg.registry import registry
from quantreg.testing import CHECKS, ConformanceError, check_codec, deserved_error
from quantreg.testing import importances as any_importances
from quantreg.testing import rows as any_rows
from quantreg.testing.runner import run_check
from quantreg.testing.samples import Subject


def codec(encode_rows=None, decode_rows=None, score_rows=None, **attributes):
    """A PythonCodec with methods replaced; each gets the sound method as its first argument."""

    class Broken(PythonCodec):
        pass

    for name, function in (("encode_rows", encode_rows), ("decode_rows", decode_rows), ("score_rows", score_rows)):
        if function is not None:
            inner = getattr(PythonCodec, name)
            setattr(Broken, name, lambda self, *args, f=function, g=inner: f(lambda *a: g(self, *a), *args))
    for name, value in attributes.items():
        setattr(Broken, name, value)
    return toy.make(codec=Broken)


def encoder(change):
    """A type whose encode function is change(rows, importance, sound bytes)."""
    return toy.make(encode=lambda rows, importance: change(rows, importance, toy.encode(rows, importance)))


def read_past_the_end(encode, x, out, importance=None, first_row=0):
    encode(x, out, importance, first_row)
    ctypes.string_at(x.ctypes.data + x.nbytes, 4)


def write_before_the_start(decode, data, out):
    decode(data, out)
    ctypes.memset(out.ctypes.data - 1, 0, 1)


def write_near_the_end(decode, data, out):
    decode(data, out)
    ctypes.memset(out.ctypes.data + out.nbytes, 0, 1)


def no_checks(encode, x, out, importance=None, first_row=0):
    with np.errstate(all="ignore"):
        data = toy.encode(x, None).reshape(-1)
    count = min(len(data), out.size)
    out.reshape(-1)[:count] = data[:count]


def no_scale_check(encode, x, out, importance=None, first_row=0):
    if not x.size or not np.isfinite(x).all():
        encode(x, out, importance, first_row)
        return
    with np.errstate(all="ignore"):
        out[...] = toy.encode(x, importance if importance is None else np.broadcast_to(importance, x.shape))


def counts_calls():
    calls = iter(range(1 << 30))

    def encode(rows, importance):
        data = toy.encode(rows, importance)
        data[:, -1] ^= next(calls) & 1
        return data

    return toy.make(encode=encode)


def forgets_a_byte(encode, x, out, importance=None, first_row=0):
    kept = out[:, -1].copy()
    encode(x, out, importance, first_row)
    out[:, -1] = kept


def shared_scratch():
    scratch = np.zeros((4096, 4096), np.float32)

    def encode(rows, importance):
        mine = scratch[: rows.shape[0], : rows.shape[1]]
        mine[...] = rows
        time.sleep(0.002)
        return toy.encode(mine.copy(), importance)

    return toy.make(encode=encode)


def differs_by_level():
    def make(qtype, encode, decode, score):
        level = os.environ.get("QUANTREG_CPU", "base")

        def other(rows, importance):
            return encode(rows * np.float32(1.01 if level == "base" else 1), importance)

        made = PythonCodec(qtype, other, decode, score)
        made.level = level
        return made

    return toy.make(codec=make)


def holds_the_gil():
    libc = ctypes.PyDLL(None)  # PyDLL keeps the lock

    def at_once(inner, given, out, *more):
        done = np.empty_like(out)
        inner(given, done, *more)
        libc.memmove(*(ctypes.c_void_p(a.ctypes.data) for a in (out, done)), ctypes.c_size_t(out.nbytes))

    made = codec(encode_rows=at_once, decode_rows=at_once)
    made.codec.level = "base"
    return made


def typed_in():
    class Wrong(quantreg.QuantType):
        bits_per_weight = 3.0

    qtype = Wrong("TOY3", type_id=4203, block_size=32, type_size=14, codec=lambda: codec)
    codec = PythonCodec(qtype, toy.encode, toy.decode)
    return qtype


def unpicklable():
    class Local(quantreg.QuantType):
        def __reduce__(self):
            raise pickle.PicklingError("no")

    return Local("TOY3", type_id=4203, block_size=32, type_size=14, codec=lambda: toy.make().codec)


def changes_rows(encode, x, out, importance=None, first_row=0):
    encode(x, out, importance, first_row)
    if x.flags.writeable:
        x *= 2


def nan_importance(rows, importance, data):
    if importance is not None and np.isnan(importance).any():
        raise FloatingPointError("NaN")
    return data


def refuses_a_code(blocks):
    if (blocks[:, 2:] == 255).any():
        raise KeyError("no such code")
    return toy.decode(blocks)


def wrong_row(encode, x, out, importance=None, first_row=0):
    try:
        encode(x, out, importance, first_row)
    except ValueError as error:
        if hasattr(error, "row"):
            error.row = 0
        raise


def loses_the_mean(rows, importance):
    x = rows.reshape(len(rows), -1, toy.BLOCK)
    return toy.encode((x - x.mean(axis=2, keepdims=True)).reshape(rows.shape), importance)


def one_bit(rows, importance):
    return toy.encode(np.sign(rows) * np.float32(0.005), importance)


def tiny_noise(blocks):
    return toy.decode(blocks) + np.float32(1e-3)


def fails_on_denormals(rows, importance, data):
    if ((rows != 0) & (np.abs(rows) < 1e-38)).any():
        raise ZeroDivisionError("division by zero")
    return data


def by_the_slab(rows, importance, data):
    return toy.encode(np.round(rows / np.abs(rows).max(), 1) * np.abs(rows).max(), importance)


def nothing_from_importance(rows, importance, data):
    return data if importance is None else toy.encode(rows * np.float32(0), None)


def nan_at_zero_weights(encode, x, out, importance=None, first_row=0):
    encode(x, out, importance, first_row)
    if importance is not None and (importance == 0).any():
        out[:, :2] = 255


def against_importance(rows, importance):
    return toy.encode(rows, None if importance is None else 1 / (importance + np.float32(1e-3)))


def other_scores(score, x, columns, out):
    out[...] = columns[::-1]


def crashes_on_heavy_rows(rows, importance, data):
    if (np.abs(rows) > 60 * np.abs(rows).mean()).any():
        raise OverflowError("no level")
    return data


BROKEN = {
    "size_algebra": typed_in,
    "size_algebra, fallback": lambda: toy.make(fallback="Q9_9"),
    "zero_rows": lambda: toy.make(decode=tiny_noise),
    "constant_rows": lambda: toy.make(encode=loses_the_mean),
    "denormal_rows": lambda: encoder(fails_on_denormals),
    "huge_rows": lambda: codec(encode_rows=no_scale_check),
    "nonfinite_rows": lambda: codec(encode_rows=wrong_row),
    "any_rows": lambda: encoder(crashes_on_heavy_rows),
    "error": lambda: toy.make(encode=one_bit),
    "determinism": counts_calls,
    "determinism, bytes not written": lambda: codec(encode_rows=forgets_a_byte),
    "slabs": lambda: encoder(by_the_slab),
    "threads": shared_scratch,
    "cpu_levels": differs_by_level,
    "guard_pages": lambda: codec(encode_rows=read_past_the_end),
    "guard_pages, before": lambda: codec(decode_rows=write_before_the_start),
    "guard_pages, same page": lambda: codec(decode_rows=write_near_the_end),
    "input_arrays": lambda: codec(encode_rows=changes_rows),
    "wrong_sizes": lambda: codec(encode_rows=no_checks),
    "arbitrary_bytes": lambda: toy.make(decode=refuses_a_code),
    "importance_none": lambda: codec(has_scorer=False),
    "importance_ones": lambda: encoder(nothing_from_importance),
    "importance_zeros": lambda: codec(encode_rows=nan_at_zero_weights),
    "importance_nan": lambda: encoder(nan_importance),
    "importance_helps": lambda: toy.make(encode=against_importance),
    "importance_weights": lambda: codec(score_rows=other_scores),
    "gil": holds_the_gil,
    "pickling": unpicklable,
    "gguf_file": lambda: toy.make(type_id=12),
}


# What else each of them must or may break, because one follows from the other.
ALSO = {
    "zero_rows": {"denormal_rows"},
    "denormal_rows": {"any_rows"},
    "huge_rows": {"any_rows"},
    "nonfinite_rows": {"huge_rows"},
    "any_rows": {"importance_weights"},  # which encodes heavy rows, too
    "error": {"constant_rows", "denormal_rows", "importance_ones"},
    "determinism": {"huge_rows", "slabs", "threads", "input_arrays", "importance_weights", "gguf_file", "golden"},
    "determinism, bytes not written": {"threads", "input_arrays", "gguf_file"},
    "slabs": {"size_algebra", "huge_rows", "threads"},  # it divides by the largest of all rows, which may be 0
    "guard_pages, before": {"arbitrary_bytes"},  # which decodes between guard pages
    "guard_pages, same page": {"arbitrary_bytes"},
    "wrong_sizes": {"huge_rows", "nonfinite_rows"},  # it looks at nothing
    "importance_ones": {"importance_helps"},
    "gguf_file": {"pickling"},  # it cannot be registered
}
SPREADS = {"input_arrays", "arbitrary_bytes"}  # rows that change, bytes that raise: what does not encode them


def test_a_sound_codec_passes_every_check_that_applies(tmp_path):
    for make in (toy.make, toy.make_with_header):
        report = check_codec(make(), "full", golden=tmp_path / f"{make.__name__}.npz", update_golden=True)
        applies = {o.check for o in report.outcomes if o.status == "passed"}
        assert set(CHECKS) - applies == {"cpu_levels", "gil"}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_codec_broken_on_purpose_fails_its_check(broken):
    name = broken.partition(",")[0]
    outcome = run_check(name, Subject(BROKEN[broken]()))
    assert outcome.status == "failed", outcome
    assert outcome.message


@pytest.mark.parametrize("broken", sorted(set(BROKEN) - SPREADS))
def test_a_codec_broken_in_one_way_fails_no_check_that_has_nothing_to_do_with_it(broken):
    failed = {outcome.check for outcome in check_codec(BROKEN[broken](), raises=False).failures}
    assert failed <= {broken.partition(",")[0], *ALSO.get(broken, ())}


def test_every_check_is_broken_in_a_test():
    assert {name.partition(",")[0] for name in BROKEN} | {"golden"} == set(CHECKS)


def test_the_golden_file_pins_the_bytes(tmp_path):
    path = tmp_path / "golden" / "TOY3.npz"
    with pytest.raises(ConformanceError, match=r"golden: .*does not exist: run once with --update-golden"):
        check_codec(toy.make(), golden=path)
    check_codec(toy.make(), golden=path, update_golden=True)
    check_codec(toy.make(), golden=path)
    worse = toy.make(encode=lambda rows, importance: toy.encode(rows, None))
    with pytest.raises(ConformanceError, match=r"golden: \d+ bytes differ from .*TOY3.npz \(weighted\)"):
        check_codec(worse, golden=path)


def test_the_error_tells_every_failure_and_pickles():
    with pytest.raises(ConformanceError, match="TOY3 fails") as failed:
        check_codec(toy.make(encode=one_bit))
    report = pickle.loads(pickle.dumps(failed.value)).report
    assert "error" in [o.check for o in report.failures]
    assert not report.ok
    assert report.to_dict()["ok"] is False
    assert "failed  error: the error is" in str(report)


def test_an_expected_failure_must_fail():
    report = check_codec(toy.make(decode=tiny_noise), expected_failures={"zero_rows": "it has no zero"}, raises=False)
    found = {o.check: o for o in report.outcomes}
    assert found["zero_rows"].status == "expected"
    assert "it has no zero" in found["zero_rows"].message
    with pytest.raises(ConformanceError, match="zero_rows: it passes now: take it out of expected_failures"):
        check_codec(toy.make(), expected_failures={"zero_rows": "it has no zero"})


def test_what_is_checked_may_be_a_type_a_name_an_id_or_a_codec():
    qtype = toy.make()
    for given_as in (qtype, qtype.codec, toy.make().codec):
        assert check_codec(given_as).ok
    plugin = toy.Plugin(qtype)
    registry.register_plugin(plugin)
    try:
        assert check_codec("toy3").name == check_codec(4203).name == "TOY3"
    finally:
        registry.unregister_plugin(plugin)


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="expected 'quick' or 'full'"):
        check_codec(toy.make(), "fast")
    with pytest.raises(ValueError, match="names no such check: speed"):
        check_codec(toy.make(), expected_failures={"speed": ""})
    with pytest.raises(UnknownTypeError, match="TOY9"):
        check_codec("TOY9")


@pytest.mark.parametrize(("bits", "error"), [(4.5, 0.154), (2.625, 0.564), (8.5, 0.0096), (1.125, 0.95), (16, 2**-8)])
def test_the_error_that_bits_per_weight_deserve(bits, error):
    assert deserved_error(bits) == pytest.approx(error, rel=0.01)


@given(x=any_rows(32), data=st.data())
def test_the_strategies_give_rows_that_the_toy_codec_takes(x, data):
    columns = data.draw(any_importances(x.shape[1]))
    assert x.dtype == columns.dtype == np.float32
    assert np.abs(x).max() <= 1e4
    assert x.shape[1] % 32 == 0
    back = quantreg.dequantize(quantreg.quantize(x, toy.make(), columns, threads=1), toy.make(), threads=1)
    assert np.isfinite(back).all()


SUITE = """
from pathlib import Path
import toy
from quantreg.testing import CodecConformance

class TestToy(CodecConformance):
    qtype = toy.make()
    level = "quick"
    golden = Path(__file__).parent / "toy.npz"

class TestBroken(CodecConformance):
    qtype = toy.make(decode=lambda blocks: toy.decode(blocks) + 1)
    expected_failures = {name: "broken on purpose" for name in ("constant_rows", "denormal_rows", "error")}
"""


def test_the_pytest_class_runs_each_check_and_writes_the_golden_file(tmp_path):
    (tmp_path / "test_toy.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["quantreg.testing.pytest_plugin"]\n')

    def run(*args):
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", *args, "test_toy.py"]
        support = str(Path(__file__).parent / "support")
        env = {**os.environ, "PYTHONPATH": support}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.stdout

    without = run("TestToy")
    assert "does not exist: run once with --update-golden and commit it" in without
    assert f"1 failed, {len(CHECKS) - 3} passed, 2 skipped" in without
    assert f"{len(CHECKS) - 2} passed, 2 skipped" in run("TestToy", "--update-golden")
    assert f"{len(CHECKS) - 2} passed, 2 skipped" in run("TestToy")
    broken = run("TestBroken")
    assert "a row of zeros comes back as 1" in broken
    assert "3 xfailed" in broken
