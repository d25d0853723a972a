"""Products with quantized weights: every type, exact to float32 rounding, whatever the threads."""

import threading

import numpy as np
import pytest
import toy
from entries import registered
from threadpoolctl import threadpool_info

import quantreg
from quantreg import ShapeError, matmul

RNG = np.random.default_rng(13)
W = RNG.standard_normal((300, 512), np.float32) * np.float32(0.05)
EXPERTS = RNG.standard_normal((5, 40, 256), np.float32)
DECODABLE = [t for t in quantreg.types if t not in ("I8", "I16", "I32", "I64")]


def tensor_of(x, name):
    qtype = quantreg.types[name]
    importance = np.ones(x.shape[-1], np.float32) if qtype.requires_importance else None
    return quantreg.QuantizedTensor.from_array("w", x, name, importance)


def exact(x, tensor):
    return x.astype(np.float64) @ tensor.dequantize().astype(np.float64).T


def bound(x, tensor):
    """What rounding in a float32 sum can change, for each element of the product."""
    return (
        32
        * np.finfo(np.float32).eps
        * (np.abs(x).astype(np.float64) @ np.abs(tensor.dequantize()).astype(np.float64).T)
    )


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("name", [t for t in DECODABLE if quantreg.types[t].codec.can_encode])
def test_the_product_is_that_of_the_decoded_weights(name, batch):
    tensor = tensor_of(W, name)
    x = RNG.standard_normal((batch, 512), np.float32)
    found = matmul(x, tensor)
    assert found.shape == (batch, 300)
    assert found.dtype == np.float32
    assert (np.abs(found - exact(x, tensor)) <= bound(x, tensor)).all()


def test_a_numpy_plugin_is_multiplied_like_a_built_in_type():
    with registered(toy.Plugin(toy.make())):
        tensor = tensor_of(W, "TOY3")
        x = RNG.standard_normal((4, 512), np.float32)
        assert (np.abs(matmul(x, tensor) - exact(x, tensor)) <= bound(x, tensor)).all()


@pytest.mark.parametrize("shape", [(512,), (2, 512), (2, 3, 512), (0, 512)])
def test_activations_of_any_number_of_axes(shape):
    tensor = tensor_of(W, "Q8_0")
    x = RNG.standard_normal(shape, np.float32)
    found = matmul(x, tensor)
    assert found.shape == (*shape[:-1], 300)
    np.testing.assert_allclose(found, exact(x, tensor), rtol=1e-4, atol=1e-4)


def test_the_ways_to_write_a_product_agree(tmp_path):
    tensor = tensor_of(W, "Q4_K")
    x = RNG.standard_normal((6, 512), np.float32)
    found = matmul(x, tensor)
    np.testing.assert_array_equal(x @ tensor.T, found)
    np.testing.assert_array_equal(tensor.matmul(x), found)
    np.testing.assert_array_equal(matmul(x, (quantreg.quantize(W, "Q4_K"), "Q4_K")), found)
    np.testing.assert_array_equal(np.asarray(tensor.T), tensor.dequantize().T)
    quantreg.write(tmp_path / "w.gguf", {}, {"w": tensor})
    with quantreg.open(tmp_path / "w.gguf") as model:
        np.testing.assert_array_equal(x @ model["w"].T, found)


@pytest.mark.parametrize("batch", [1, 7, 8, 40])
def test_the_result_does_not_depend_on_threads(batch, monkeypatch):
    monkeypatch.setattr("quantreg.products.multiply.TILE_OF_MANY", 64 * 512)
    monkeypatch.setattr("quantreg.products.multiply.TILE_OF_FEW", 32 * 512)
    tensor = tensor_of(W, "Q5_K")
    x = RNG.standard_normal((batch, 512), np.float32)
    found = [matmul(x, tensor, threads=threads) for threads in (1, 2, 5)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_other_dtypes_are_converted_and_the_layout_does_not_matter(dtype):
    tensor = tensor_of(W, "Q8_0")
    x = (RNG.standard_normal((1024, 5)) * 4).astype(dtype)[::2].T
    np.testing.assert_array_equal(matmul(x, tensor), matmul(np.ascontiguousarray(x, np.float32), tensor))


def test_the_result_goes_where_out_says():
    tensor = tensor_of(W, "Q8_0")
    x = RNG.standard_normal((3, 512), np.float32)
    out = np.empty((3, 300), np.float32)
    assert matmul(x, tensor, out) is out
    np.testing.assert_array_equal(out, matmul(x, tensor))
    with pytest.raises(ShapeError, match=r"out is float32 of shape \(2, 300\): expected .* \(3, 300\)"):
        matmul(x, tensor, out[:2])


@pytest.mark.parametrize("name", ["Q4_K", "NVFP4"])
@pytest.mark.parametrize("per_row", [None, 2])
def test_each_row_is_multiplied_by_its_expert(name, per_row):
    tensor = tensor_of(EXPERTS * np.float32([1, 10, 1, 1e-3, 1]).reshape(5, 1, 1), name)
    x = RNG.standard_normal((3, 4, 256), np.float32)
    ids = RNG.integers(0, 4, (3, 4) if per_row is None else (3, 4, per_row))  # no row has the last expert
    found = matmul(x, tensor, expert=ids)
    decoded = tensor.dequantize().astype(np.float64)
    wide = x[..., None, :] if per_row else x
    np.testing.assert_allclose(found, np.einsum("...c,...rc->...r", wide, decoded[ids]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "expert", "message"),
    [
        (np.ones((2, 255)), np.zeros(2, int), r"x has shape \(2, 255\), but w has rows of 256 weights"),
        (np.ones((2, 256)), None, "w is a stack of 5 matrices: say with expert="),
        (np.ones((2, 256)), np.zeros(3, int), r"expert is int64 of shape \(3,\): expected integers of shape \(2,\)"),
        (np.ones((2, 256)), np.zeros(2), "expert is float64"),
        (np.ones((2, 256)), np.array([0, 5]), "expert holds 0 to 5, but w has 5 matrices"),
        (np.ones((2, 256), complex), np.zeros(2, int), "x has dtype complex128: convert it to float32"),
        (np.float32(1), None, r"x has shape \(\)"),
    ],
)
def test_what_does_not_fit_is_told(x, expert, message):
    with pytest.raises(ShapeError, match=message):
        matmul(x, tensor_of(EXPERTS, "Q8_0"), expert=expert)


def test_only_a_matrix_is_transposed():
    with pytest.raises(ShapeError, match="only a matrix can be transposed"):
        _ = tensor_of(EXPERTS, "Q8_0").T


def test_the_threads_of_blas_are_as_before_even_after_products_that_overlap():
    def limits():
        return [entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"]

    before = limits()
    tensor, x = tensor_of(W, "Q4_K"), RNG.standard_normal((16, 512), np.float32)
    crowd = [threading.Thread(target=lambda: [matmul(x, tensor, threads=2) for _ in range(20)]) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert limits() == before


@pytest.mark.parametrize("processors", [1, 2, 3, 8])
def test_every_row_belongs_to_one_tile_and_each_processor_gets_as_many(processors, monkeypatch):
    monkeypatch.setattr("quantreg.products.multiply.cpu_count", lambda: processors)
    x = RNG.standard_normal((9, 512), np.float32)
    tensor = tensor_of(np.tile(W, (20, 1)), "Q8_0")
    tiles = []

    def run(work, items, threads):
        tiles.extend((first, min(last, 6000)) for *_, first, last in items)
        for item in items:
            work(item)

    monkeypatch.setattr("quantreg.products.crew.run", run)
    found = matmul(x, tensor)
    assert (np.abs(found - exact(x, tensor)) <= bound(x, tensor)).all()
    assert [first for first, _ in tiles] == [0, *(last for _, last in tiles[:-1])]
    assert len(tiles) == processors
