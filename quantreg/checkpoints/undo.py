"""The way back: the values of a GGUF tensor put where they came from in the checkpoint."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.checkpoints.layout import Layout
from quantreg.checkpoints.transforms import Transform, arranged, shape_before
from quantreg.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["put", "put_some", "shape_before"]


def put(new: "NDArray[Any]", how: tuple[Transform, ...], old: "NDArray[Any]") -> None:
    """Write the values of a GGUF tensor into an array that stands for a tensor of the checkpoint.

    ``old`` is C-contiguous and has the shape `shape_before` (``how``, ``new.shape``). Where ``how`` takes only a share
    of a tensor, the rest of ``old`` stays as it is, so that several GGUF tensors can fill one array. Changes of values
    are undone. Raises CheckpointError if the shapes do not fit.
    """
    shape, layouts = arranged(old.shape, how)
    if shape != new.shape:
        raise CheckpointError(f"a tensor of the shape {list(new.shape)} does not fit into {list(old.shape)}")
    for step in reversed(how):
        new = step.unchanged(new)
    flat = new.reshape(-1)
    done = 0
    for layout in layouts:
        n = math.prod(layout.shape)
        _view(old, layout)[...] = flat[done : done + n].reshape(layout.shape)
        done += n


def put_some(values: "NDArray[Any]", first: int, layout: Layout, old: "NDArray[Any]") -> None:
    """Write some of the values of a layout, those from number ``first`` on, into an array as `put` does.

    ``values`` is one-dimensional, and has the dtype of ``old``.
    """
    done = 0
    for part in _parts(layout, first, first + len(values)):
        n = math.prod(part.shape)
        _view(old, part)[...] = values[done : done + n].reshape(part.shape)
        done += n


def _parts(layout: Layout, first: int, last: int) -> Iterator[Layout]:
    """Yield the layouts of the values from number ``first`` to ``last``, in order."""
    if first >= last:
        return
    inner = math.prod(layout.shape[1:])
    top, below = divmod(first, inner)
    if below or last - first < inner:  # a part of one row, or the end of one
        end = min(inner, below + last - first)
        rest = Layout(layout.shape[1:], layout.strides[1:], layout.start + top * layout.strides[0])
        yield from _parts(rest, below, end)
        yield from _parts(layout, first + end - below, last)
        return
    rows = (last - first) // inner
    yield layout.taken(0, top, rows)
    yield from _parts(layout, first + rows * inner, last)


def _view(array: "NDArray[Any]", layout: Layout) -> "NDArray[Any]":
    """A writable view of the values at which a layout points."""
    if not math.prod(layout.shape):
        return np.empty(layout.shape, array.dtype)
    flat = array.reshape(-1)[layout.start :]
    assert flat.base is not None  # a view, and not a copy
    return np.lib.stride_tricks.as_strided(flat, layout.shape, [step * array.itemsize for step in layout.strides])
