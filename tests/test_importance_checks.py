"""Importance that would destroy weights: rows of zeros, wrong scores, columns that calibration did not use."""

import multiprocessing
import struct
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from entries import registered

import quantreg
from quantreg import cli, scores
from quantreg.importance import ImportanceMatrix

f32 = np.float32
LOST = "ignore:.*loses the weights:quantreg.errors.LossWarning"

# --- through the array API ---

WEIGHTS = np.random.default_rng(3).standard_normal((3, 8, 512)).astype(f32)


def loss(x, name, importance):
    back = quantreg.dequantize(quantreg.quantize(x, name, importance), name)
    return float(np.sqrt(np.square(back - x).mean() / np.square(x).mean()))


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "IQ4_XS", "IQ2_S"])
@pytest.mark.parametrize(
    "importance",
    [
        np.zeros(512),  # one row for all experts
        np.stack([np.ones(512), np.zeros(512), np.ones(512)]),  # one expert that was never called
        np.where(np.arange(8)[:, None] == 2, 0, np.ones((3, 8, 512))),  # error weights with a dead row in each expert
    ],
)
def test_rows_of_zero_importance_become_ones_with_a_warning(name, importance):
    plain = loss(WEIGHTS, name, np.ones(importance.shape))
    with pytest.warns(RuntimeWarning, match="importance is all zeros in"):
        guarded = loss(WEIGHTS, name, importance)
    assert guarded == plain


def test_the_warning_about_zeros_names_the_tensor_and_counts_the_rows():
    importance = np.ones((3, 512))
    importance[1:] = 0
    with pytest.warns(RuntimeWarning, match=r"blk\.0\.ffn_up\.weight: importance is all zeros in 2 of 3 rows"):
        quantreg.quantize(WEIGHTS, "Q4_K", importance, tensor="blk.0.ffn_up.weight")
    assert not importance[1:].any()  # the caller's array is not changed


@pytest.mark.parametrize("shape", [(512,), (3, 512), (3, 8, 512)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e300])
def test_importance_that_float32_cannot_hold_or_that_is_negative_is_refused(shape, value):
    importance = np.ones(shape)
    importance[..., 5] = value
    with pytest.raises(quantreg.NonFiniteError, match="importance holds NaN, infinity or negative values"):
        quantreg.quantize(WEIGHTS, "Q4_K", importance)


class Codec:
    """A codec that encodes as the built-in one of Q4_K does, and computes scores of its own."""

    def __init__(self, score):
        self.inner, self.score = quantreg.types["Q4_K"].codec, score

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def score_rows(self, x, columns, out):
        out[...] = self.score(x, columns)


def of_codec(score):
    return quantreg.QuantType("MINE", type_id=12, block_size=256, type_size=144, codec=lambda: Codec(score))


def of_python_codec(score):
    def encode(rows, importance):
        return np.zeros((len(rows), rows.shape[1] // 32 * 34), np.uint8)

    def decode(blocks):
        return np.zeros((len(blocks), blocks.shape[1] // 34 * 32), f32)

    mine = quantreg.QuantType(
        "MINE", type_id=1012, block_size=32, type_size=34,
        codec=lambda: quantreg.PythonCodec(mine, encode, decode, score),
    )  # fmt: skip
    return mine


@pytest.mark.filterwarnings(LOST)  # the Python codec writes zeros
@pytest.mark.parametrize("make", [of_codec, of_python_codec])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_scores_of_a_codec_that_are_wrong_are_refused_with_type_and_tensor(make, value):
    def score(rows, columns):
        scores = np.broadcast_to(columns, rows.shape).copy()
        scores[-1, 7] = value
        return scores

    with pytest.raises(quantreg.CodecError, match=r"^blk\.1\.ffn_up\.weight: .*score.* MINE|MINE scores"):
        quantreg.quantize(WEIGHTS, make(score), np.ones(512), tensor="blk.1.ffn_up.weight")
    good = make(lambda rows, columns: np.ascontiguousarray(np.broadcast_to(columns, rows.shape)))
    quantreg.quantize(WEIGHTS, good, np.ones(512))


def test_a_file_is_not_written_with_wrong_scores(tmp_path):
    mine = of_python_codec(lambda rows, columns: -np.ascontiguousarray(np.broadcast_to(columns, rows.shape)))
    plugin = type("Mine", (), {"register_types": staticmethod(lambda register: register(mine))})()
    name = "blk.0.ffn_up.weight"
    quantreg.write(tmp_path / "a.gguf", {"general.architecture": "llama"}, {name: WEIGHTS[0]})
    refusal = rf"^{name}: score of MINE returned -1.0 for row 0, column 0"
    with registered(plugin), pytest.raises(quantreg.CodecError, match=refusal):
        quantreg.quantize_file(
            tmp_path / "a.gguf", tmp_path / "b.gguf", "MINE", imatrix=ImportanceMatrix({name: np.ones(512)})
        )
    assert not (tmp_path / "b.gguf").exists()


# --- columns that calibration did not use ---

SCORED = [qtype.name for qtype in quantreg.types.values() if qtype.codec.can_encode and qtype.codec.has_scorer]


def sparse_columns(share, cols=2048):
    """Column statistics of which this share is zero."""
    rng = np.random.default_rng(5)
    return np.where(rng.random(cols) < share, 0, np.square(rng.random(cols)) + 1e-3).astype(f32)


@pytest.mark.filterwarnings("ignore:.*of the importance is zero:RuntimeWarning", LOST)
@pytest.mark.parametrize("name", SCORED)
def test_zeros_in_most_columns_blow_up_the_types_that_are_warned_about_and_no_others(name):
    x = WEIGHTS.reshape(-1, 2048)
    sparse = sparse_columns(0.9)
    assert (loss(x, name, sparse) > 1) == (name in scores.BLOWN_UP_BY_ZEROS)
    raised = np.maximum(sparse, 0.01 * sparse.mean())
    assert loss(x, name, raised) < 1.5 * loss(x, name, np.ones(2048))


@pytest.mark.filterwarnings(LOST)
def test_the_array_api_warns_about_them():
    x, sparse = WEIGHTS.reshape(-1, 2048), sparse_columns(0.9)
    with pytest.warns(RuntimeWarning, match=r"^ffn: 90% of the importance is zero, and IQ1_M decodes .* np\.maximum"):
        quantreg.quantize(x, "IQ1_M", sparse, tensor="ffn")
    quantreg.quantize(x, "IQ1_M", np.maximum(sparse, 0.01 * sparse.mean()))
    quantreg.quantize(x, "IQ2_S", sparse)


@pytest.fixture
def sparse_model(tmp_path, monkeypatch):
    """A model of one tensor, weights (8, 2048), and an imatrix that is zero in 90 % of the columns."""
    monkeypatch.chdir(tmp_path)
    name = "blk.0.ffn_up.weight"
    quantreg.write("a.gguf", {"general.architecture": "llama"}, {name: WEIGHTS.reshape(-1, 2048)})
    columns, raw = sparse_columns(0.9), name.encode()
    head = struct.pack("<ii", 1, len(raw)) + raw + struct.pack("<ii", 1, len(columns))
    Path("i.dat").write_bytes(head + columns.tobytes())
    return name


def loss_in(path, name):
    with quantreg.open("a.gguf") as a, quantreg.open(path) as b:
        x, y = a[name].dequantize(), b[name].dequantize()
    return float(np.sqrt(np.square(y - x).mean() / np.square(x).mean()))


@pytest.mark.parametrize("file_type", ["IQ1_M", "IQ1_S"])
def test_a_floor_mends_a_file_and_its_absence_is_warned_about_by_name(sparse_model, file_type):
    options = {"imatrix": "i.dat", "pure": True}
    result = quantreg.quantize_file("a.gguf", "b.gguf", file_type, **options)
    assert loss_in("b.gguf", sparse_model) > 1
    assert any(
        text.startswith(f"i.dat: entry {sparse_model}: 90% of the values are zero") and "--imatrix-floor 0.01" in text
        for text in result.warnings
    )
    result = quantreg.quantize_file("a.gguf", "c.gguf", file_type, imatrix_floor=0.01, **options)
    assert loss_in("c.gguf", sparse_model) < 0.6
    assert not any("zero" in text for text in result.warnings)


def test_the_floor_is_the_same_by_command_plan_file_own_matrix_and_executor(sparse_model):
    def same(path):
        return Path(path).read_bytes() == Path("direct.gguf").read_bytes()

    keywords = {"imatrix": "i.dat", "imatrix_floor": 0.01}
    quantreg.quantize_file("a.gguf", "direct.gguf", "IQ1_M", **keywords)
    floor = ["--imatrix", "i.dat", "--imatrix-floor", "0.01"]
    assert cli.main(["quantize", *floor, "a.gguf", "command.gguf", "IQ1_M"]) == 0
    assert same("command.gguf")
    assert cli.main(["plan", *floor, "a.gguf", "IQ1_M", "-o", "plan.json"]) == 0
    assert cli.main(["quantize", "--plan", "plan.json", "a.gguf", "planned.gguf"]) == 0
    assert same("planned.gguf")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        quantreg.quantize_file("a.gguf", "pool.gguf", "IQ1_M", executor=executor, **keywords)
    assert same("pool.gguf")


def test_the_floor_of_an_expert_follows_its_own_mean():
    matrix = ImportanceMatrix({"a": [[0, 2], [0, 200], [0, 0]]})
    assert matrix.row("a", 2, 3, floor=0.5).tolist() == [[0.5, 2], [50, 200], [1, 1]]


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan"), "0.1", True])
def test_a_floor_that_is_not_a_share_is_refused(floor):
    with pytest.raises(quantreg.PlanError, match=r"expected a number from 0 to 1, such as 0\.01"):
        quantreg.PlanOptions(imatrix_floor=floor)


def test_a_floor_without_an_imatrix_is_refused(sparse_model):
    with pytest.raises(quantreg.PlanError, match="imatrix_floor raises the values of an imatrix: give one"):
        quantreg.plan("a.gguf", "Q4_K", imatrix_floor=0.01)


def test_a_type_that_ignores_importance_does_not_warn_about_zeros():
    expected = quantreg.quantize(WEIGHTS, "Q8_0")
    np.testing.assert_array_equal(quantreg.quantize(WEIGHTS, "Q8_0", np.zeros(512)), expected)
