"""The tensors of a GGUF file as a state dict of torch."""

import mmap
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from quantreg.errors import GGUFFormatError
from quantreg.files import File
from quantreg.gguf import TensorInfo
from quantreg.registry import types
from quantreg.torch.encoded import Encoded, plain_dtype, torch_view
from quantreg.torch.lazy import GGUFTensor

if TYPE_CHECKING:
    from quantreg.parameters import Fitted

__all__ = ["StateDict", "from_gguf"]


class StateDict(dict[str, torch.Tensor]):
    """The tensors of a GGUF file by name, in file order, for `torch.nn.Module.load_state_dict` or `quantreg.write`.

    ``metadata`` is that of the file: see `quantreg.gguf.Metadata`.
    """

    metadata: Mapping[str, Any]


def from_gguf(path: str | bytes | os.PathLike[str], *, dtype: torch.dtype | None = None) -> StateDict:
    """Read a GGUF model as a state dict. Its tensors have the names and shapes of the file, and stay in the file.

    - ``path``: a file, or any shard of a split model.
    - ``dtype``: the dtype that quantized tensors have when they are decoded; by default float32.

    F32, F16, BF16, F64 and I8 to I64 tensors are ordinary torch tensors on the mapped file, without a copy. The mapping
    is private: a change in place does not reach the file. Do not shorten the file while tensors are in use. All other
    tensors are `GGUFTensor`, whose bytes are mapped likewise; they are decoded whenever they are used.

    Raises GGUFFormatError for a damaged file, and OSError if the file cannot be read.
    """
    with File(path) as model:
        if not model.headers:
            raise GGUFFormatError(
                "bad-magic",
                "this is a safetensors model: read it with safetensors.torch.load_file",
                path=os.fsdecode(path),
            )
        found = StateDict()
        found.metadata = model.metadata
        for header, name in zip(model.headers, model.paths, strict=True):
            mapped = _mapped(name, header.file_size)
            for info in header.tensors:
                start = header.data_offset + info.offset
                data = _bytes(mapped, start, info.nbytes)
                shape = info.shape
                plain = plain_dtype(info.type_name) if info.known else None
                if plain is not None:
                    found[info.name] = _plain(data, plain).reshape(shape)
                    continue
                shaped = data.reshape(*shape[:-1], info.row_bytes) if info.known else data
                parameters = _parameters(model, info) if info.known else None
                encoded = Encoded(info.name, shape, info.type_id, info.type_name, shaped, parameters)
                found[info.name] = GGUFTensor(encoded, dtype)
    return found


def _parameters(model: File, info: TensorInfo) -> "Callable[[], Fitted | None] | None":
    """A function that reads what the type fitted to a tensor, or None if the type fits nothing."""
    qtype = types.get(info.type_id)
    if qtype is None or qtype.parameters is None:
        return None
    tensor = model[info.name]
    return lambda: tensor.parameters


def _mapped(path: str, size: int) -> mmap.mmap:
    """A file, mapped so that a change is private to this process."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if len(mapped) < size:
        raise GGUFFormatError(
            "truncated", f"the file had {size} bytes and now has {len(mapped)}: wait until nothing writes it, and open "
            "it again", found=len(mapped), limit=size, path=path,
        )  # fmt: skip
    return mapped


def _bytes(mapped: mmap.mmap, start: int, count: int) -> torch.Tensor:
    """Some bytes of a mapped file, in a storage of their own, so that torch.save saves no more than these."""
    if not count:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(mapped, dtype=torch.uint8, offset=start, count=count)


def _plain(data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes as plain numbers, without a copy unless the file placed them where no such number may begin."""
    if sys.byteorder == "big":
        data = torch_view(data.reshape(-1, dtype.itemsize).numpy()[:, ::-1]).reshape(-1)
    elif data.data_ptr() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype)
