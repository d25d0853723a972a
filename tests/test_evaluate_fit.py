"""quantreg evaluate on types that fit parameters: the figures are those of the quantized file."""

import numpy as np
import pytest
import small_model
import toy
from entries import registered

import quantreg
from quantreg import ImportanceMatrix, Parameters, evaluate

NAME = "blk.0.attn_q.weight"
EXPERTS = "blk.0.ffn_up_exps.weight"


class Codec:
    """Rows of 32 weights: the nearest of 256 levels. The levels are the parameter of the tensor or the model."""

    can_encode, has_scorer, whole_rows, built = True, False, False, ("python",)

    def __init__(self, levels=None):
        self.levels = levels

    def bind(self, parameters, context):
        return Codec(None if parameters is None else parameters["levels"])

    def encode_rows(self, x, out, importance=None, first_row=0):
        out[...] = np.abs(x[..., None] - self.levels).argmin(axis=-1)

    def decode_rows(self, data, out, stream=False):
        out[...] = self.levels[data]


def fit(samples, context):
    values = np.concatenate([sample.rows.ravel() for sample in samples])
    return {"levels": np.linspace(values.min(), values.max(), 256, dtype=np.float32)}


@pytest.fixture(params=["tensor", "model"])
def fitted(request):
    """A registered type that fits its levels."""
    qtype = quantreg.QuantType(
        "LEVELS", type_id=4300, block_size=32, type_size=32, codec=Codec,
        parameters=Parameters({"levels": (256,)}, fit, scope=request.param),
    )  # fmt: skip
    with registered(toy.Plugin(qtype)):
        yield qtype


@pytest.fixture
def model(tmp_path):
    x = small_model.noise(3, (64, 512)).astype(np.float16)
    y = 5 * small_model.noise(4, (32, 512)).astype(np.float16)
    tensors = {NAME: x, "blk.0.attn_k.weight": y}
    quantreg.write(tmp_path / "m.gguf", {"general.architecture": "llama"}, tensors)
    return tmp_path / "m.gguf"


def relative_error(a, b, names):
    lost = total = 0.0
    with quantreg.open(a) as source, quantreg.open(b) as quantized:
        for name in names:
            x = source[name].dequantize().astype(np.float64)
            lost += np.square(x - quantized[name].dequantize()).sum()
            total += np.square(x).sum()
    return np.sqrt(lost / total)


def test_a_type_is_fitted_as_in_the_quantized_file(model, fitted, tmp_path):
    (total,) = evaluate(model, ["LEVELS"], sample=10**9).totals
    result = quantreg.quantize_file(model, tmp_path / "out.gguf", "LEVELS")
    names = (NAME, "blk.0.attn_k.weight")
    assert total.error == pytest.approx(relative_error(model, tmp_path / "out.gguf", names))
    assert total.bits_per_weight == pytest.approx(result.plan.bits_per_weight)
    assert total.bits_per_weight > 8  # the levels count


def test_parameters_are_fitted_to_all_rows_of_a_tensor_even_if_few_are_measured(model, fitted):
    few = evaluate(model, ["LEVELS"], sample=2000)
    whole = evaluate(model, ["LEVELS"], sample=10**9)
    assert few.totals[0].weights < whole.totals[0].weights / 10
    assert few.totals[0].error == pytest.approx(whole.totals[0].error, rel=0.2)
    assert few.totals[0].bits_per_weight == pytest.approx(whole.totals[0].bits_per_weight, rel=0.01)


def test_a_fit_that_fails_is_the_reason_for_a_missing_type(model):
    def never(samples, context):
        raise ZeroDivisionError("levels")

    qtype = quantreg.QuantType(
        "LEVELS",
        type_id=4300,
        block_size=32,
        type_size=32,
        codec=Codec,
        parameters=Parameters({"levels": (256,)}, never),
    )
    found = evaluate(model, [qtype, "Q8_0"])
    assert [total.type for total in found.totals] == ["Q8_0"]
    assert "fit of LEVELS failed: ZeroDivisionError: levels" in found.failed[0].reason


@pytest.mark.parametrize("scale", [5e-4, 1.0, 6e4])
def test_nvfp4_is_measured_with_the_scale_that_its_file_stores(tmp_path, scale):
    x = (scale * small_model.noise(3, (64, 512))).astype(np.float32)
    quantreg.write(tmp_path / "m.gguf", {"general.architecture": "llama"}, {NAME: x})
    (total,) = evaluate(tmp_path / "m.gguf", ["NVFP4"]).totals
    assert total.error < 0.15
    quantreg.quantize_file(tmp_path / "m.gguf", tmp_path / "out.gguf", "NVFP4")
    assert total.error == pytest.approx(relative_error(tmp_path / "m.gguf", tmp_path / "out.gguf", [NAME]))


def test_each_expert_is_encoded_with_its_own_scale_and_importance(tmp_path):
    x = small_model.noise(5, (3, 8, 256)) * np.float32([[[1e-4]], [[1.0]], [[1e4]]])
    columns = small_model.noise(6, (3, 256)) ** 2 + np.float32(0.1)
    quantreg.write(tmp_path / "m.gguf", {"general.architecture": "llama"}, {EXPERTS: x.astype(np.float32)})
    imatrix = ImportanceMatrix({EXPERTS: columns})
    parameters = quantreg.fit(x, "NVFP4", columns)
    assert parameters["scale"].shape == (3,)
    data = quantreg.quantize(x, "NVFP4", columns, parameters=parameters)
    back = quantreg.dequantize(data, "NVFP4", parameters=parameters).astype(np.float64)
    (total,) = evaluate(tmp_path / "m.gguf", ["NVFP4"], imatrix, sample=10**9).totals
    weighted = (columns[:, None] * (back - x) ** 2).sum() / (columns[:, None] * x.astype(np.float64) ** 2).sum()
    assert total.weighted_error == pytest.approx(np.sqrt(weighted), rel=1e-4)


def test_a_quantized_source_is_decoded_with_its_parameters(tmp_path, model, fitted):
    quantreg.quantize_file(model, tmp_path / "out.gguf", "LEVELS")
    (total,) = evaluate(tmp_path / "out.gguf", ["Q8_0"]).totals
    assert total.error < 0.02
