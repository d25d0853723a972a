"""The device that computes the large products, and the arrays that stay on it. Here it is NumPy, on the processors."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quantreg.products import matmul

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.products.weights import Weights

    Floats = NDArray[np.float32]

__all__ = ["CPU", "Device", "Errors", "Sums"]


class Sums(Protocol):
    """Sums of x^T x, or of left^T x, that grow on a device: one matrix for each expert."""

    def add(self, matrix: int, x: "Floats", left: "Floats | None" = None) -> None:
        """Add x^T x, or left^T x if the sums are not symmetric, to one of the matrices; both are (tokens, cols)."""

    def result(self) -> "Floats":
        """The sums, float32 (matrices, cols, cols). Nothing can be added afterwards."""


class Errors:
    """The errors of some rows of weights, column by column: float32 (cols, rows), which the caller changes.

    The matrices in its methods are those that `Device.keep` gave.
    """

    def __init__(self, values: "Floats") -> None:
        self._values = values

    def changed(self, first: int, last: int) -> None:
        """Say that the caller has changed the columns [first, last)."""

    def before(self, upper: Any, first: int, last: int) -> "Floats":
        """What the columns before ``first`` got wrong, as the columns [first, last) see it: float32 (columns, rows)."""
        found: Floats = upper[:first, first:last].T @ self._values[:first]
        return found

    def product(self, h: Any, first: int, last: int) -> "Floats":
        """h[first:last] times all errors: float32 (columns, rows)."""
        found: Floats = h[first:last] @ self._values
        return found


class Device:
    """NumPy on the processors. A subclass computes the same elsewhere; arrays come from there as NumPy arrays.

    - ``name``: what the user calls it. ``identity``: what the last bits of its results depend on.
    """

    name = "cpu"
    identity = "cpu"

    def multiply(
        self, x: "Floats", w: "Weights", expert: "NDArray[np.intp] | None" = None, threads: int | None = None
    ) -> "Floats":
        """The product of activations with encoded weights; see `quantreg.products.matmul`."""
        return matmul(x, w, threads=threads, expert=expert)

    def sums(self, matrices: int, cols: int, symmetric: bool = True) -> Sums | None:
        """Sums of x^T x, or others if they are not symmetric, on the device; or None if NumPy should add them up."""
        return None

    def inverse_factor(self, a: "NDArray[np.float64]") -> "Floats | None":
        """The upper triangular U, float32 (cols, cols), with a^-1 = U^T U; or None if the caller should compute it.

        Raises numpy.linalg.LinAlgError if ``a`` is not positive definite.
        """
        return None

    def keep(self, matrix: "Floats") -> Any:
        """A matrix for the methods of `Errors`. It stays on the device as long as the caller keeps the result."""
        return matrix

    def errors(self, values: "Floats") -> Errors:
        """Errors in an array of the caller, float32 (cols, rows). The device sees a column when it is told of it."""
        return Errors(values)

    def energy(self, x: "Floats", w: "Floats") -> float:
        """The sum of the squares of x @ w.T, for float32 (tokens, cols) and (rows, cols)."""
        y = x @ w.T
        return float(np.einsum("ij,ij->", y, y, dtype=np.float64))


CPU = Device()
