"""Where the values of a tensor lie: strides over the values in a file."""

from typing import NamedTuple

__all__ = ["Layout"]


class Layout(NamedTuple):
    """Where the values of a tensor lie: the value at index (a, b, ...) is number start + a * strides[0] + ... .

    ``shape`` is in NumPy order, and strides count values. `merged` axes that follow each other without a gap are one
    axis of the tensor: ``shape`` may have more axes than the tensor itself, in the same order.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "Layout":
        """The layout of a tensor as it lies in a file: row after row."""
        strides, step = [], 1
        for n in reversed(shape):
            strides.append(step)
            step *= n
        return cls(shape, tuple(reversed(strides)))

    def split(self, axis: int, sizes: tuple[int, ...]) -> "Layout":
        """Replace an axis by several, the first of which is the slowest."""
        steps, step = [], self.strides[axis]
        for n in reversed(sizes):
            steps.append(step)
            step *= n
        after = axis + 1
        shape = (*self.shape[:axis], *sizes, *self.shape[after:])
        return Layout(shape, (*self.strides[:axis], *reversed(steps), *self.strides[after:]), self.start)

    def moved(self, *axes: int) -> "Layout":
        """The axes in another order."""
        return Layout(tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes), self.start)

    def taken(self, axis: int, first: int, count: int, step: int = 1) -> "Layout":
        """Some of the indices of an axis: ``count`` of them from ``first`` on, each ``step`` after the one before."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis], strides[axis] = count, strides[axis] * step
        return Layout(tuple(shape), tuple(strides), self.start + first * self.strides[axis])
