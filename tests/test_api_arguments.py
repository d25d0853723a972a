"""Arguments as people pass them: one name where a list is expected, NumPy's dtypes, what is not an executor."""

import enum
import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pytest

import quantreg
from quantreg import PlanError, PlanOptions, ShapeError
from quantreg.jobs import tuning_options
from quantreg.jobs.tuning_options import TuningKeywords, TuningOptions
from quantreg.recipes.options import PlanKeywords

NAMES = {"CalibrationLike": Any, "DeviceLike": Any}  # what only type checkers import
NAME = "blk.0.attn_q.weight"
X = np.random.default_rng(3).standard_normal((8, 256)).astype(np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quantreg.write("m.gguf", {"general.architecture": "llama", "general.name": "a"}, {NAME: X})


@pytest.mark.parametrize("one", ["Q4_0", 2, quantreg.types["Q4_0"], "Q4_K_M"])
def test_evaluate_takes_a_single_type(one):
    assert repr(quantreg.evaluate("m.gguf", one)) == repr(quantreg.evaluate("m.gguf", [one]))


def test_one_key_can_be_removed_by_its_name():
    quantreg.edit_metadata("m.gguf", "out.gguf", remove="general.name")
    with quantreg.open("out.gguf") as model:
        assert list(model.metadata) == ["general.architecture"]


class LlamaFileType(enum.IntEnum):
    MOSTLY_Q8_0 = 7


@pytest.mark.parametrize("file_type", [quantreg.types["Q8_0"], LlamaFileType.MOSTLY_Q8_0, np.int64(7), "q8_0"])
def test_a_file_type_in_any_form(file_type):
    quantreg.quantize_file("m.gguf", "out.gguf", file_type)
    with quantreg.open("out.gguf") as model:
        assert model[NAME].type_name == "Q8_0"


@pytest.mark.parametrize("dtype", ["float32", "F32", np.float32, np.dtype("float32")])
def test_export_takes_dtypes_in_any_form(dtype):
    quantreg.export("m.gguf", "out.safetensors", dtype=dtype)
    with quantreg.open("out.safetensors") as model:
        assert model[NAME].type_name == "F32"


@pytest.mark.parametrize("executor", [4, "processes", ThreadPoolExecutor])
def test_what_is_not_an_executor_is_refused_before_work(executor):
    with pytest.raises(TypeError, match="executor is .*: pass a concurrent.futures.Executor"):  # noqa: RUF043
        quantreg.quantize(X, "Q4_0", executor=executor)
    with pytest.raises(TypeError, match="executor is .*: pass a concurrent.futures.Executor"):  # noqa: RUF043
        quantreg.quantize_file("m.gguf", "out.gguf", "Q4_0", executor=executor)


@pytest.mark.parametrize("given", ["attn_q=Q8_0", ["attn_q"], [("a", "b", "c")]])
@pytest.mark.parametrize("option", ["tensor_types", "override_kv"])
def test_options_that_are_not_pairs_show_how_to_give_them(option, given):
    with pytest.raises(PlanError, match=f"{option} is .*: pass a mapping, as in {{"):
        quantreg.plan("m.gguf", "Q4_0", **{option: given})


def test_an_imatrix_that_is_not_numbers_is_refused_with_its_entry():
    for values in ("abc", ["a"] * 256, np.ones(256) * 1j):
        with pytest.raises(ShapeError, match=f"{NAME} has dtype"):
            quantreg.quantize_file("m.gguf", "out.gguf", "Q4_K", {NAME: values})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantreg.quantize_file("m.gguf", "o.gguf", "Q8_0", tensor_type={NAME: "F16"}), "tensor_types"),
        (lambda: quantreg.plan("m.gguf", "Q8_0", tensor_type={NAME: "F16"}), "tensor_types"),
        (lambda: quantreg.quantize_events("m.gguf", "o.gguf", "Q8_0", allow_requant=True), "allow_requantize"),
        (lambda: quantreg.split("m.gguf", "o", max_tensors=1), "split_max_tensors"),
        (lambda: quantreg.merge("m.gguf", "o.gguf", forced=True), "force"),
        (lambda: quantreg.edit_metadata("m.gguf", "o.gguf", removed="general.name"), "remove"),
        (lambda: quantreg.export("m.gguf", "o.safetensors", dtypes="F16"), "dtype"),
        (lambda: quantreg.evaluate("m.gguf", "Q8_0", samples=5), "sample"),
        (lambda: quantreg.write("o.gguf", {}, {}, forces=True), "force"),
    ],
)
def test_an_argument_that_does_not_exist_names_the_nearest(call, message):
    with pytest.raises(TypeError, match=rf"has no argument '\w+': did you mean {message}\?$"):
        call()


def test_an_argument_that_is_like_no_other_lists_those_there_are():
    with pytest.raises(TypeError, match=r"^quantize_file\(\) has no argument 'zzz': its arguments are src, dst"):
        quantreg.quantize_file("m.gguf", "o.gguf", "Q8_0", zzz=1)
    assert "tensor_types" in inspect.signature(quantreg.quantize_file).parameters


@pytest.mark.parametrize(("options", "keywords"), [(PlanOptions, PlanKeywords), (TuningOptions, TuningKeywords)])
def test_type_checkers_know_the_options_that_there_are(options, keywords):
    assert get_type_hints(keywords, vars(tuning_options), NAMES) == get_type_hints(options, vars(tuning_options), NAMES)
    assert not keywords.__required_keys__


def test_functions_show_their_options_with_their_defaults():
    for function in (quantreg.quantize_file, quantreg.quantize_events, quantreg.plan):
        shown = inspect.signature(function).parameters
        for field in (*fields(PlanOptions), *fields(TuningOptions)):
            assert shown[field.name].default == field.default
            assert shown[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in shown.values())
