"""QuantLinear and QuantEmbedding against torch's own arithmetic with the decoded weights."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import toy
from entries import registered

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import torch_models as models  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn.functional import embedding, linear  # noqa: E402

import quantreg  # noqa: E402
import quantreg.torch as qt  # noqa: E402
from quantreg import ShapeError  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_device")

HALVES = [torch.float16, torch.bfloat16]


def layer_of(name, rows=40, cols=512, bias=True, dtype=None):
    torch.manual_seed(rows + cols)
    tensor = models.tensor_of(np.random.default_rng(rows).standard_normal((rows, cols)).astype(np.float32), name)
    made = torch.randn(rows, dtype=dtype) if bias else None
    return qt.QuantLinear.from_quantized(tensor, made, dtype=dtype).to(models.DEVICE)


def weights(layer, dtype=torch.float64):
    return layer.weight.dequantize().to(dtype)


def check(found, x, layer, weight=None):
    """The product is exact but for the rounding of a float32 sum and of the result."""
    weight = weights(layer) if weight is None else weight
    bias = None if layer.bias is None else layer.bias.detach().double()
    exact = linear(x.detach().double(), weight, bias)
    size = linear(x.detach().double().abs(), weight.abs(), None if bias is None else bias.abs())
    assert (found.dtype, found.shape) == (x.dtype, exact.shape)
    eps = 64 * torch.finfo(torch.float32).eps if x.dtype != torch.float64 else 1e-13
    if models.DEVICE != "cpu":  # where weights are rounded to the dtype, which moves each by eps / 2 at most
        eps += torch.finfo(x.dtype).eps / 2
    rounding = torch.finfo(x.dtype).eps * exact.abs() + torch.finfo(x.dtype).tiny
    assert ((found.detach().double() - exact).abs() <= eps * size + rounding).all()


@pytest.mark.parametrize("batch", [(), (1,), (3,), (20,), (2, 9), (0,)])
@pytest.mark.parametrize("name", models.FLOATS)
def test_the_product_is_that_of_the_decoded_weights(name, batch):
    layer = layer_of(name)
    x = torch.randn(*batch, 512)
    check(layer(x), x, layer)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BATCHES = st.lists(st.integers(0, 12), max_size=3).map(tuple)


@given(
    BATCHES, st.integers(1, 70), st.integers(1, 5), st.sampled_from(["Q8_0", "Q4_0", "IQ4_NL", "F16", "F32", "BF16"]),
    st.sampled_from(DTYPES), st.booleans(), st.booleans(),
)  # fmt: skip
def test_any_shape_dtype_and_layout_of_activations(batch, rows, blocks, name, dtype, bias, turned):
    layer = layer_of(name, rows, 32 * blocks, bias)
    torch.manual_seed(rows)
    x = torch.randn(*batch, 32 * blocks, dtype=torch.float32).to(dtype)
    if turned:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    check(layer(x), x, layer)
    layer.requires_grad_(True)
    x.requires_grad_(True)
    found = layer(x)
    gradient = torch.randn(found.shape).to(dtype)
    found.backward(gradient)
    twin = torch.nn.Linear(32 * blocks, rows, bias, dtype=torch.float64)
    twin.weight.data.copy_(weights(layer))
    exact = x.detach().double().requires_grad_(True)
    twin(exact).backward(gradient.double())
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 64 * rows * torch.finfo(torch.float32).eps}
    if dtype != torch.float64:
        tolerance["atol"] = max(tolerance["atol"], 0.02 if dtype in HALVES else 0)
    if models.DEVICE != "cpu":  # the weights are rounded: 8 standard deviations of a sum of such errors
        tolerance["atol"] = max(tolerance["atol"], 8 * 0.29 * torch.finfo(dtype).eps * rows**0.5)
    torch.testing.assert_close(x.grad.double(), exact.grad, **tolerance)
    if bias:
        torch.testing.assert_close(layer.bias.grad.double(), twin.bias.grad, rtol=1e-2 if dtype in HALVES else 1e-4,
                                   atol=1e-2 if dtype in HALVES else 1e-5)  # fmt: skip


def test_no_gradient_is_kept_where_none_is_asked_for():
    layer = layer_of("Q4_K")
    layer.bias.requires_grad_(False)
    assert not layer(torch.randn(2, 512)).requires_grad
    layer.bias.requires_grad_(True)
    with torch.no_grad():
        assert not layer(torch.randn(2, 512)).requires_grad
    with torch.inference_mode():
        x = torch.randn(2, 512)
        check(layer(x), x, layer)


def test_activations_are_not_copied_where_they_need_not_be(monkeypatch):
    layer, seen = layer_of("Q4_K", bias=False).cpu(), []
    from quantreg.torch import linear as module

    original = module.matmul
    monkeypatch.setattr(module, "matmul", lambda x, *args, **how: (seen.append(x), original(x, *args, **how))[1])
    x = torch.randn(3, 4, 512, device="cpu")
    layer(x)
    assert np.shares_memory(seen[0], x.numpy())


def test_an_adapter_learns_on_top():
    torch.manual_seed(0)
    model = torch.nn.Sequential(layer_of("Q4_K", 256, 512), torch.nn.ReLU(), layer_of("Q6_K", 40, 256))
    down, up = torch.nn.Linear(512, 4, bias=False), torch.nn.Linear(4, 256, bias=False)
    torch.nn.init.zeros_(up.weight)
    x, target = torch.randn(16, 512), torch.randn(16, 40)
    optimizer = torch.optim.Adam([*down.parameters(), *up.parameters()], 0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model[2](model[1](model[0](x) + up(down(x)))), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_gradient_is_checked_by_differences():
    layer = layer_of("Q8_0", 7, 64)
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    layer.bias.requires_grad_(False)
    assert torch.autograd.gradcheck(layer, x)


def test_activations_that_do_not_fit_are_refused():
    layer = layer_of("Q4_K")
    with pytest.raises(ShapeError, match=r"x has shape \(2, 511\), but the layer takes 512 features"):
        layer(torch.zeros(2, 511))
    with pytest.raises(TypeError, match=r"x is torch\.int64: convert it to a floating-point dtype"):
        layer(torch.zeros(2, 512, dtype=torch.int64))


def test_autocast_decides_the_dtype():
    layer = layer_of("Q4_K")
    with torch.autocast(models.DEVICE, dtype=torch.bfloat16):
        x = torch.randn(2, 512)
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


# --- quantizing a layer ---


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "IQ4_XS", "MXFP4"])
def test_from_linear_encodes_the_bytes_that_quantize_encodes(name, dtype, monkeypatch):
    linear_ = torch.nn.Linear(512, 40, dtype=dtype)
    expected = quantreg.quantize(linear_.weight.detach().float().cpu().numpy(), name)
    for part in (1 << 24, 1500):
        monkeypatch.setattr("quantreg.torch.packed.PART_WEIGHTS", part)
        layer = qt.QuantLinear.from_linear(linear_, name)
        np.testing.assert_array_equal(layer.packed.bytes.cpu().numpy(), expected)
    assert layer.bias is linear_.bias
    assert layer.weight.dtype == dtype
    assert (layer.in_features, layer.out_features) == (512, 40)


def test_importance_is_obeyed():
    linear_ = torch.nn.Linear(512, 40)
    columns = np.linspace(0.1, 10, 512, dtype=np.float32)
    expected = quantreg.quantize(linear_.weight.detach().cpu().numpy(), "Q4_K", columns)
    for given_ in (columns, torch.from_numpy(columns)):
        layer = qt.QuantLinear.from_linear(linear_, "Q4_K", given_)
        np.testing.assert_array_equal(layer.packed.bytes.cpu().numpy(), expected)
    with pytest.raises(quantreg.CodecError, match="cannot be encoded without importance"):
        qt.QuantLinear.from_linear(linear_, "IQ1_S")


def test_rows_that_do_not_divide_into_blocks_are_refused():
    with pytest.raises(ShapeError, match="packs 256 weights per block"):
        qt.QuantLinear.from_linear(torch.nn.Linear(100, 4), "Q4_K")
    with pytest.raises(ShapeError, match="meta device"):
        qt.QuantLinear.from_linear(torch.nn.Linear(256, 4, device="meta"), "Q4_K")


def test_a_plugins_type_works_like_a_built_in_one():
    for make in (toy.make, toy.make_with_header):
        with registered(toy.Plugin(make())):
            layer = qt.QuantLinear.from_linear(torch.nn.Linear(512, 40), make().name)
            for batch in (1, 20):
                x = torch.randn(batch, 512, requires_grad=True)
                check(layer(x), x, layer)
                layer(x).sum().backward()
                torch.testing.assert_close(x.grad, weights(layer, torch.float32).sum(0).expand(batch, 512))
            again = pickle.loads(pickle.dumps(layer))
            assert torch.equal(again(x), layer(x))


# --- as a module ---


@pytest.mark.parametrize("name", ["Q4_K", "NVFP4"])  # the second fits a parameter
def test_it_is_copied_pickled_and_saved(name):
    layer = qt.QuantLinear.from_linear(torch.nn.Linear(512, 40), name)
    x = torch.randn(2, 512)
    expected = layer(x)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh = qt.QuantLinear(512, 40, name)
    assert str(fresh.load_state_dict(torch.load(buffer))) == "<All keys matched successfully>"
    empty = qt.QuantLinear(512, 40, name, device="meta")
    empty.load_state_dict(layer.state_dict(), assign=True)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh, empty):
        assert torch.equal(again(x), expected)
        assert repr(again) == repr(layer)
    for key, value in layer.state_dict().items():
        assert value.dtype in (torch.uint8, torch.int32) or key == "bias"


def test_safetensors_saves_it(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    layer = layer_of("Q5_K")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of safetensors about torch's storages
        safetensors.save_file(layer.state_dict(), tmp_path / "m.safetensors")
        fresh = qt.QuantLinear(512, 40, "Q5_K")
        fresh.load_state_dict(safetensors.load_file(tmp_path / "m.safetensors"))
    x = torch.randn(2, 512)
    assert torch.equal(fresh(x), layer(x))


def test_new_bytes_are_used_at_once():
    layer, other = layer_of("Q4_0", 3, 64, bias=False), layer_of("Q4_0", 3, 64, bias=False)
    x = torch.randn(2, 64)
    layer(x)
    layer.packed.bytes.zero_()
    assert not layer(x).any()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))
    fitted = qt.QuantLinear.from_linear(torch.nn.Linear(64, 3, bias=False), "NVFP4")
    before = fitted(x)
    fitted.packed.fitted_scale.copy_((fitted.packed.fitted_scale.view(torch.float32) * 2).view(torch.uint8))
    torch.testing.assert_close(fitted(x), 2 * before)


def test_the_bytes_of_another_type_of_the_same_size_are_refused():
    layer = qt.QuantLinear(512, 40, "IQ4_NL")
    with pytest.raises(RuntimeError, match=r"packed\.bytes holds Q4_0, but the module is of IQ4_NL"):
        layer.load_state_dict(layer_of("Q4_0").state_dict())


def test_half_and_to_change_what_the_weights_decode_to_and_not_the_bytes():
    layer = layer_of("NVFP4")
    before = layer.packed.bytes.clone()
    expected = weights(layer, torch.float32)
    layer.half()
    assert (layer.weight.dtype, layer.bias.dtype) == (torch.float16, torch.float16)
    layer.to(torch.bfloat16)
    assert torch.equal(layer.packed.bytes, before)
    assert torch.equal(layer.weight.dequantize(torch.float32), expected)
    x = torch.randn(2, 512, dtype=torch.bfloat16)
    check(layer(x), x, layer, expected.double())


def test_another_device_multiplies_decoded_weights():
    layer = layer_of("Q4_K").to("meta")
    found = layer(torch.empty(5, 512, device="meta", dtype=torch.float16))
    assert (found.shape, found.dtype, found.device.type) == ((5, 40), torch.float16, "meta")


def test_a_default_device_of_torch_does_not_disturb():
    layer, table = layer_of("Q4_K").cpu(), qt.QuantEmbedding.from_quantized(models.tensor_of(models.W, "Q4_K"))
    x, ids = torch.randn(3, 512, device="cpu", requires_grad=True), torch.arange(3, device="cpu")
    plain = torch.nn.Linear(512, 40, device="cpu")
    with torch.device("meta"):
        found = layer(x)
        found.sum().backward()
        rows, encoded = table(ids), qt.QuantLinear.from_linear(plain, "Q4_K")
    check(found, x, layer)
    torch.testing.assert_close(x.grad, weights(layer, torch.float32).sum(0).expand(3, 512), rtol=1e-4, atol=1e-4)
    assert torch.equal(rows, table(ids))
    assert encoded.packed.bytes.device.type == "cpu"


def test_it_says_what_it_is():
    assert repr(layer_of("Q4_K")).splitlines()[1].strip() == (
        "in_features=512, out_features=40, type=Q4_K, bits_per_weight=4.5, bias=True"
    )
    assert isinstance(layer_of("Q4_K").weight, qt.GGUFTensor)


def test_the_threads_are_torchs(monkeypatch):
    from quantreg.torch import linear as module

    seen, original = [], module.matmul
    monkeypatch.setattr(module, "matmul", lambda *args, **how: (seen.append(how["threads"]), original(*args, **how))[1])
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            layer_of("Q4_K").cpu()(torch.randn(1, 512, device="cpu"))
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


# --- embeddings ---


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", models.FLOATS)
def test_an_embedding_is_a_row_of_the_decoded_table(name, dtype):
    table = qt.QuantEmbedding.from_quantized(models.tensor_of(models.W, name), dtype=dtype).to(models.DEVICE)
    for ids in (
        torch.tensor(3),
        torch.tensor([0, 39, 3, 3]),
        torch.randint(0, 40, (2, 0)),
        torch.randint(0, 40, (2, 3)),
    ):
        found = table(ids)
        assert found.dtype == dtype
        expected = embedding(ids, table.weight.dequantize())
        if models.DEVICE == "cpu":
            assert torch.equal(found, expected)
        else:  # which decodes by float32 in another order, and rounds that
            torch.testing.assert_close(found, expected, rtol=torch.finfo(dtype).eps, atol=4e-7 * abs(models.W).max())


def test_an_embedding_layer_is_quantized_saved_and_checked():
    old = torch.nn.Embedding(40, 512, padding_idx=2)
    table = qt.QuantEmbedding.from_embedding(old, "Q4_K")
    expected = quantreg.quantize(old.weight.detach().cpu().numpy(), "Q4_K")
    np.testing.assert_array_equal(table.packed.bytes.cpu().numpy(), expected)
    assert repr(table).splitlines()[1].strip() == "40, 512, type=Q4_K, bits_per_weight=4.5, padding_idx=2"
    fresh = qt.QuantEmbedding(40, 512, "Q4_K")
    fresh.load_state_dict(table.state_dict())
    assert torch.equal(fresh(torch.arange(40)), table(torch.arange(40)))
    assert table.half()(torch.tensor([1])).dtype == torch.float16
    with pytest.raises(IndexError, match="ids hold 0 to 40, but the table has 40 rows"):
        table(torch.tensor([0, 40]))
    with pytest.raises(IndexError, match="ids hold -1 to -1"):
        table(torch.tensor(-1))
    with pytest.raises(TypeError, match=r"ids are torch\.float32: pass integers"):
        table(torch.zeros(2))
    assert table.to("meta")(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 512)
