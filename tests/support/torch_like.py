"""A stand-in for torch tensors: what quantreg uses of them, with torch's own refusals. torch itself takes gigabytes."""

import numpy as np


class Dtype:
    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"torch.{self.name}"


float32, float16, bfloat16, float64 = (Dtype(name) for name in ("float32", "float16", "bfloat16", "float64"))
uint8, int32, float8, quint8 = (Dtype(name) for name in ("uint8", "int32", "float8_e4m3fn", "quint8"))


class Tensor:
    """Values in a NumPy array; those of a bfloat16 or float8 tensor in float32."""

    def __init__(self, values, dtype=float32, device="cpu", requires_grad=False):
        self.values, self.dtype, self.device, self.requires_grad = values, dtype, device, requires_grad

    @property
    def shape(self):
        return self.values.shape

    def detach(self):
        return Tensor(self.values, self.dtype, self.device)

    def float(self):
        return Tensor(self.values.astype(np.float32), float32, self.device, self.requires_grad)

    def cpu(self):
        return Tensor(self.values, self.dtype, "cpu", self.requires_grad)

    def numpy(self):
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if self.device != "cpu":
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        if self.dtype not in (float32, float16, float64, uint8, int32):
            raise TypeError(f"Got unsupported ScalarType {self.dtype.name}")
        return self.values

    def __array__(self, dtype=None, copy=None):
        return self.numpy() if dtype is None else self.numpy().astype(dtype)


class Parameter(Tensor):
    def __init__(self, values, dtype=float32):
        super().__init__(values, dtype, requires_grad=True)


def tensor(values, dtype=float32, **keywords):
    """A tensor of these values, rounded to bfloat16 if that is the dtype."""
    values = np.asarray(values, np.float32)
    if dtype is bfloat16:
        values = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    elif dtype in (float16, float64, int32, uint8):
        values = values.astype(dtype.name)
    return Tensor(values, dtype, **keywords)
