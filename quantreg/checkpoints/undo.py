"""The way back: the values of a GGUF tensor put where they came from in the checkpoint."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.checkpoints.transforms import Layout, Transform, arranged, shape_before
from quantreg.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["put", "shape_before"]


def put(new: "NDArray[Any]", how: tuple[Transform, ...], old: "NDArray[Any]") -> None:
    """Write the values of a GGUF tensor into an array that stands for a tensor of the checkpoint.

    ``old`` is C-contiguous and has the shape `shape_before` (``how``, ``new.shape``). Where ``how`` takes only a share
    of a tensor, the rest of ``old`` stays as it is, so that several GGUF tensors can fill one array. What ``how`` adds
    is subtracted, in the dtype of ``new``. Raises CheckpointError if the shapes do not fit.
    """
    shape, layouts = arranged(old.shape, how)
    if shape != new.shape:
        raise CheckpointError(f"a tensor of the shape {list(new.shape)} does not fit into {list(old.shape)}")
    plus = sum(step.plus for step in how)
    flat = (new - new.dtype.type(plus) if plus else new).reshape(-1)
    done = 0
    for layout in layouts:
        n = math.prod(layout.shape)
        _view(old, layout)[...] = flat[done : done + n].reshape(layout.shape)
        done += n


def _view(array: "NDArray[Any]", layout: Layout) -> "NDArray[Any]":
    """A writable view of the values at which a layout points."""
    if not math.prod(layout.shape):
        return np.empty(layout.shape, array.dtype)
    flat = array.reshape(-1)[layout.start :]
    assert flat.base is not None  # a view, and not a copy
    return np.lib.stride_tricks.as_strided(flat, layout.shape, [step * array.itemsize for step in layout.strides])
