"""A device of torch, such as a graphics card: products, H and its factor, and updates of later columns."""

import sys
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from quantreg.devices.device import Device, Errors
from quantreg.devices.resident import Resident
from quantreg.dispatch import cpu_count, decode_slab
from quantreg.errors import DeviceError
from quantreg.parameters import TensorContext
from quantreg.products import crew, matmul
from quantreg.products.weights import prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from quantreg.products.weights import Prepared, Weights

    Floats = NDArray[np.float32]

__all__ = ["TorchDevice"]

Found = TypeVar("Found")

FEW = 8  # rows of activations that are not worth sending a matrix for: NumPy multiplies them
SHARE = 0.8  # of the memory of the device; the rest is for products on their way and for other programs
OF_SUMS = 0.5  # of the budget that H of all matrices of a layer may take
STRIP = 2048  # columns of H in one product: its lower part is not computed
TILE = 1 << 26  # weights that become float32 at a time for a product
SLAB = 1 << 20  # weights that one thread decodes at a time
FACTOR_COPIES = 4  # float64 matrices that exist at once while H is factored
PINNED = 1 << 26  # bytes of a result that the processors get in memory that the device writes to directly
STORED = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}  # are sent as they are


class _Exact:
    """Keeps products of float32 free of TF32 and bfloat16 while any thread is inside, whatever the program has set.

    torch has this setting for the whole process, so it gets its old value back when the last thread leaves.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before: list[str] = []
        places = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
        self._places: list[Any] = [place for place in places if hasattr(place, "fp32_precision")]  # torch 2.9

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = self._get()
                self._set(["ieee"] * len(self._places) or ["highest"])
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._before)

    def _get(self) -> list[str]:
        return [place.fp32_precision for place in self._places] or [torch.get_float32_matmul_precision()]

    def _set(self, values: list[str]) -> None:
        for place, value in zip(self._places, values, strict=False):
            place.fp32_precision = value
        if not self._places:
            torch.set_float32_matmul_precision(values[0])


EXACT = _Exact()


class TorchDevice(Device):
    """A device of torch. Its arithmetic is float32, and float64 to factor H.

    ``memory`` is how many bytes of weights, H and the like are there at once, by default four fifths of what the device
    has. Products on their way come on top.
    """

    def __init__(self, where: str, name: str | None = None, memory: int | None = None) -> None:
        self.name: str = name or where
        self._where = torch.device(where)
        self._lately: tuple[Floats, Floats, torch.Tensor] | None = None
        if self._where.type == "cpu":
            torch.set_num_threads(1)  # feedback has threads of its own
        self.resident: Resident = Resident(int(SHARE * _memory(self._where)) if memory is None else memory)
        card = torch.cuda.get_device_name(self._where) if self._where.type == "cuda" else self.name
        self.identity: str = f"{card}, torch {torch.__version__}"

    # ---- products with weights ----

    def multiply(
        self, x: "Floats", w: "Weights", expert: "NDArray[np.intp] | None" = None, threads: int | None = None
    ) -> "Floats":
        rows = np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])
        if expert is None:
            if len(rows) < FEW:
                return matmul(x, w, threads=threads)
            return self._product(self._sent(rows), w, 0, threads).reshape(*x.shape[:-1], -1)
        ids = expert.reshape(-1)
        out = np.empty((len(ids), w.shape[-2]), np.float32)
        source = np.arange(len(ids)) // max(1, len(ids) // max(1, len(rows)))
        for matrix in np.unique(ids):
            places = np.flatnonzero(ids == matrix)
            if len(places) < FEW:
                few = np.full(len(places), matrix)
                out[places] = matmul(rows[source[places]], w, threads=threads, expert=few)
            else:
                picked = self._sent(rows)[torch.from_numpy(source[places]).to(self._where)]
                out[places] = self._product(picked, w, int(matrix), threads)
        return out.reshape(*expert.shape, -1)

    def _product(self, x: torch.Tensor, w: "Weights", matrix: int, threads: int | None) -> "Floats":
        weights = self._weights(prepared(w), w.name, matrix, threads)
        step = max(1, TILE // weights.shape[1])

        def multiply(first: int) -> "Floats":
            with EXACT:
                found: Floats = _numpy(x @ weights[first : first + step].float().T)
            return found

        if step >= len(weights):
            return self._run(partial(multiply, 0))
        out = np.empty((len(x), len(weights)), np.float32)
        for first in range(0, len(weights), step):
            out[:, first : first + step] = self._run(partial(multiply, first))
        return out

    def _sent(self, rows: "Floats") -> torch.Tensor:
        """Activations on the device. Those of the last product are still there: several matrices share their input.

        A graph may change an array in place between two products, so that some of its values are compared.
        """
        sample = rows.reshape(-1)[:: max(1, min(997, rows.size // 64))].copy()
        if self._lately is not None:
            known, seen, tensor = self._lately  # this keeps the memory of the array from being given to another
            same = known.shape == rows.shape and known.ctypes.data == rows.ctypes.data
            if same and np.array_equal(seen, sample, equal_nan=True):
                return tensor
        tensor = self._run(lambda: torch.from_numpy(_writable(rows)).to(self._where, copy=True))
        self._lately = rows, sample, tensor
        return tensor

    def _weights(self, w: "Prepared", name: str, matrix: int, threads: int | None) -> torch.Tensor:
        data = w.data[matrix]
        dtype = STORED.get(w.qtype.name, torch.float32) if sys.byteorder == "little" else torch.float32
        key = data.__array_interface__["data"][0], w.shape[-2:], w.qtype.type_id, id(w.parameters), matrix
        layer = ".".join(name.split(".")[:2]) if name.startswith("blk.") else name
        nbytes = w.shape[-2] * w.shape[-1] * dtype.itemsize

        def send() -> torch.Tensor:
            if w.qtype.name in STORED and sys.byteorder == "little":
                stored = torch.from_numpy(np.array(data, order="C"))
                return self._run(lambda: stored.to(self._where, copy=True).view(dtype))
            decoded = torch.from_numpy(_decoded(w, name, matrix, threads))
            return self._run(lambda: decoded.to(self._where, copy=True))

        found: torch.Tensor = self.resident.weights(key, w.source, w.parameters, layer, nbytes, send)
        return found

    # ---- error feedback ----

    def sums(self, matrices: int, cols: int, symmetric: bool = True) -> "_TorchSums | None":
        nbytes = matrices * cols * cols * 4
        if self.resident.held() + nbytes > OF_SUMS * self.resident.budget:
            return None
        zeros = self._other(nbytes, lambda: torch.zeros(matrices, cols, cols, device=self._where))
        return _TorchSums(zeros, self, symmetric)

    def inverse_factor(self, a: "NDArray[np.float64]") -> "Floats | None":
        nbytes = FACTOR_COPIES * a.nbytes
        if self._where.type == "mps" or nbytes + self.resident.held() > self.resident.budget:  # no float64; no room
            return None
        self.resident.room(nbytes)

        def work() -> "Floats":
            # With J the reversal of order, J A J = L L^T gives A = R R^T, where R = J L J is upper triangular, and so
            # is R^-1.
            there = torch.from_numpy(a).to(self._where, copy=True).flip(0, 1)
            lower, info = torch.linalg.cholesky_ex(there)
            del there
            if int(info):
                raise np.linalg.LinAlgError("the matrix is not positive definite")
            return _numpy(_inverse(lower.flip(0, 1)).float())

        return self._run(work)

    def keep(self, matrix: "Floats") -> torch.Tensor:
        return self._other(matrix.nbytes, lambda: torch.from_numpy(_writable(matrix)).to(self._where, copy=True))

    def errors(self, values: "Floats") -> "_TorchErrors":
        return _TorchErrors(values, self._other(values.nbytes, lambda: torch.zeros(values.shape, device=self._where)))

    def energy(self, x: "Floats", w: "Floats") -> float:
        def work() -> float:
            with EXACT:
                y = self._sent(np.ascontiguousarray(x)) @ torch.from_numpy(_writable(w)).to(self._where).T
            if self._where.type == "mps":
                return float(_numpy(y.square().sum(dim=1)).sum(dtype=np.float64))
            return float(y.double().square().sum())

        self.resident.room(4 * (x.size + w.size + 3 * len(x) * len(w)))
        return self._run(work)

    # ---- memory ----

    def _other(self, nbytes: int, make: "Callable[[], torch.Tensor]") -> torch.Tensor:
        found: torch.Tensor = self.resident.other(nbytes, lambda: self._run(make))
        return found

    def _run(self, work: "Callable[[], Found]") -> Found:
        """Call work, and say what to do if there is no memory for it."""
        try:
            return work()
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.name} has no memory left: end other programs that use it, give shorter chunks (-c), or leave "
                f"--device out ({str(error).splitlines()[0]:.120})"
            ) from error


class _TorchSums:
    """Sums of x^T x on the device, of which only the upper part is filled as they grow; or of left^T x."""

    def __init__(self, sums: torch.Tensor, device: TorchDevice, symmetric: bool) -> None:
        self._sums, self._device, self._symmetric = sums, device, symmetric

    def add(self, matrix: int, x: "Floats", left: "Floats | None" = None) -> None:
        there = self._device._sent(np.ascontiguousarray(x))
        other = there if left is None else self._device._run(lambda: torch.from_numpy(left).to(there.device, copy=True))
        h = self._sums[matrix]
        with EXACT:
            for first in range(0, len(h), STRIP):
                last, start = min(first + STRIP, len(h)), first if self._symmetric else 0
                h[first:last, start:].addmm_(other[:, first:last].T, there[:, start:])

    def result(self) -> "Floats":
        self._device.resident.room(2 * self._sums[0].nbytes)
        if self._symmetric:
            for h in self._sums:
                h.copy_(h.triu() + h.triu(1).T)
        return _numpy(self._sums)


class _TorchErrors(Errors):
    """The same on the device."""

    def __init__(self, values: "Floats", there: torch.Tensor) -> None:
        super().__init__(values)
        self._there = there

    def changed(self, first: int, last: int) -> None:
        self._there[first:last].copy_(torch.from_numpy(self._values[first:last]))

    def before(self, upper: torch.Tensor, first: int, last: int) -> "Floats":
        with EXACT:
            return _numpy(upper[:first, first:last].T @ self._there[:first])

    def product(self, h: torch.Tensor, first: int, last: int) -> "Floats":
        with EXACT:
            return _numpy(h[first:last] @ self._there)


def _inverse(upper: torch.Tensor) -> torch.Tensor:
    """The inverse of an upper triangular matrix, by halves, so that nearly all of the work is products."""
    n = len(upper)
    if n <= 128:
        return torch.linalg.inv(upper).triu()
    out = torch.zeros_like(upper)
    half = n // 2
    a, d = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    out[:half, :half], out[half:, half:] = a, d
    out[:half, half:] = -(a @ (upper[:half, half:] @ d))
    return out


def _decoded(w: "Prepared", name: str, matrix: int, threads: int | None) -> "Floats":
    """The weights of one matrix, float32 (rows, cols)."""
    data, cols = w.data[matrix], w.shape[-1]
    codec = w.codec or w.qtype.codec_for(w.parameters, TensorContext(name, w.shape, expert=matrix))
    out = np.empty((len(data), cols), np.float32)
    step = max(1, SLAB // cols)

    def decode(first: int) -> None:
        part = slice(first, first + step)
        decode_slab(w.qtype, codec, np.ascontiguousarray(data[part]), out[part], tensor=name)

    crew.run(decode, range(0, len(data), step), threads or cpu_count())
    return out


def _writable(x: "Floats") -> "Floats":
    """The array, or a copy if it is read-only or has gaps: torch takes it for one that it may change."""
    return x if x.flags.writeable and x.flags.c_contiguous else np.array(x, order="C")


def _numpy(x: torch.Tensor) -> Any:
    """The values as an array on the processors that shares no memory with the device."""
    if x.device.type == "cpu":
        return x.numpy().copy()
    if x.device.type == "cuda" and x.nbytes <= PINNED:  # torch keeps such memory for the next result
        return torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=True).copy_(x).numpy()
    return x.cpu().numpy()


def _memory(where: torch.device) -> int:
    """Bytes of memory of a device."""
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[1])
    if where.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return 2 << 30
