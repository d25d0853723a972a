"""The products of the built-in codecs with a few rows of activations, and how matmul uses them."""

import os
import threading

import numpy as np
import pytest

import quantreg
from quantreg.products import crew
from quantreg.testing.guards import run_guarded
from quantreg.testing.runner import run_check
from quantreg.testing.samples import Subject

RNG = np.random.default_rng(13)
FUSED = ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
OTHERS = ("Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K")
LEVELS = [(name, level) for name in FUSED + OTHERS for level in Subject(name).levels()]


@pytest.mark.parametrize("name", FUSED)
def test_the_types_that_people_run_have_a_product_of_their_own(name):
    assert quantreg.types[name].codec.has_dot


def test_other_codecs_have_none_and_are_multiplied_all_the_same():
    assert not quantreg.types["IQ2_S"].codec.has_dot


@pytest.mark.parametrize(("name", "level"), LEVELS)
@pytest.mark.parametrize("cols", [256, 768, 2304, 12544])
def test_the_error_is_that_of_a_float32_sum(name, level, cols):
    codec = Subject(name).levels()[level]
    weights = RNG.standard_normal((33, cols), np.float32) * np.float32(0.05)
    data = quantreg.quantize(weights, name)
    decoded = quantreg.dequantize(data, name).astype(np.float64)
    for n in (1, 2, 3, 4, 5, 7, 9):
        x, out = RNG.standard_normal((n, cols), np.float32), np.empty((n, 33), np.float32)
        codec.dot_rows(data, x, out)
        rounding = np.finfo(np.float32).eps * (np.abs(x).astype(np.float64) @ np.abs(decoded).T)
        assert (np.abs(out - x.astype(np.float64) @ decoded.T) <= rounding).all()


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_a_product_does_not_depend_on_the_other_rows(name, level):
    codec = Subject(name).levels()[level]
    data = quantreg.quantize(RNG.standard_normal((20, 2304), np.float32), name)
    x, out = RNG.standard_normal((7, 2304), np.float32), np.empty((7, 20), np.float32)
    codec.dot_rows(data, x, out)
    one = np.empty((1, 1), np.float32)
    for i, row in np.ndindex(7, 20):
        codec.dot_rows(data[row : row + 1], x[i : i + 1], one)
        assert one[0, 0] == out[i, row]


@pytest.mark.parametrize("name", FUSED + OTHERS)
def test_the_kit_passes_at_every_level(name):
    for check in ("dot_rows", "guard_pages", "strides"):
        outcome = run_check(check, Subject(name, full=True))
        assert outcome.status == "passed", outcome.message


@pytest.mark.parametrize("n", [1, 5, 7])
def test_matmul_gives_the_same_with_any_number_of_threads(n):
    tensor = quantreg.QuantizedTensor.from_array("w", RNG.standard_normal((1111, 1024), np.float32), "Q4_K")
    x = RNG.standard_normal((n, 1024), np.float32)
    found = [quantreg.matmul(x, tensor, threads=threads) for threads in (1, 2, 3, 8)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_plain_float32_weights_are_not_copied(monkeypatch):
    weights = RNG.standard_normal((300, 512), np.float32)
    tensor = quantreg.QuantizedTensor.from_array("w", weights, "F32")
    monkeypatch.setattr("quantreg.products.multiply.decode_slab", lambda *args, **more: pytest.fail("decoded"))
    for n in (1, 20):
        x = RNG.standard_normal((n, 512), np.float32)
        np.testing.assert_allclose(quantreg.matmul(x, tensor), x @ weights.T, rtol=1e-4, atol=1e-4)


def test_float32_weights_that_are_not_aligned_are_multiplied_too():
    weights = RNG.standard_normal((3, 64), np.float32)
    room = np.empty(weights.nbytes + 1, np.uint8)
    room[1:] = weights.reshape(-1).view(np.uint8)
    tensor = quantreg.QuantizedTensor("w", (3, 64), "F32", room[1:])
    x = RNG.standard_normal((2, 64), np.float32)
    np.testing.assert_allclose(quantreg.matmul(x, tensor), x @ weights.T, rtol=1e-4, atol=1e-4)


def test_new_data_of_a_tensor_are_seen():
    first, second = (RNG.standard_normal((40, 256), np.float32) for _ in range(2))
    tensor = quantreg.QuantizedTensor.from_array("w", first, "Q8_0")
    x = RNG.standard_normal((1, 256), np.float32)
    quantreg.matmul(x, tensor)
    tensor.data = quantreg.quantize(second, "Q8_0")
    np.testing.assert_allclose(quantreg.matmul(x, tensor), x @ second.T, rtol=0.1, atol=0.5)


# ---- the crew ----


def test_an_error_in_a_thread_is_raised_and_the_crew_works_on():
    done = []

    def work(item):
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        crew.run(work, range(6), 3)
    done.clear()
    crew.run(work, [1, 2, 4, 5], 3)
    assert sorted(done) == [1, 2, 4, 5]


def test_threads_are_reused_and_work_may_ask_for_more_threads():
    names = set()

    def inner(item):
        names.add(threading.current_thread().name)

    before = threading.active_count()
    for _ in range(20):
        crew.run(lambda item: crew.run(inner, range(4), 2), range(4), 2)
    assert threading.active_count() <= before + 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_forked_process_multiplies_with_threads_of_its_own():
    tensor = quantreg.QuantizedTensor.from_array("w", RNG.standard_normal((1024, 1024), np.float32), "Q4_K")
    x = RNG.standard_normal((1, 1024), np.float32)
    expected = quantreg.matmul(x, tensor, threads=2)

    def multiply():
        assert (quantreg.matmul(x, tensor, threads=2) == expected).all()

    run_guarded([("the child", multiply)])
