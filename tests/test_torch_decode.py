"""quantreg.torch.dequantize: every type, to every dtype, in slabs."""

import numpy as np
import pytest
import toy
from entries import registered

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import torch_models as models  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import quantreg  # noqa: E402
import quantreg.torch as qt  # noqa: E402
from quantreg import ShapeError  # noqa: E402
from quantreg.torch import decode  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_device")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def same(found, expected):
    """Whether two tensors are equal to the bit; torch cannot compare float8."""
    assert (found.dtype, found.shape, found.device.type) == (expected.dtype, expected.shape, models.DEVICE)
    if expected.numel():
        assert torch.equal(found.cpu().contiguous().view(torch.uint8), expected.cpu().contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", models.ENCODABLE)
def test_values_are_those_that_torch_makes_of_the_decoded_ones(name, dtype):
    tensor = models.tensor_of(models.W, name)
    stored = torch.from_numpy(tensor.dequantize(np.float64 if name == "F64" else np.float32))
    same(qt.dequantize(tensor, dtype, models.DEVICE), stored.to(dtype))
    same(qt.dequantize(qt.GGUFTensor(tensor), dtype, models.DEVICE), stored.to(dtype))


@pytest.mark.parametrize("name", models.INTEGERS)
def test_integers_stay_exact(name):
    values = np.array([[-128, 127, 5, 0]] if name == "I8" else [[-(2**15), 2**15 - 1, 12345, 0]])
    if name == "I64":
        values[0, 0] = 2**53 + 1
    tensor = quantreg.QuantizedTensor.from_array("w", values, name)
    own = getattr(torch, f"int{name[1:]}")
    same(qt.dequantize(tensor, own, models.DEVICE), torch.from_numpy(values).to(own))
    same(qt.dequantize(tensor, torch.int64, models.DEVICE), torch.from_numpy(values).to(torch.int64))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_a_dtype_that_cannot_hold_weights_is_refused(dtype):
    with pytest.raises(ShapeError, match=f"{dtype} cannot hold the values of Q8_0: decode to torch.float32"):
        qt.dequantize(models.tensor_of(models.W, "Q8_0"), dtype)


SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(SHAPES, st.integers(0, 4), st.sampled_from(["Q8_0", "Q4_0", "F16", "BF16", "F32"]), st.sampled_from(DTYPES))
def test_any_shape_and_any_strides_of_the_output(leading, blocks, name, dtype):
    shape = (*leading, 32 * blocks)
    tensor = models.tensor_of(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32), name)
    expected = torch.from_numpy(tensor.dequantize()).to(dtype)
    same(qt.dequantize(tensor, dtype, models.DEVICE), expected)
    wide = torch.zeros(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    assert qt.dequantize(tensor, out=wide) is wide
    same(wide, expected)
    turned = torch.zeros(shape[::-1], dtype=dtype).permute(*reversed(range(len(shape))))
    same(qt.dequantize(tensor, out=turned), expected)


def test_a_tensor_without_axes():
    tensor = quantreg.QuantizedTensor("w", (), "F16", np.float16(1.5).tobytes())
    assert qt.dequantize(tensor).shape == ()
    same(qt.dequantize(tensor, device=models.DEVICE).reshape(1), torch.tensor([1.5]))
    same(qt.dequantize(tensor, torch.bfloat16, models.DEVICE).reshape(1), torch.tensor([1.5], dtype=torch.bfloat16))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_slabs_give_the_values_of_one(threads, dtype, monkeypatch):
    tensor = models.tensor_of(models.RNG.standard_normal((3, 7, 64)).astype(np.float32), "Q4_0")
    expected = qt.dequantize(tensor, dtype, models.DEVICE)
    monkeypatch.setattr(decode, "SLAB_WEIGHTS", 128)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        same(qt.dequantize(tensor, dtype, models.DEVICE), expected)
    finally:
        torch.set_num_threads(before)


def test_no_more_than_slabs_are_held_beside_the_output(monkeypatch):
    tensor = models.tensor_of(np.ones((512, 256), np.float32), "Q8_0")
    monkeypatch.setattr(decode, "SLAB_WEIGHTS", 1024)
    made = []
    empty = torch.empty

    def counted(*args, **keywords):
        found = empty(*args, **keywords)
        made.append(found.numel())
        return found

    monkeypatch.setattr(torch, "empty", counted)
    qt.dequantize(tensor, torch.bfloat16, models.DEVICE)
    assert max(made[1:]) <= 1024 * torch.get_num_threads()


def test_overflow_is_torchs_or_saturates():
    tensor = quantreg.QuantizedTensor.from_array("w", np.array([[1e6, -1e6, 1, 3e38]]), "F32")
    same(
        qt.dequantize(tensor, torch.float16, models.DEVICE),
        torch.tensor([[torch.inf, -torch.inf, 1, torch.inf]]).half(),
    )
    most = torch.finfo(torch.float16).max
    same(
        qt.dequantize(tensor, torch.float16, models.DEVICE, saturate=True),
        torch.tensor([[most, -most, 1, most]]).half(),
    )
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        most = torch.finfo(dtype).max
        found = qt.dequantize(tensor, dtype, models.DEVICE, saturate=True).float()
        assert found.tolist() == [[most, -most, 1, most]]
    assert qt.dequantize(tensor, torch.float8_e5m2, models.DEVICE).float().tolist()[0][:2] == [torch.inf, -torch.inf]
    assert torch.isfinite(qt.dequantize(tensor, torch.bfloat16, models.DEVICE)).all()


def test_an_output_that_does_not_fit_is_refused():
    tensor = models.tensor_of(models.W, "Q8_0")
    with pytest.raises(ShapeError, match=r"out has shape \(512, 40\), but w decodes to \(40, 512\)"):
        qt.dequantize(tensor, out=torch.empty(512, 40))
    with pytest.raises(ShapeError, match=r"out is on the device \w+.*, but device is meta"):
        qt.dequantize(tensor, out=torch.empty(40, 512), device="meta")
    with pytest.raises(TypeError, match=r"tensor is a Tensor: pass a quantreg.QuantizedTensor"):
        qt.dequantize(torch.zeros(3))


def test_the_meta_device_gets_a_shape():
    found = qt.dequantize(models.tensor_of(models.W, "Q4_K"), torch.bfloat16, "meta")
    assert (found.shape, found.dtype, found.device.type) == ((40, 512), torch.bfloat16, "meta")


def test_a_plugins_type_decodes_like_a_built_in_one():
    for make in (toy.make, toy.make_with_header):
        with registered(toy.Plugin(make())):
            tensor = models.tensor_of(models.W, make().name)
            same(qt.dequantize(tensor, torch.float16, models.DEVICE), torch.from_numpy(tensor.dequantize()).half())


def test_parameters_of_a_tensor_are_used():
    tensor = models.tensor_of(models.RNG.standard_normal((3, 4, 64)).astype(np.float32) * 1000, "NVFP4")
    assert tensor.parameters
    same(qt.dequantize(tensor, device=models.DEVICE), torch.from_numpy(tensor.dequantize()))


def test_an_array_that_may_not_be_written_to_is_read_without_a_warning():
    tensor = models.tensor_of(models.W, "F16")
    tensor.data.flags.writeable = False
    same(qt.dequantize(tensor, device=models.DEVICE), torch.from_numpy(tensor.dequantize()))


@pytest.mark.parametrize("name", ["Q4_K", "F16"])
def test_a_default_device_of_torch_does_not_disturb(name):
    tensor = models.tensor_of(models.W, name)
    expected = torch.from_numpy(tensor.dequantize())
    with torch.device("meta"):
        found = [qt.dequantize(tensor), qt.dequantize(tensor, torch.bfloat16, "cpu"), qt.GGUFTensor(tensor) + 0]
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected.bfloat16())
    assert torch.equal(found[2], expected)
