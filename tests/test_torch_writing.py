"""quantreg.write, quantize and the DLPack protocol with torch tensors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import torch_models as models  # noqa: E402

import quantreg  # noqa: E402
import quantreg.torch as qt  # noqa: E402
from quantreg import ShapeError  # noqa: E402

METADATA = {"general.architecture": "llama"}
DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip
KINDS = {
    "contiguous": lambda x: x,
    "parameter": lambda x: torch.nn.Parameter(x, requires_grad=x.is_floating_point()),
    "transposed": lambda x: x.T.contiguous().T,
    "every other column": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda x: x[:1].expand(4, -1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_dict_is_written_with_its_dtypes(dtype, kind, tmp_path):
    x = KINDS[kind]((torch.arange(24).reshape(4, 6) - 11).to(dtype))
    quantreg.write(tmp_path / "m.gguf", METADATA, {"w": x})
    assert quantreg.open(tmp_path / "m.gguf")["w"].type_name == DTYPES[dtype]
    found = qt.from_gguf(tmp_path / "m.gguf")["w"]
    assert found.dtype == dtype
    assert torch.equal(found, x)


def test_bits_that_only_bfloat16_has_are_kept(tmp_path):
    x = torch.tensor([0x7F7F, 0x0001, 0x8000, 0x7F80, 0x3F81], dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    quantreg.write(tmp_path / "m.gguf", METADATA, {"w": x})
    assert torch.equal(qt.from_gguf(tmp_path / "m.gguf")["w"].view(torch.int16), x.view(torch.int16))


def test_a_state_dict_of_a_file_is_written_as_it_was(tmp_path):
    tensors = {f"{name}.weight": models.tensor_of(models.W, name, f"{name}.weight") for name in models.ENCODABLE}
    quantreg.write(tmp_path / "a.gguf", METADATA, tensors)
    state = qt.from_gguf(tmp_path / "a.gguf")
    quantreg.write(tmp_path / "b.gguf", state.metadata, state)
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()
    quantreg.write(tmp_path / "c.gguf", state.metadata, ((name, tensor) for name, tensor in state.items()))
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.empty(2, 2, device="meta"), "w is a torch tensor on the device meta: load its weights first"),
        (torch.zeros(2, dtype=torch.uint8), "cannot write an array of uint8"),
        (torch.zeros(2, dtype=torch.bool), "cannot write an array of bool"),
        (torch.zeros(2, dtype=torch.complex64), "cannot write an array of complex64"),
        (torch.zeros(2, dtype=torch.float8_e5m2), "cannot write an array of float8_e5m2: convert it to"),
        (torch.eye(3).to_sparse(), "w is a torch tensor of torch.float32 that has no NumPy array"),
    ],
    ids=str,
)
def test_a_tensor_that_cannot_be_written_is_refused_before_a_file_appears(tensor, message, tmp_path):
    with pytest.raises(ShapeError, match=message):
        quantreg.write(tmp_path / "m.gguf", METADATA, {"w": tensor})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
def test_quantize_takes_torchs_own_tensors(dtype):
    x = torch.from_numpy(models.W).to(dtype)
    np.testing.assert_array_equal(quantreg.quantize(x, "Q8_0"), quantreg.quantize(x.float().numpy(), "Q8_0"))


# --- DLPack ---


@pytest.mark.parametrize("name", ["F32", "F16", "F64", "I8", "I16", "I32", "I64"])
def test_plain_numbers_are_exchanged_by_dlpack(name):
    tensor = models.tensor_of(models.W, name)
    own = {"F16": np.float16}.get(name, tensor.dtype)
    found = torch.from_dlpack(tensor)
    np.testing.assert_array_equal(found.numpy(), tensor.dequantize().astype(own), strict=True)
    assert np.shares_memory(found.numpy(), tensor.data)
    np.testing.assert_array_equal(np.from_dlpack(tensor), found.numpy(), strict=True)


def test_a_mapped_tensor_is_copied_for_who_might_write_to_it(tmp_path):
    quantreg.write(tmp_path / "m.gguf", METADATA, {"w": models.W})
    tensor = quantreg.open(tmp_path / "m.gguf")["w"]
    torch.from_dlpack(tensor).zero_()  # torch ignores that the memory is read-only
    np.testing.assert_array_equal(tensor.dequantize(), models.W)
    shared = np.from_dlpack(tensor, copy=False)
    assert np.shares_memory(shared, tensor.data)
    assert not shared.flags.writeable


def test_an_encoded_tensor_is_decoded_for_dlpack():
    tensor = models.tensor_of(models.W, "Q4_K")
    np.testing.assert_array_equal(torch.from_dlpack(tensor).numpy(), tensor.dequantize())
    with pytest.raises(BufferError, match="Q4_K is decoded, which makes a new array: leave copy=False out"):
        np.from_dlpack(tensor, copy=False)
