"""quantreg.torch decodes on a device what its codec decodes on the processors, without a line about a type."""

import numpy as np
import pytest
import toy
from entries import registered

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'quantreg[torch]'")

import torch_models as models  # noqa: E402

import quantreg  # noqa: E402
import quantreg.torch as qt  # noqa: E402
from quantreg.torch import linear  # noqa: E402
from quantreg.torch.encoded import Encoded  # noqa: E402
from quantreg.torch.planes import Planes, planes_of  # noqa: E402

# One code for each weight, of at most 8 bits.
KNOWN = {
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ4_NL", "IQ4_XS",
    "MXFP4", "NVFP4", "TQ2_0", "Q1_0", "Q2_0",
}  # fmt: skip


def there(tensor):
    found = Encoded.of(tensor)
    found.bytes = found.bytes.to(models.DEVICE)
    return found


def close(found, expected):
    """Whether values agree within the rounding of float32, of the largest of their block or more."""
    return bool((abs(found.cpu().numpy() - expected) <= 4e-7 * abs(expected).max(axis=-1, keepdims=True)).all())


@pytest.mark.parametrize("name", models.FLOATS)
def test_a_type_with_a_code_for_each_weight_is_decoded_on_the_device(name):
    tensor = models.tensor_of(models.W, name)
    encoded = there(tensor)
    assert (planes_of(encoded) is not None) == (name in KNOWN)
    if planes_of(encoded) is not None:
        expected = tensor.dequantize()
        assert close(planes_of(encoded).span(encoded.bytes, 0, 40), expected)
        assert close(planes_of(encoded).span(encoded.bytes, 7, 9), expected[7:9])
        ids = torch.tensor([39, 0, 7, 7], device=models.DEVICE)
        assert close(planes_of(encoded).rows(encoded.bytes, ids), expected[[39, 0, 7, 7]])
        none = planes_of(encoded).rows(encoded.bytes, ids[:0], torch.bfloat16)
        assert (none.shape, none.dtype) == ((0, 512), torch.bfloat16)
        half = planes_of(encoded).span(encoded.bytes, 0, 40, torch.float16)
        assert torch.equal(half, planes_of(encoded).span(encoded.bytes, 0, 40).half())


@pytest.mark.parametrize("name", sorted(KNOWN))
@pytest.mark.parametrize("kind", ["random bytes", "rows of any size", "zeros"])
def test_unusual_blocks_decode_alike(name, kind):
    qtype = quantreg.types[name]
    rng = np.random.default_rng(3)
    if kind == "random bytes":
        data = rng.integers(0, 256, (64, qtype.row_bytes(512)), np.uint8)
        values = quantreg.QuantizedTensor("w", (64, 512), name, data).dequantize()
        data = data[np.isfinite(values).all(axis=1) & (abs(values).max(axis=1) < 1e30)]
        if not len(data):
            pytest.skip("no such bytes are finite")
        tensor = quantreg.QuantizedTensor("w", (len(data), 512), name, data)
    else:
        x = rng.standard_normal((64, 512)) * (0 if kind == "zeros" else 10.0 ** rng.uniform(-6, 3, (64, 1)))
        tensor = models.tensor_of(x.astype(np.float32), name)
    encoded = there(tensor)
    if kind != "random bytes" and not (kind == "zeros" and tensor.parameters):  # its codes show only in its own blocks
        assert planes_of(encoded) is not None
    if planes_of(encoded) is not None:  # scales that no encoder writes may make the check refuse
        assert close(planes_of(encoded).span(encoded.bytes, 0, len(tensor.data)), tensor.dequantize())


def test_scales_take_four_bytes_for_each_group():
    for name, groups, offsets in (("Q4_K", 16, True), ("Q6_K", 32, False), ("Q8_0", 16, False), ("IQ4_XS", 16, False)):
        planes = planes_of(there(models.tensor_of(models.W, name)))
        assert planes._size.shape == (40, groups)
        assert (planes._low is not None) == offsets


def test_what_does_not_decode_alike_is_left_to_the_processors(monkeypatch):
    monkeypatch.setattr(Planes, "_agrees", lambda *args: False)
    assert planes_of(there(models.tensor_of(models.W, "Q4_K"))) is None


def test_a_plugins_type_is_decoded_on_the_device():
    with registered(toy.Plugin(toy.make())):
        tensor = models.tensor_of(models.W, "TOY3")
        encoded = there(tensor)
        assert planes_of(encoded) is not None
        assert close(planes_of(encoded).span(encoded.bytes, 0, 40), tensor.dequantize())
    with registered(toy.Plugin(toy.make_with_header())):
        assert planes_of(there(models.tensor_of(models.W, toy.make_with_header().name))) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_embeddings_on_a_device_are_rows_of_the_decoded_table(dtype, monkeypatch):
    tensor = models.tensor_of(models.W, "Q4_K")
    table = qt.QuantEmbedding.from_quantized(tensor, dtype=dtype).to(models.DEVICE)
    monkeypatch.setattr("quantreg.torch.embeddings._decodes_rows", lambda *args: False)  # as on another device
    for ids in (torch.tensor(3), torch.tensor([[0, 39], [3, 3]]), torch.zeros((2, 0), dtype=torch.int64)):
        found = table(ids.to(models.DEVICE))
        assert (found.dtype, found.shape) == (dtype, (*ids.shape, 512))
        exact = torch.from_numpy(tensor.dequantize())[ids].double()
        bound = torch.finfo(dtype).eps / 2 * exact.abs() + 4e-7 * abs(models.W).max()
        assert ((found.cpu().double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tile", [1 << 25, 512 * 7])
def test_a_layer_on_a_device_is_that_of_its_decoded_weights(dtype, tile, monkeypatch):
    monkeypatch.setattr(linear, "DEVICE_TILE", tile)
    monkeypatch.setattr(linear, "_on_cpu", lambda *args: False)  # as on another device
    layer = qt.QuantLinear.from_quantized(models.tensor_of(models.W, "Q4_K"), torch.randn(40)).to(models.DEVICE)
    x = torch.randn(3, 2, 512, dtype=dtype, device=models.DEVICE, requires_grad=True)
    found, weight = layer(x), layer.weight.dequantize().double()
    found.sum().backward()
    exact = x.detach().double() @ weight.T + layer.bias.detach().double()
    assert found.dtype == x.grad.dtype == dtype
    eps = torch.finfo(dtype).eps
    size = x.detach().double().abs() @ weight.abs().T + layer.bias.detach().double().abs()
    # The weights are rounded to the dtype, to half of eps, and float32 sums to 64 eps of float32 at most.
    bound = max(eps / 2, 64 * torch.finfo(torch.float32).eps) * size + eps * exact.abs()
    assert ((found.double() - exact).abs() <= bound).all()
    torch.testing.assert_close(x.grad.double(), weight.sum(0).expand(3, 2, 512), rtol=4 * eps, atol=4 * eps)


def test_a_layer_decodes_on_the_processors_once_for_all_calls(monkeypatch):
    monkeypatch.setattr(linear, "_on_cpu", lambda *args: False)
    layer = qt.QuantLinear.from_quantized(models.tensor_of(models.W, "Q4_K")).to(models.DEVICE)
    x = torch.randn(3, 512, device=models.DEVICE)
    first = layer(x)
    monkeypatch.setattr("quantreg.dispatch.decode_slab", None)
    monkeypatch.setattr(linear, "dequantize", None)
    assert torch.equal(layer(x), first)
    assert layer.packed.encoded._data is None  # no copy of the bytes stays
