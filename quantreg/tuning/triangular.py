"""The triangular factor of an inverse, in place and in strips that threads share.

LAPACK would do it in one call, but then in one thread, and with three more matrices of the same size.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

Workers = Callable[[Callable[[Any], None], list[Any]], None]

__all__ = ["Workers", "inverse_factor"]

STRIP = 256  # columns, and rows, of a piece of work; the pieces, and so the sums, do not depend on the threads


def inverse_factor(a: "Doubles", workers: "Workers | None" = None) -> "Doubles":
    """Replace a symmetric positive definite matrix by the upper triangular U with A^-1 = U^T U, and return it.

    ``a`` is float64 (n, n), of which the upper triangle is read. ``workers(work, items)`` calls ``work`` with each
    item, on threads or not. Raises numpy.linalg.LinAlgError if it is not positive definite; ``a`` is then spoilt.
    """
    n = len(a)
    cuts = [(first, min(first + STRIP, n)) for first in range(0, n, STRIP)]

    def each(work: "Callable[[tuple[int, int]], None]", items: "list[tuple[int, int]]") -> None:
        if workers is None:
            for item in items:
                work(item)
        else:
            workers(work, items)

    # A = R R^T with R upper triangular, from the last columns to the first ones.
    for first, last in reversed(cuts):

        def subtract(rows: tuple[int, int], first: int = first, last: int = last) -> None:
            a[slice(*rows), first:last] -= a[slice(*rows), last:] @ a[first:last, last:].T

        above = [cut for cut in cuts if cut[0] < first]
        if last < n:
            each(subtract, [*above, (first, last)])
        corner = _corner(a[first:last, first:last])
        a[first:last, first:last] = corner
        inverse = np.triu(np.linalg.inv(corner)).T

        def divide(rows: tuple[int, int], first: int = first, last: int = last, by: "Doubles" = inverse) -> None:
            a[slice(*rows), first:last] = a[slice(*rows), first:last] @ by

        each(divide, above)
    # U = R^-1, from the first columns to the last ones: those to the left are done.
    for first, last in cuts:
        above = [cut for cut in cuts if cut[0] < first]
        corner = np.triu(np.linalg.inv(a[first:last, first:last]))
        right = a[:first, first:last].copy()

        def invert(rows: tuple[int, int], first: int = first, last: int = last, right: "Doubles" = right) -> None:
            found = a[slice(*rows), rows[0] : first] @ right[rows[0] :]
            a[slice(*rows), first:last] = found @ -corner  # noqa: B023

        each(invert, above)
        a[first:last, first:last] = corner
        a[last:, first:last] = 0
    return a


def _corner(a: "Doubles") -> "Doubles":
    """R upper triangular with R R^T = A, for a small matrix."""
    # With J the reversal of order, J A J = L L^T gives A = R R^T with R = J L J. Only the lower triangle of J A J is
    # read, which is the upper one of A.
    return np.ascontiguousarray(np.linalg.cholesky(a[::-1, ::-1])[::-1, ::-1])
