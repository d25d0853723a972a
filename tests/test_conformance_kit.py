"""The conformance kit: a correct codec passes every check, and each broken codec fails its check."""

import ctypes
import os
import pickle
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
from broken_codecs import ALSO, BROKEN, SPREADS, codec, fitted_levels, one_bit, tiny_noise
from entries import registered
from hypothesis import given
from hypothesis import strategies as st

import quantreg
from quantreg import UnknownTypeError
from quantreg.registry import registry
from quantreg.testing import CHECKS, ConformanceError, check_codec, deserved_error
from quantreg.testing import importances as any_importances
from quantreg.testing import rows as any_rows
from quantreg.testing.runner import run_check
from quantreg.testing.samples import Subject


def test_a_correct_codec_passes_every_check_that_applies(tmp_path):
    for make in (toy.make, toy.make_with_header):
        report = check_codec(make(), "full", golden=tmp_path / f"{make.__name__}.npz", update_golden=True)
        applies = {o.check for o in report.outcomes if o.status == "passed"}
        assert set(CHECKS) - applies == {"cpu_levels", "dot_rows", "gil", "fit", "twin"}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_broken_codec_fails_its_check(broken):
    name = broken.partition(",")[0]
    outcome = run_check(name, Subject(BROKEN[broken]()))
    assert outcome.status == "failed", outcome
    assert outcome.message


@pytest.mark.parametrize("broken", sorted(set(BROKEN) - SPREADS))
def test_each_broken_codec_passes_the_unrelated_checks(broken):
    failed = {outcome.check for outcome in check_codec(BROKEN[broken](), raises=False).failures}
    assert failed <= {broken.partition(",")[0], *ALSO.get(broken, ())}


def test_there_is_a_broken_codec_for_every_check():
    assert {name.partition(",")[0] for name in BROKEN} | {"golden", "twin"} == set(CHECKS)


def test_the_golden_file_pins_the_bytes(tmp_path):
    path = tmp_path / "golden" / "TOY3.npz"
    with pytest.raises(ConformanceError, match=r"golden: .*does not exist: run once with --update-golden"):
        check_codec(toy.make(), golden=path)
    check_codec(toy.make(), golden=path, update_golden=True)
    check_codec(toy.make(), golden=path)
    worse = toy.make(encode=lambda rows, importance: toy.encode(rows, None))
    with pytest.raises(ConformanceError, match=r"golden: \d+ bytes differ from .*TOY3.npz \(weighted\)"):
        check_codec(worse, golden=path)


def test_the_error_lists_every_failure_and_can_be_pickled():
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
    with pytest.raises(ConformanceError, match="zero_rows: it passes now: remove it from expected_failures"):
        check_codec(toy.make(), expected_failures={"zero_rows": "it has no zero"})


def test_a_type_a_name_an_id_or_a_codec_can_be_checked():
    qtype = toy.make()
    for given_as in (qtype, qtype.codec, toy.make().codec):
        assert check_codec(given_as).ok
    with registered(toy.Plugin(qtype)):
        assert check_codec("toy3").name == check_codec(4203).name == "TOY3"


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="expected 'quick' or 'full'"):
        check_codec(toy.make(), "fast")
    with pytest.raises(ValueError, match="names checks that do not exist: speed"):
        check_codec(toy.make(), expected_failures={"speed": ""})
    with pytest.raises(UnknownTypeError, match="TOY9"):
        check_codec("TOY9")


@pytest.mark.parametrize(("bits", "error"), [(4.5, 0.154), (2.625, 0.564), (8.5, 0.0096), (1.125, 0.95), (16, 2**-8)])
def test_deserved_error_depends_on_the_bits_per_weight(bits, error):
    assert deserved_error(bits) == pytest.approx(error, rel=0.01)


@pytest.mark.filterwarnings("ignore::quantreg.errors.LossWarning")  # the strategies draw denormals, too
@given(x=any_rows(32), data=st.data())
def test_the_toy_codec_encodes_the_rows_of_the_strategies(x, data):
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
    assert f"1 failed, {len(CHECKS) - 6} passed, 5 skipped" in without
    assert f"{len(CHECKS) - 5} passed, 5 skipped" in run("TestToy", "--update-golden")
    assert f"{len(CHECKS) - 5} passed, 5 skipped" in run("TestToy")
    broken = run("TestBroken")
    assert "a row of zeros comes back as 1" in broken
    assert "3 xfailed" in broken


def test_a_model_is_quantized_to_types_whose_name_begins_with_i_too(monkeypatch):
    done, quantize_file = [], quantreg.quantize_file

    def watched(source, target, file_type, *more, **options):
        done.append(file_type.type)
        return quantize_file(source, target, file_type, *more, **options)

    monkeypatch.setattr(quantreg, "quantize_file", watched)
    monkeypatch.setenv("QUANTREG_DEBUG", "1")  # runs the checks in this process, where the patch is
    for name in ("IQ4_NL", "IQ2_S", "I8"):
        assert run_check("gguf_file", Subject(name)).status == "passed"
    assert done == ["IQ4_NL", "IQ2_S"]  # weights are not rounded to whole numbers


@pytest.mark.parametrize(
    ("broken", "words", "others"),
    [
        (
            "far past the row",
            "encoding 1 rows of 1 blocks .* at the front: SIGSEGV: it reads or wri",
            0,
        ),
        ("a crash in decode", "decoding 1 rows of 1 blocks .* memory forbidden at the front: SIGSEGV: it reads or", 8),
        ("the end of the process", "it ended the process with exit code 7: raise an error instead", 20),
    ],
)
def test_a_codec_that_ends_the_process_fails_checks_with_names_and_the_process_goes_on(broken, words, others):
    report = check_codec(BROKEN[f"guard_pages, {broken}"](), raises=False)
    first = report.outcomes[0]
    assert (first.check, first.status) == ("guard_pages", "failed")
    assert re.search(words, first.message)
    assert len(report.failures) > others
    assert len(report.outcomes) == len(CHECKS)
    alone = run_check("zero_rows", Subject(BROKEN[f"guard_pages, {broken}"]()))  # as with pytest -k zero_rows
    assert alone.status in ("failed", "passed")


def test_a_compiled_codec_that_crashes_on_some_rows_only_fails_the_checks_that_have_such_rows():
    def heavy(encode, x, out, importance=None, first_row=0):
        if x.size and np.abs(x).max() > 1e5 and np.isfinite(x).all():
            ctypes.string_at(0)
        encode(x, out, importance, first_row)

    qtype = codec(encode_rows=heavy)
    qtype.codec.level = "base"  # it claims to be compiled
    failed = {o.check: o.message for o in check_codec(qtype, raises=False).failures}
    assert failed["huge_rows"].startswith("SIGSEGV: it reads or writes outside its buffers: check every index")
    assert "guard_pages" not in failed
    assert "zero_rows" not in failed


def test_every_message_of_the_broken_codecs_says_what_to_do():
    silent = []
    for broken, make in BROKEN.items():
        outcome = run_check(broken.partition(",")[0], Subject(make()))
        if not re.search(r"[:;] [a-z]|, so |, but ", outcome.message):
            silent.append((broken, outcome.message))
    assert silent == []


def test_a_type_that_fits_parameters_passes_every_check_that_applies():
    report = check_codec(fitted_levels(), "full", raises=False)
    assert [(o.check, o.message) for o in report.failures] == []
    applies = {o.check for o in report.outcomes if o.status == "passed"}
    scoring = {name for name, check in CHECKS.items() if check.needs == "scorer"}
    assert set(CHECKS) - applies == {"cpu_levels", "dot_rows", "gil", "golden", "twin", *scoring}


def test_a_hook_of_another_plugin_does_not_change_what_the_kit_says_of_a_type():
    class Plugin:
        @quantreg.hookimpl
        def score_importance(self, qtype, tensor, weights, columns):
            return None if columns is None else np.sqrt(columns) * np.abs(weights)

    with registered(Plugin()):
        assert check_codec(toy.make()).ok
        assert registry.ask_scorers


def test_a_codec_that_damages_memory_and_then_waits_is_stopped_soon(monkeypatch):
    monkeypatch.setattr("quantreg.testing.runner._SECONDS_IF_UNSOUND", 1)
    unsound = Subject(BROKEN["guard_pages, far past the row"]())
    assert run_check("guard_pages", unsound).status == "failed"
    monkeypatch.setitem(CHECKS, "zero_rows", replace(CHECKS["zero_rows"], run=lambda s: time.sleep(30)))
    outcome = run_check("zero_rows", unsound)
    assert outcome.message == "still running after 1 s: look for a loop that does not end"
