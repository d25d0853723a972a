"""What is done to a tensor between a checkpoint and GGUF.

A transform only says which value goes where: it changes a `Layout`, which describes a tensor as strides over the values
in the file. So one piece of code reads every transform in slabs of rows, and the same strides, used for writing, undo
it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from quantreg.checkpoints.layout import Layout
from quantreg.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Apart",
    "Behind",
    "Generated",
    "Grouped",
    "Heads",
    "MinusExp",
    "Mxfp4",
    "Pairs",
    "Plus",
    "Share",
    "Squeezed",
    "Tiled",
    "Transform",
    "Transposed",
    "arranged",
    "shape_before",
]


class Transform:
    """The base class of transforms. They are frozen dataclasses, so that they compare and pickle.

    `after` and `before` map shapes (NumPy order) from the checkpoint to GGUF and back, and `pieces` says where the
    values come from. If ``changes`` is true, the values are not those of the checkpoint: `changed` computes them, and
    `unchanged` is its inverse. Both take and return float32.
    """

    changes: ClassVar[bool] = False

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in GGUF of a tensor with this shape in the checkpoint.

        Raises CheckpointError if the shape does not fit.
        """
        return shape

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the checkpoint of a tensor with this shape in GGUF."""
        return shape

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """The layouts of the parts that follow each other in GGUF, of a tensor that lies in the checkpoint like this.

        ``whole`` has one axis for each of the tensor.
        """
        return (whole,)

    def changed(self, values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The values in GGUF of these values of the checkpoint."""
        return values

    def unchanged(self, values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The values in the checkpoint of these values of GGUF."""
        return values


@dataclass(frozen=True)
class Pairs(Transform):
    """Rows of queries or keys, in the order in which GGUF's ``llama`` rotates them: neighbours make a pair.

    In the checkpoint, row j of a head is rotated with row j + half. ``heads`` is the number of heads. Used for weights
    and for biases.
    """

    heads: int

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape."""
        if not shape or self.heads < 1 or shape[0] % (2 * self.heads):
            raise CheckpointError(f"{_rows(shape)} are not {self.heads} heads with an even number of rows")
        return shape

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout."""
        half = whole.shape[0] // self.heads // 2
        split = whole.split(0, (self.heads, 2, half))
        return (split.moved(0, 2, 1, *range(3, len(split.shape))),)


@dataclass(frozen=True)
class Apart(Transform):
    """Rows that are stored in groups of queries, keys and values: all queries first, then all keys, then all values.

    ``sizes`` are the numbers of rows of each kind in a group, and ``groups`` is the number of groups. ``kinds`` are the
    numbers of the kinds that are taken, where the others belong to another tensor. Used for weights and for biases.
    """

    groups: int
    sizes: tuple[int, ...]
    kinds: tuple[int, ...] = ()

    @property
    def _kinds(self) -> tuple[int, ...]:
        return self.kinds or tuple(range(len(self.sizes)))

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the rows that are taken."""
        if not shape or shape[0] != self.groups * sum(self.sizes):
            sizes = " + ".join(map(str, self.sizes))
            raise CheckpointError(f"{_rows(shape)} are not {self.groups} groups of {sizes}")
        return (self.groups * sum(self.sizes[kind] for kind in self._kinds), *shape[1:])

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of all rows."""
        return (self.groups * sum(self.sizes), *shape[1:])

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout for each kind."""
        split = whole.split(0, (self.groups, sum(self.sizes)))
        return tuple(split.taken(1, sum(self.sizes[:kind]), self.sizes[kind]) for kind in self._kinds)


@dataclass(frozen=True)
class Tiled(Transform):
    """Groups of heads along an axis, so that the first head of each group comes first, then the second of each.

    A checkpoint stores ``groups`` groups of ``of`` heads, each of ``size`` numbers. ``skip`` rows before them stay
    where they are, for the axis 0.
    """

    groups: int
    of: int
    size: int = 1
    axis: int = 0
    skip: int = 0

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape."""
        n = shape[_axis(shape, self.axis)]
        if n != self.skip + self.groups * self.of * self.size:
            wanted = f"{self.skip} and {self.groups} groups of {self.of} heads of {self.size}"
            raise CheckpointError(f"axis {self.axis} of the shape {list(shape)} is not {wanted}")
        return shape

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout, and one before it for the rows that stay."""
        axis = _axis(whole.shape, self.axis)
        heads = whole.taken(axis, self.skip, self.groups * self.of * self.size)
        split = heads.split(axis, (self.groups, self.of, self.size))
        tiled = split.moved(*range(axis), axis + 1, axis, *range(axis + 2, len(split.shape)))
        return (whole.taken(0, 0, self.skip), tiled) if self.skip else (tiled,)


@dataclass(frozen=True)
class Heads(Transform):
    """A part of each head of a matrix, along a new first axis: rows ``first`` to ``first + count`` of ``size``.

    ``heads`` is the number of heads. DeepSeek stores what makes keys and what makes values in one matrix like this.
    """

    heads: int
    size: int
    first: int
    count: int

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (heads, count, ...)."""
        if not shape or shape[0] != self.heads * self.size:
            raise CheckpointError(f"{_rows(shape)} are not {self.heads} heads of {self.size}")
        return (self.heads, self.count, *shape[1:])

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the matrix with all rows of all heads."""
        return (shape[0] * self.size, *shape[2:])

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout."""
        return (whole.split(0, (self.heads, self.size)).taken(1, self.first, self.count),)


@dataclass(frozen=True)
class Grouped(Transform):
    """The first axis divided into ``groups`` equal parts, along a new axis before it."""

    groups: int

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (groups, ..., ...)."""
        if not shape or self.groups < 1 or shape[0] % self.groups:
            raise CheckpointError(f"{_rows(shape)} are not {self.groups} equal groups")
        return (self.groups, shape[0] // self.groups, *shape[1:])

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape without the new axis."""
        return (shape[0] * shape[1], *shape[2:])

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout."""
        return (whole.split(0, (self.groups, whole.shape[0] // self.groups)),)


@dataclass(frozen=True)
class Share(Transform):
    """One of ``of`` equal parts of a tensor along an axis, the one with number ``index``.

    The parts follow each other or, with ``alternating``, take turns: part 0 has the indices 0, of, 2 * of and so on.
    ``axis`` counts from the end if it is negative.
    """

    index: int
    of: int
    axis: int = 0
    alternating: bool = False

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one part."""
        axis = _axis(shape, self.axis)
        if shape[axis] % self.of:
            raise CheckpointError(f"axis {axis} of the shape {list(shape)} is not {self.of} equal parts")
        return (*shape[:axis], shape[axis] // self.of, *shape[axis + 1 :])

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of all parts together."""
        axis = _axis(shape, self.axis)
        return (*shape[:axis], shape[axis] * self.of, *shape[axis + 1 :])

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout."""
        axis = _axis(whole.shape, self.axis)
        count = whole.shape[axis] // self.of
        if self.alternating:
            return (whole.taken(axis, self.index, count, self.of),)
        return (whole.taken(axis, self.index * count, count),)


@dataclass(frozen=True)
class Behind(Transform):
    """The first axis without its first ``skip`` indices, which GGUF does not store."""

    skip: int

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with fewer indices."""
        if not shape or shape[0] <= self.skip:
            raise CheckpointError(f"{_rows(shape)} are not more than {self.skip}")
        return (shape[0] - self.skip, *shape[1:])

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with all indices."""
        return (shape[0] + self.skip, *shape[1:])

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout."""
        return (whole.taken(0, self.skip, whole.shape[0] - self.skip),)


@dataclass(frozen=True)
class Transposed(Transform):
    """The last two axes exchanged, as for the ``Conv1D`` matrices of GPT-2, which are stored with inputs as rows."""

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with its last two numbers exchanged."""
        if len(shape) < 2:
            raise CheckpointError(f"the shape {list(shape)} is not that of a matrix")
        return (*shape[:-2], shape[-1], shape[-2])

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with its last two numbers exchanged."""
        return (*shape[:-2], shape[-1], shape[-2])

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout."""
        n = len(whole.shape)
        return (whole.moved(*range(n - 2), n - 1, n - 2),)


@dataclass(frozen=True)
class Squeezed(Transform):
    """An axis of length 1 left out. ``axis`` counts from the start."""

    axis: int

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape without the axis."""
        if self.axis >= len(shape) or shape[self.axis] != 1:
            raise CheckpointError(f"axis {self.axis} of the shape {list(shape)} is not of length 1")
        return (*shape[: self.axis], *shape[self.axis + 1 :])

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with the axis."""
        return (*shape[: self.axis], 1, *shape[self.axis :])

    def pieces(self, whole: Layout) -> tuple[Layout, ...]:
        """One layout."""
        return (whole.taken(self.axis, 0, 1).moved(*(a for a in range(len(whole.shape)) if a != self.axis)),)


@dataclass(frozen=True)
class Plus(Transform):
    """A number added to each value: 1 for Gemma's norms, which a checkpoint stores as their difference from 1."""

    plus: float = 1.0
    changes: ClassVar[bool] = True

    def changed(self, values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The sums."""
        return values + np.float32(self.plus)

    def unchanged(self, values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The differences."""
        return values - np.float32(self.plus)


@dataclass(frozen=True)
class MinusExp(Transform):
    """-exp(x) of each value x: how fast a state-space model forgets, of which a checkpoint stores the logarithm."""

    changes: ClassVar[bool] = True

    def changed(self, values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The powers, rounded correctly."""
        return (-np.exp(values.astype(np.float64))).astype(np.float32)

    def unchanged(self, values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """The logarithms. Raises CheckpointError for a value that is not negative."""
        if not (values < 0).all():
            raise CheckpointError("it holds numbers that are not negative, but expected -exp(x)")
        return np.log(-values.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class Mxfp4(Transform):
    """Blocks of MXFP4 that stay as they are: ``old`` of the row names the tensor of codes and that of scales.

    Codes are U8 (..., rows, blocks, 16) and scales U8 (..., rows, blocks): neighbours share a byte, the first in the
    low bits. GGUF's block is the scale, and then 16 bytes in which value j shares a byte with value j + 16. ``index``
    and ``of`` select every ``of``-th row from ``index`` on.
    """

    index: int = 0
    of: int = 1

    def after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the weights, from that of the codes."""
        if len(shape) < 3 or shape[-1] != 16 or shape[-3] % self.of:
            raise CheckpointError(f"the shape {list(shape)} is not that of MXFP4 codes, (..., rows, blocks, 16)")
        return (*shape[:-3], shape[-3] // self.of, shape[-2] * 32)

    def before(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the codes."""
        return (*shape[:-2], shape[-2] * self.of, shape[-1] // 32, 16)


@dataclass(frozen=True)
class Generated(Transform):
    """A tensor that follows from the configuration: a vector of float32 ``values``. Its row has no ``old``."""

    values: tuple[float, ...]


def arranged(shape: tuple[int, ...], how: tuple[Transform, ...]) -> tuple[tuple[int, ...], tuple[Layout, ...]]:
    """The shape of a tensor after some transforms, and where its values come from."""
    layouts: tuple[Layout, ...] = (Layout.whole(shape),)
    for step in how:
        if len(layouts) != 1 or len(layouts[0].shape) != len(shape):
            raise CheckpointError(f"{step} follows a transform that must be the last: correct the table of the plugin")
        shape = step.after(shape)
        layouts = step.pieces(layouts[0])
    return shape, layouts


def shape_before(how: tuple[Transform, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the checkpoint of a tensor with this shape in GGUF, after several transforms."""
    for transform in reversed(how):
        shape = transform.before(shape)
    return shape


def _axis(shape: tuple[int, ...], axis: int) -> int:
    if not -len(shape) <= axis < len(shape):
        raise CheckpointError(f"the shape {list(shape)} has no axis {axis}")
    return axis % len(shape)


def _rows(shape: tuple[int, ...]) -> str:
    return f"the {shape[0]} rows of the shape {list(shape)}" if shape else "a single number's rows"
