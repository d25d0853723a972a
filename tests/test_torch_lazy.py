"""quantreg.torch.from_gguf: a state dict of a file, with tensors that are decoded when they are used."""

import copy
import io
import pickle
import struct

import gguf_files
import numpy as np
import pytest
import toy
from entries import registered

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import torch_models as models  # noqa: E402

import quantreg  # noqa: E402
import quantreg.torch as qt  # noqa: E402
from quantreg import GGUFFormatError, UnknownTypeError  # noqa: E402
from quantreg.torch import decode  # noqa: E402
from quantreg.torch.encoded import Encoded  # noqa: E402

METADATA = {"general.architecture": "llama"}
TENSOR = models.tensor_of(models.W, "Q4_K", "blk.0.x.weight")
VALUES = torch.from_numpy(TENSOR.dequantize())


@pytest.fixture
def lazy():
    return qt.GGUFTensor(TENSOR)


def there(lazy):
    """The tensor with its bytes on the device that is tested."""
    old = lazy.encoded
    moved = Encoded(old.name, old.shape, old.type_id, old.type_name, old.bytes.to(models.DEVICE), old.parameters)
    return qt.GGUFTensor(moved, lazy.dtype)


@pytest.fixture
def decoded(monkeypatch):
    """The shapes that were decoded."""
    seen = []
    original = decode.decode_into

    def noted(out, weights, **how):
        seen.append(tuple(out.shape))
        original(out, weights, **how)

    monkeypatch.setattr(decode, "decode_into", noted)
    monkeypatch.setattr("quantreg.torch.lazy.decode_into", noted)
    return seen


def written(path, tensors, metadata=METADATA):
    quantreg.write(path, metadata, tensors, force=True)
    return path


# --- files ---


def test_every_type_of_a_file_decodes_to_its_values(tmp_path):
    tensors = {name: models.tensor_of(models.W, name, name) for name in models.ENCODABLE}
    found = qt.from_gguf(written(tmp_path / "m.gguf", tensors))
    assert list(found) == list(quantreg.open(tmp_path / "m.gguf"))
    assert dict(found.metadata) == METADATA
    for name, tensor in tensors.items():
        own = tensor.dequantize(tensor.dtype)
        assert torch.equal(found[name].double(), torch.from_numpy(own.astype(np.float64))), name
        assert found[name].shape == tensor.shape


PLAIN = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_are_mapped_and_a_change_does_not_reach_the_file(name, tmp_path):
    path = written(tmp_path / "m.gguf", {"w": models.tensor_of(models.W, name)})
    before = path.read_bytes()
    found = qt.from_gguf(path)["w"]
    assert type(found) is torch.Tensor
    assert found.dtype == PLAIN[name]
    assert found.untyped_storage().nbytes() == found.nbytes  # torch.save saves no more than this
    found.zero_()
    assert not found.any()
    assert path.read_bytes() == before
    assert qt.from_gguf(path)["w"].any()


def test_a_mapped_file_is_not_read_or_copied(tmp_path):
    path = written(tmp_path / "m.gguf", {"f": np.zeros((4, 8), np.float32), "q": models.tensor_of(models.W, "Q4_K")})
    state = qt.from_gguf(path)
    with path.open("r+b") as file:  # a private mapping shows a change of a page that it has not written to
        header = quantreg.open(path).headers[0]
        at = {info.name: header.data_offset + info.offset for info in header.tensors}
        file.seek(at["f"])
        file.write(struct.pack("<f", 7))
        file.seek(at["q"])
        file.write(bytes(144))
    assert state["f"][0, 0] == 7
    assert not state["q"][0, :256].any()
    assert state["q"][0, 256:].any()


def test_tensors_that_no_number_may_begin_at_are_read(tmp_path):
    tensors = [gguf_files.tensor("a", (3,), 24, 0), gguf_files.tensor("b", (2,), 0, 3)]
    keys = [gguf_files.text("general.architecture", "llama"), gguf_files.u32("general.alignment", 1)]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_files.gguf(keys, tensors, b"\1\2\3" + struct.pack("<2f", 1.5, -2), alignment=1))
    assert qt.from_gguf(path)["b"].tolist() == [1.5, -2]


def test_the_shards_of_a_split_model_are_one_state_dict(tmp_path):
    tensors = {f"blk.{i}.x.weight": models.tensor_of(models.W, "Q8_0", f"blk.{i}.x.weight") for i in range(4)}
    quantreg.split(written(tmp_path / "m.gguf", tensors), tmp_path / "s", split_max_tensors=2)
    shard = sorted(tmp_path.glob("s-*"))[0]
    found = qt.from_gguf(shard)
    assert list(found) == list(tensors)
    assert torch.equal(found["blk.3.x.weight"] + 0, torch.from_numpy(tensors["blk.3.x.weight"].dequantize()))


def test_the_dtype_of_quantized_tensors_is_chosen(tmp_path):
    path = written(tmp_path / "m.gguf", {"q": TENSOR, "f": np.zeros(3, np.float32)})
    found = qt.from_gguf(path, dtype=torch.bfloat16)
    assert (found["q"].dtype, found["f"].dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(found["q"] + 0, VALUES.bfloat16())


def test_a_type_that_no_plugin_knows_is_listed_and_refused_when_it_is_used(tmp_path):
    with registered(toy.Plugin(toy.make())):
        path = written(tmp_path / "m.gguf", {"w": models.tensor_of(models.W, "TOY3")})
        assert torch.equal(qt.from_gguf(path)["w"] + 0, torch.from_numpy(quantreg.open(path)["w"].dequantize()))
    found = qt.from_gguf(path)["w"]
    assert found.shape == models.W.shape
    with pytest.raises(UnknownTypeError):
        found + 0


def test_what_is_no_gguf_model_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"no model")
    with pytest.raises(GGUFFormatError):
        qt.from_gguf(tmp_path / "m.gguf")
    with pytest.raises(FileNotFoundError):
        qt.from_gguf(tmp_path / "none.gguf")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(GGUFFormatError, match=r"safetensors model: read it with safetensors\.torch\.load_file"):
        qt.from_gguf(tmp_path / "m.safetensors")


def test_fitted_parameters_come_from_the_file(tmp_path):
    tensor = models.tensor_of(models.W * 1000, "NVFP4", "blk.0.ffn_up.weight")
    assert tensor.parameters
    found = qt.from_gguf(written(tmp_path / "m.gguf", {tensor.name: tensor}))
    assert torch.equal(found[tensor.name] + 0, torch.from_numpy(tensor.dequantize()))
    again = pickle.loads(pickle.dumps(found[tensor.name]))
    assert torch.equal(again + 0, torch.from_numpy(tensor.dequantize()))


# --- a state dict ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("assign", [False, True])
def test_a_module_loads_it(dtype, assign, lazy):
    linear = torch.nn.Linear(512, 40, bias=False, dtype=dtype)
    assert str(linear.load_state_dict({"weight": lazy}, assign=assign)) == "<All keys matched successfully>"
    x = torch.randn(3, 512)
    if assign:
        assert isinstance(linear.weight, qt.GGUFTensor)
        assert isinstance(linear.weight, torch.nn.Parameter)
        torch.testing.assert_close(linear(x), x @ VALUES.T)
        linear.to(torch.bfloat16)  # decodes
        assert type(linear.weight) is torch.nn.Parameter
        assert torch.equal(linear.weight, VALUES.bfloat16())
    else:
        assert type(linear.weight) is torch.nn.Parameter
        assert torch.equal(linear.weight, VALUES.to(dtype))


def test_loading_decodes_into_the_parameter(lazy, decoded):
    torch.nn.Linear(512, 40, bias=False, dtype=torch.bfloat16).load_state_dict({"weight": lazy})
    assert decoded == [(40, 512)]


def test_a_wrong_shape_is_torchs_error(lazy):
    with pytest.raises(RuntimeError, match="size mismatch"):
        torch.nn.Linear(512, 41, bias=False).load_state_dict({"weight": lazy})


# --- as a tensor ---


def test_what_describes_it_decodes_nothing(lazy, decoded):
    assert (tuple(lazy.shape), lazy.dtype, lazy.device.type, lazy.ndim) == ((40, 512), torch.float32, "cpu", 2)
    assert (len(lazy), lazy.numel(), lazy.size(1), lazy.stride()) == (40, 20480, 512, (512, 1))
    assert (lazy.type_name, lazy.is_contiguous(), lazy.requires_grad, lazy.is_leaf) == ("Q4_K", True, False, True)
    assert isinstance(lazy, torch.Tensor)
    assert lazy.to(torch.float32) is lazy
    assert repr(lazy) == "GGUFTensor('blk.0.x.weight', Q4_K, (40, 512), torch.float32, 4.5 bits per weight)"
    assert isinstance(lazy.detach(), qt.GGUFTensor)
    assert lazy.to("meta").shape == lazy.shape
    assert decoded in ([], [(40, 512)])  # the last one, which fills nothing


OPERATIONS = {
    "add": lambda t: t + 1,
    "matmul": lambda t: t @ t.T,
    "to dtype": lambda t: t.to(torch.bfloat16),
    "to device and dtype": lambda t: t.to(models.DEVICE, torch.float16),
    "half": lambda t: t.half(),
    "to integers": lambda t: (t * 1000).to(torch.int32),
    "int": lambda t: t.int(),
    "clone": lambda t: t.clone(),
    "copy": lambda t: t.to(torch.float32, copy=True),
    "mean": lambda t: t.mean(),
    "transpose": lambda t: t.T,
    "reshape": lambda t: t.reshape(-1, 2),
    "cat": lambda t: torch.cat([t, t.half()]),
    "stack": lambda t: torch.stack((t, t)),
    "row": lambda t: t[3],
    "last row": lambda t: t[-1],
    "value": lambda t: t[3, 5],
    "rows": lambda t: t[2:30:7],
    "no rows": lambda t: t[5:2],
    "columns": lambda t: t[:, 3:9],
    "a list": lambda t: t[[0, 3, 3]],
    "a tensor": lambda t: t[torch.tensor([[1, 2], [39, 0]])],
    "a mask": lambda t: t[torch.arange(40) % 2 == 0],
    "rows selected": lambda t: t.index_select(0, torch.tensor([5, 2])),
    "columns selected": lambda t: t.index_select(1, torch.tensor([5, 2])),
    "embedding": lambda t: torch.nn.functional.embedding(torch.tensor([[1, 1], [0, 39]]), t),
    "linear": lambda t: torch.nn.functional.linear(torch.ones(2, 512), t),
    "linear with it as x": lambda t: torch.nn.functional.linear(t, torch.ones(3, 512)),
    "unbind": lambda t: t.unbind()[7],
    "split": lambda t: t.split(16)[1],
    "norm": lambda t: torch.linalg.vector_norm(t),
    "where": lambda t: torch.where(t > 0, t, 0),
    "empty_like": lambda t: torch.zeros_like(t),
    "data": lambda t: t.data + 0,
    "einsum": lambda t: torch.einsum("ij,kj->ik", t, t),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_operation_gives_what_it_gives_for_the_decoded_tensor(name, mode, lazy):
    tensor, values = there(lazy), VALUES.to(models.DEVICE)
    with mode(), torch.device(models.DEVICE):
        found, expected = OPERATIONS[name](tensor), OPERATIONS[name](values)
        assert type(found) is torch.Tensor
        assert (found.dtype, found.shape, found.device) == (expected.dtype, expected.shape, expected.device)
        assert torch.equal(found, expected)


def test_a_copy_on_a_device_is_decoded_or_keeps_its_bytes(lazy):
    moved = lazy.to(models.DEVICE, torch.bfloat16)
    assert moved.device.type == models.DEVICE
    assert torch.equal(moved.cpu(), VALUES.bfloat16())
    for again in (copy.deepcopy(there(lazy)), pickle.loads(pickle.dumps(there(lazy)))):
        assert isinstance(again, qt.GGUFTensor)
        assert again.device == again.encoded.bytes.device == there(lazy).device
        assert torch.equal(again.dequantize().cpu(), VALUES)
    assert torch.equal(there(lazy).cpu() + 0, VALUES)
    parameter = torch.nn.Linear(512, 40, bias=False, dtype=torch.float16, device=models.DEVICE)
    parameter.load_state_dict({"weight": lazy})
    assert torch.equal(parameter.weight.cpu(), VALUES.half())
    np.testing.assert_array_equal(np.asarray(there(lazy)), VALUES.numpy())


@pytest.mark.parametrize(
    ("name", "rows"), [("row", 1), ("rows", 4), ("embedding", 4), ("rows selected", 2), ("last row", 1)]
)
def test_only_the_rows_that_are_asked_for_are_decoded(name, rows, lazy, decoded):
    OPERATIONS[name](lazy)
    assert decoded == [(rows, 512)]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_(1),
        lambda t: t.zero_(),
        lambda t: t.copy_(VALUES),
        lambda t: t.__setitem__(0, 1),
        lambda t: t.__setitem__((0, slice(None)), VALUES[0]),
        lambda t: torch.add(VALUES, 1, out=t),
        lambda t: setattr(t, "data", VALUES),
        lambda t: t.fill_(0),
    ],
)
def test_a_change_in_place_is_refused(change, lazy):
    with pytest.raises(TypeError, match=r"cannot be changed in place: decode it first, as in x = tensor\.dequantize"):
        change(lazy)
    assert torch.equal(lazy + 0, VALUES)


def test_numpy_lists_and_dlpack_get_decoded_values(lazy):
    np.testing.assert_array_equal(lazy.numpy(), VALUES.numpy(), strict=True)
    np.testing.assert_array_equal(np.asarray(lazy), VALUES.numpy(), strict=True)
    np.testing.assert_array_equal(np.asarray(lazy, np.float16), VALUES.numpy().astype(np.float16), strict=True)
    with pytest.raises(ValueError, match="leave copy=False out"):
        lazy.__array__(copy=False)
    assert lazy.tolist() == VALUES.tolist()
    assert torch.equal(torch.from_dlpack(lazy), VALUES)
    np.testing.assert_array_equal(np.from_dlpack(lazy), VALUES.numpy())


def test_it_pickles_and_is_copied_with_its_bytes(lazy):
    buffer = io.BytesIO()
    torch.save({"w": lazy}, buffer)
    assert len(buffer.getvalue()) < TENSOR.nbytes + 4000
    buffer.seek(0)
    for again in (torch.load(buffer)["w"], pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy), copy.copy(lazy)):
        assert isinstance(again, qt.GGUFTensor)
        assert repr(again) == repr(lazy)
        assert torch.equal(again + 0, VALUES)
    both = copy.deepcopy([lazy, lazy])
    assert both[0] is both[1]
    assert both[0].encoded.bytes.data_ptr() != lazy.encoded.bytes.data_ptr()


def test_gradients_pass_through_an_operation_with_it(lazy):
    x = torch.ones(2, 512, requires_grad=True)
    torch.nn.functional.linear(x, lazy).sum().backward()
    torch.testing.assert_close(x.grad, VALUES.sum(0).expand(2, 512))


def test_dequantize_keeps_its_dtype_and_takes_another(lazy):
    assert torch.equal(lazy.dequantize(), VALUES)
    assert torch.equal(lazy.dequantize(torch.float16), VALUES.half())
    assert torch.equal(qt.GGUFTensor(TENSOR, torch.float16).dequantize(), VALUES.half())
    out = torch.empty(40, 512, dtype=torch.bfloat16)
    assert lazy.dequantize(out=out) is out
    assert torch.equal(out, VALUES.bfloat16())


def test_its_quantized_tensor_has_its_bytes(lazy):
    np.testing.assert_array_equal(lazy.quantized.data, TENSOR.data)
    assert (lazy.quantized.name, lazy.quantized.type_name) == ("blk.0.x.weight", "Q4_K")
