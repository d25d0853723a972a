"""Types that fit parameters to a tensor: a codebook in NumPy (docs/fitted.md), and the scale of NVFP4."""

import types
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import toy
from documents import file_in
from entries import registered

import quantreg
from quantreg import CodecError, NonFiniteError, PlanError, PluginError, ShapeError
from quantreg.jobs import slabs

RNG = np.random.default_rng(7)
NAME, EXPERTS = "blk.0.attn_q.weight", "blk.1.ffn_up_exps.weight"
TENSORS = {
    NAME: RNG.standard_normal((48, 64), np.float32),
    EXPERTS: RNG.standard_normal((3, 16, 64), np.float32) * np.array([1, 30, 1e-3], np.float32).reshape(3, 1, 1),
    "output_norm.weight": np.ones(64, np.float32),
}
LLAMA = {"general.architecture": "llama", "llama.block_count": 2}


@pytest.fixture
def cb3():
    """The type of docs/fitted.md."""
    plugin = types.ModuleType("cb3")
    exec(file_in("fitted.md", "cb3.py"), plugin.__dict__)
    with registered(plugin):
        yield plugin.CB3


@pytest.fixture
def source(tmp_path):
    quantreg.write(tmp_path / "in.gguf", LLAMA, TENSORS)
    return tmp_path / "in.gguf"


@pytest.fixture
def quantized(cb3, source, tmp_path):
    quantreg.quantize_file(source, tmp_path / "cb3.gguf", "CB3", pure=True, threads=1)
    return tmp_path / "cb3.gguf"


def error(x, y):
    return float(np.sqrt(((x - y) ** 2).mean() / (x**2).mean()))


def tensors_of(path):
    with quantreg.open(path) as model:
        return {name: (tensor.type_name, tensor.data.tobytes()) for name, tensor in model.items()}


# ---- arrays ----


def test_an_array_is_fitted_encoded_and_decoded(cb3):
    x = TENSORS[NAME]
    parameters = quantreg.fit(x, "CB3")
    assert parameters["codebook"].shape == (3, 256, 8)
    data = quantreg.quantize(x, "CB3", parameters=parameters)
    assert data.shape == (48, 64 // 8 * 3)
    assert error(x, quantreg.dequantize(data, "CB3", parameters=parameters)) < 0.25


def test_without_its_parameters_such_a_type_says_where_to_get_them(cb3):
    x = TENSORS[NAME]
    with pytest.raises(CodecError, match=r"CB3 needs the parameters .* quantreg\.fit"):
        quantreg.quantize(x, "CB3")
    with pytest.raises(CodecError, match=r"CB3 needs the parameters .* quantreg\.fit"):
        quantreg.dequantize(np.zeros((2, 24), np.uint8), "CB3")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, r"found \[\], expected a mapping with \['codebook'\]"),
        ({"codebook": np.zeros((3, 256, 4))}, r"codebook has shape \(3, 256, 4\), expected \(3, 256, 8\)"),
    ],
)
def test_parameters_of_another_shape_or_name_are_refused(cb3, parameters, message):
    with pytest.raises(ShapeError, match=message):
        quantreg.quantize(TENSORS[NAME], "CB3", parameters=parameters)


def test_parameters_with_nan_are_refused(cb3):
    with pytest.raises(NonFiniteError, match="codebook holds NaN"):
        quantreg.quantize(TENSORS[NAME], "CB3", parameters={"codebook": np.full((3, 256, 8), np.nan)})


def test_parameters_for_a_type_without_any_are_refused():
    with pytest.raises(CodecError, match="Q8_0 has no parameters"):
        quantreg.quantize(TENSORS[NAME], "Q8_0", parameters={"scale": np.ones(1)})
    assert quantreg.fit(TENSORS[NAME], "Q8_0") == {}


def test_a_tensor_made_from_an_array_is_written_with_its_parameters(cb3, tmp_path):
    x = TENSORS[NAME]
    tensor = quantreg.QuantizedTensor.from_array(NAME, x, "CB3")
    quantreg.write(tmp_path / "one.gguf", {}, {NAME: tensor})
    with quantreg.open(tmp_path / "one.gguf") as model:
        assert list(model) == [NAME, "blk.0.attn_q.codebook"]
        np.testing.assert_array_equal(model[NAME].dequantize(), tensor.dequantize())
        quantreg.write(tmp_path / "copy.gguf", model.metadata, model)
        quantreg.write(tmp_path / "renamed.gguf", {}, {"blk.5.attn_k.weight": model[NAME]})
    assert tensors_of(tmp_path / "copy.gguf") == tensors_of(tmp_path / "one.gguf")
    with quantreg.open(tmp_path / "renamed.gguf") as model:
        assert list(model) == ["blk.5.attn_k.weight", "blk.5.attn_k.codebook"]
        np.testing.assert_array_equal(model["blk.5.attn_k.weight"].dequantize(), tensor.dequantize())


# ---- files ----


def test_a_file_keeps_the_parameters_and_decodes_with_them(quantized):
    with quantreg.open(quantized) as model:
        assert model["blk.0.attn_q.codebook"].shape == (3, 256, 8)
        for name in (NAME, EXPERTS):
            parameters = quantreg.fit(TENSORS[name], "CB3")
            np.testing.assert_array_equal(model[name].parameters["codebook"], parameters["codebook"])
            assert error(TENSORS[name], model[name].dequantize()) < 0.25
    assert quantreg.validate(quantized).ok


def test_the_plan_counts_the_parameters(cb3, source, quantized):
    plan = quantreg.plan(source, "CB3", pure=True)
    with quantreg.open(quantized) as model:
        assert plan.bytes == sum(tensor.nbytes for tensor in model.values())
    assert [parameter.name for parameter in plan[NAME].parameters] == ["blk.0.attn_q.codebook"]


@pytest.mark.parametrize("how", ["threads", "small slabs", "processes"])
def test_the_bytes_do_not_depend_on_threads_slabs_or_processes(quantized, source, tmp_path, monkeypatch, how):
    keywords = {"threads": 3}
    if how == "small slabs":
        monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 5 * 64)
        monkeypatch.setattr(slabs, "CHUNK_WEIGHTS", 2 * 64)
    if how == "processes":
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
            quantreg.quantize_file(source, tmp_path / "again.gguf", "CB3", pure=True, executor=pool)
    else:
        quantreg.quantize_file(source, tmp_path / "again.gguf", "CB3", pure=True, **keywords)
    assert (tmp_path / "again.gguf").read_bytes() == quantized.read_bytes()


def test_one_run_for_several_types_fits_each_its_parameters(quantized, source, tmp_path):
    names = ["CB3", "Q8_0"]
    results = quantreg.quantize_files(source, tmp_path / "{type}.gguf", names, pure=True, threads=2)
    assert (tmp_path / "CB3.gguf").read_bytes() == quantized.read_bytes()
    alone = quantreg.quantize_file(source, tmp_path / "alone.gguf", "Q8_0", pure=True)
    assert (tmp_path / "Q8_0.gguf").read_bytes() == (tmp_path / "alone.gguf").read_bytes()
    assert [result.size for result in results] == [quantized.stat().st_size, alone.size]


def test_a_run_that_was_interrupted_is_resumed_to_the_same_bytes(quantized, source, tmp_path):
    events = quantreg.quantize_events(source, tmp_path / "again.gguf", "CB3", pure=True, resumable=True, threads=1)
    for event in events:
        if isinstance(event, quantreg.events.TensorDone):
            break
    events.close()
    assert not (tmp_path / "again.gguf").exists()
    quantreg.quantize_file(source, tmp_path / "again.gguf", "CB3", pure=True, resume=True, threads=1)
    assert (tmp_path / "again.gguf").read_bytes() == quantized.read_bytes()


def test_split_merge_and_hash_take_the_parameters_along(quantized, tmp_path):
    shard = quantreg.split(quantized, tmp_path / "part", split_max_tensors=1)
    with quantreg.open(shard) as model:
        assert error(TENSORS[NAME], model[NAME].dequantize()) < 0.25
    assert quantreg.validate(shard).ok
    whole = quantreg.merge(shard, tmp_path / "whole.gguf")
    assert quantreg.hash_tensors(whole) == quantreg.hash_tensors(quantized)
    assert "blk.0.attn_q.codebook" in quantreg.hash_tensors(quantized)


def test_splitting_while_quantizing_keeps_a_tensor_with_its_parameters(cb3, source, quantized, tmp_path):
    result = quantreg.quantize_file(source, tmp_path / "s.gguf", "CB3", pure=True, split_max_tensors=1)
    assert len(result.paths) == 3
    assert tensors_of(result) == tensors_of(quantized)


def test_another_type_drops_the_parameters_and_decodes_with_them_before(quantized, tmp_path):
    quantreg.quantize_file(quantized, tmp_path / "f32.gguf", "F32", allow_requantize=True)
    with quantreg.open(tmp_path / "f32.gguf") as back, quantreg.open(quantized) as model:
        assert sorted(back) == sorted(TENSORS)
        np.testing.assert_array_equal(back[EXPERTS].dequantize(), model[EXPERTS].dequantize())
    quantreg.export(quantized, tmp_path / "out.safetensors", dtype="f32")
    with quantreg.open(tmp_path / "out.safetensors") as back:
        assert sorted(back) == sorted(TENSORS)


def test_a_copy_takes_the_parameters_along(quantized, tmp_path):
    quantreg.quantize_file(quantized, tmp_path / "copy.gguf", "COPY")
    quantreg.edit_metadata(quantized, tmp_path / "named.gguf", set={"general.name": "a"})
    for name in ("copy.gguf", "named.gguf"):
        assert tensors_of(tmp_path / name) == tensors_of(quantized)


def test_compare_decodes_with_the_parameters_and_does_not_list_them(quantized, source):
    found = quantreg.compare(source, quantized)
    assert set(found) == {NAME, EXPERTS}
    assert found[NAME].rmse < 0.25


def test_a_file_that_lacks_the_parameters_says_which(quantized, tmp_path):
    with quantreg.open(quantized) as model:
        data = {NAME: quantreg.QuantizedTensor(NAME, model[NAME].shape, "CB3", model[NAME].data)}
    quantreg.write(tmp_path / "lost.gguf", LLAMA, data)
    with quantreg.open(tmp_path / "lost.gguf") as model, pytest.raises(CodecError, match=r"blk\.0\.attn_q\.codebook"):
        model[NAME].dequantize()
    problems = quantreg.validate(tmp_path / "lost.gguf").problems
    assert any("blk.0.attn_q.codebook" in problem for problem in problems)


def test_a_tensor_whose_parameter_name_is_taken_is_refused(cb3, tmp_path):
    taken = TENSORS | {"blk.0.attn_q.codebook": np.ones(3, np.float32)}
    quantreg.write(tmp_path / "in.gguf", LLAMA, taken)
    with pytest.raises(PlanError, match=r"blk\.0\.attn_q\.codebook, but the model has a tensor of that name"):
        quantreg.plan(tmp_path / "in.gguf", "CB3", pure=True)


def test_a_model_of_llama_quantize_file_types_is_not_changed(source, tmp_path):
    quantreg.quantize_file(source, tmp_path / "q.gguf", "Q8_0", tensor_types={"attn_q": "NVFP4"})
    with quantreg.open(tmp_path / "q.gguf") as model:
        assert sorted(model) == sorted(TENSORS)


def test_nan_is_refused_with_its_row_before_fit_sees_it(cb3, tmp_path):
    x = TENSORS[NAME].copy()
    x[5, 9] = np.nan
    with pytest.raises(NonFiniteError, match="row 5 holds NaN or infinity at column 9"):
        quantreg.fit(x, "CB3")
    quantreg.write(tmp_path / "in.gguf", LLAMA, {NAME: x})
    with pytest.raises(NonFiniteError, match=r"attn_q\.weight: row 5 holds NaN"):
        quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "CB3", pure=True)


# ---- what a plugin gets, and what goes wrong in it ----


def make_type(fit, encode=None, decode=None, **keywords):
    """A type of one byte per weight with parameters as the test wants them."""
    encode = encode or (lambda rows, *, parameters: np.clip(rows * 20 + 128, 0, 255).astype(np.uint8))
    decode = decode or (lambda blocks, *, parameters: (blocks.astype(np.float32) - 128) / 20)
    shapes = keywords.pop("shapes", {"p": (1,)})
    qtype = quantreg.QuantType(
        "FIT8", type_id=1308, block_size=1, type_size=1, codec=lambda: quantreg.PythonCodec(qtype, encode, decode),
        parameters=quantreg.Parameters(shapes, fit, **keywords),
    )  # fmt: skip
    return qtype


def test_fit_gets_every_row_once_with_its_importance_and_its_context(source, tmp_path, monkeypatch):
    seen = {}

    def fit(samples, context):
        found = list(samples)  # a plugin may keep them
        seen[context.name] = (
            np.concatenate([sample.rows for sample in found]), [sample.importance for sample in found],
            [sample.context.expert for sample in found], context,
        )  # fmt: skip
        return {"p": np.ones(1)}

    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 8 * 64)
    columns = {EXPERTS: RNG.random((3, 64), np.float32)}
    with registered(toy.Plugin(make_type(fit))):
        quantreg.quantize_file(
            source, tmp_path / "out.gguf", "FIT8", quantreg.ImportanceMatrix(columns), pure=True,
            on_missing_importance="plain",
        )  # fmt: skip
    assert set(seen) == {NAME, EXPERTS}
    rows, importance, experts, context = seen[EXPERTS]
    np.testing.assert_array_equal(rows, TENSORS[EXPERTS].reshape(-1, 64))
    assert experts == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(importance[2], columns[EXPERTS][1])
    assert (context.role, context.layer, context.shape) == ("ffn_up", 1, (3, 16, 64))
    assert context.metadata["general.architecture"] == "llama"
    assert seen[NAME][1] == [None] * len(seen[NAME][1])


def test_a_plan_file_keeps_the_parameters_that_an_overridden_architecture_asks_for(tmp_path):
    name = "blk.0.ffn_down.weight"
    quantreg.write(tmp_path / "in.gguf", {}, {name: TENSORS[NAME]})
    planned = quantreg.plan(tmp_path / "in.gguf", "NVFP4", override_kv=LLAMA)
    quantreg.write_plan(planned, tmp_path / "plan.json")
    read = quantreg.read_plan(tmp_path / "plan.json", tmp_path / "in.gguf")
    assert [parameter.name for parameter in read[name].parameters] == ["blk.0.ffn_down.scale"]
    assert read[name].parameters == planned[name].parameters


def test_fit_and_encode_know_the_tensor_by_what_it_is_in_the_output(source, tmp_path):
    seen = []

    def fit(samples, context):
        seen.extend([context, *(sample.context for sample in samples)])
        return {"p": [1]}

    def encode(rows, *, parameters, context):
        seen.append(context)
        return np.clip(rows * 20 + 128, 0, 255).astype(np.uint8)

    kv = {"general.architecture": "qwen2", "qwen2.block_count": 2}
    options = {"prune_layers": [0], "override_kv": kv}
    with registered(toy.Plugin(make_type(fit, encode))):
        quantreg.quantize_file(source, tmp_path / "o.gguf", "FIT8", threads=1, pure=True, **options)
    assert {context.name for context in seen} == {"blk.0.ffn_up_exps.weight"}
    assert {context.metadata["general.architecture"] for context in seen} == {"qwen2"}


def test_encode_and_decode_get_the_context_without_any_parameters(source, tmp_path):
    seen = set()

    def encode(rows, *, context):
        seen.add(("encode", context.name, context.expert, context.role))
        return np.zeros((len(rows), rows.shape[1]), np.uint8)

    def decode(blocks, *, context=None):
        seen.add(("decode", None if context is None else context.name))
        return np.ones(blocks.shape, np.float32)

    qtype = quantreg.QuantType(
        "CTX8", type_id=1309, block_size=1, type_size=1, codec=lambda: quantreg.PythonCodec(qtype, encode, decode)
    )
    with registered(toy.Plugin(qtype)):
        quantreg.quantize_file(source, tmp_path / "out.gguf", "CTX8", pure=True)
        with pytest.warns(quantreg.LossWarning, match="mine: CTX8 loses the weights"):
            quantreg.quantize(TENSORS[NAME], "CTX8", tensor="mine")
    assert {("encode", EXPERTS, 2, "ffn_up"), ("encode", NAME, 0, "attn_q"), ("encode", "mine", 0, "other")} <= seen


def test_whatever_decodes_a_tensor_tells_the_codec_which_tensor_it_is(source, tmp_path):
    def shift(context):
        return 1.0 if context is None else {"attn_q": 2.0, "ffn_up": 3.0 + (context.expert or 0)}.get(context.role, 1.0)

    def encode(rows, *, context):
        return np.ascontiguousarray(rows * shift(context), "<f4").view(np.uint8)

    def decode(blocks, *, context):
        return blocks.view("<f4") / np.float32(shift(context))

    qtype = quantreg.QuantType(
        "CTX32", type_id=1310, block_size=1, type_size=4, codec=lambda: quantreg.PythonCodec(qtype, encode, decode)
    )
    with registered(toy.Plugin(qtype)):
        quantreg.quantize_file(source, tmp_path / "out.gguf", "CTX32", pure=True)
        with quantreg.open(tmp_path / "out.gguf") as model:
            for name in (NAME, EXPERTS):
                for tensor in (model[name], quantreg.QuantizedTensor.from_array(name, TENSORS[name], "CTX32")):
                    np.testing.assert_allclose(tensor.dequantize(), TENSORS[name], rtol=1e-6)
                    np.testing.assert_allclose(tensor[1], TENSORS[name][1], rtol=1e-6)
        before, after = (quantreg.evaluate(path, ["Q8_0"]).totals[0] for path in (source, tmp_path / "out.gguf"))
        assert after.rmse == pytest.approx(before.rmse, rel=1e-4)


def test_parameters_of_a_model_are_fitted_once_to_all_its_tensors(source, tmp_path):
    calls = []

    def fit(samples, context):
        calls.append({sample.context.name for sample in samples})
        return {"p": np.float32([len(calls)])}

    with registered(toy.Plugin(make_type(fit, scope="model"))):
        quantreg.quantize_file(source, tmp_path / "out.gguf", "FIT8", pure=True, split_max_tensors=1)
        with quantreg.open(tmp_path / "out-00001-of-00003.gguf") as model:
            assert model[NAME].parameters == model[EXPERTS].parameters == {"p": np.float32([1])}
            assert "fit8.p" in model
        quantreg.quantize_file(
            tmp_path / "out-00001-of-00003.gguf", tmp_path / "back.gguf", "F16", allow_requantize=True
        )
        with quantreg.open(tmp_path / "back.gguf") as model:
            assert sorted(model) == sorted(TENSORS)
    assert calls == [{NAME, EXPERTS}]


@pytest.mark.parametrize(
    ("fit", "error", "message"),
    [
        (
            lambda samples, context: 1 / 0,
            CodecError,
            r"attn_q\.weight: fit of FIT8 failed: .*ZeroDivisionError",
        ),
        (lambda samples, context: None, ShapeError, r"found a NoneType, expected a mapping with \['p'\]"),
        (lambda samples, context: {"p": np.ones(2)}, ShapeError, r"p has shape \(2,\), expected \(1,\)"),
        (lambda samples, context: {"p": [np.inf]}, NonFiniteError, "p holds NaN or infinity"),
    ],
)
def test_a_fit_that_fails_is_told_with_tensor_and_type(source, tmp_path, fit, error, message):
    with registered(toy.Plugin(make_type(fit))), pytest.raises(error, match=message):
        quantreg.quantize_file(source, tmp_path / "out.gguf", "FIT8", pure=True)
    assert not (tmp_path / "out.gguf").exists()


def test_a_wrong_declaration_is_refused_when_the_plugin_is_loaded():
    with pytest.raises(PluginError, match='use "tensor" or "model"'):
        quantreg.Parameters({"p": (1,)}, lambda samples, context: {}, scope="layer")
    with pytest.raises(PluginError, match="fit of Parameters is not a function"):
        quantreg.Parameters({"p": (1,)}, None)
    with pytest.raises(PluginError, match=r"use quantreg\.Parameters"):
        quantreg.QuantType("X", type_id=1310, block_size=1, type_size=1, codec=list, parameters={"p": (1,)})
