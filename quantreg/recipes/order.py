"""The order of the tensors in the output, and the layers that are left out of it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from quantreg.errors import PlanError
from quantreg.names import layer_of
from quantreg.words import named

if TYPE_CHECKING:
    from quantreg.recipes.plans import TensorPlan

__all__ = ["arrange", "dropped_dims", "trimmed"]

_BLOCK = re.compile(r"blk\.(\d+)\.", re.ASCII)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def trimmed(dims: Iterable[int]) -> tuple[int, ...]:
    """Dimensions in ne order without trailing ones; at least one dimension remains."""
    dims = tuple(dims) or (1,)
    while len(dims) > 1 and dims[-1] == 1:
        dims = dims[:-1]
    return dims


def dropped_dims(tensors: "Sequence[TensorPlan]") -> Iterator[str]:
    """Say how many tensors of a plan lose dimensions of 1."""
    dropped = [tensor for tensor in tensors if tensor.dims == trimmed(tensor.source.dims) != tensor.source.dims]
    if dropped:
        first = dropped[0]
        tensors_lose = "1 tensor loses" if len(dropped) == 1 else f"{len(dropped)} tensors lose"
        yield (
            f"{tensors_lose} dimensions of 1, as in llama-quantize ({named([tensor.name for tensor in dropped])}: "
            f"{first.source.shape} becomes {first.shape}): keep_dims (--keep-dims) keeps them"
        )


def arrange(tensors: Iterable[N], prune: Sequence[int]) -> tuple[list[tuple[str, N]], int | None]:
    """Sort tensors by layer and then by the bytes of their names: (name in the output, tensor) for each.

    Tensors outside the layers come first. The layers in ``prune`` are left out and the layers after them are
    renumbered. The second result is the number of layers left, or None if nothing is pruned. Raises PlanError for a
    layer that the model does not have.
    """
    ordered = [(tensor.name, tensor) for tensor in sorted(tensors, key=lambda tensor: _layer_and_name(tensor.name))]
    if not prune:
        return ordered, None
    present = {int(found[1]) for name, _ in ordered if (found := _BLOCK.search(name))}
    for layer in prune:
        if layer not in present:
            known = f"{min(present)} to {max(present)}" if present else "none"
            raise PlanError(f"cannot prune layer {layer}: the layers of the model are {known}")
    first, following = min(prune), 0
    new_numbers: dict[int, int] = {}
    kept = []
    for name, tensor in ordered:
        found = _BLOCK.search(name)
        if found:
            layer = int(found[1])
            if layer in prune:
                continue
            if layer not in new_numbers:
                new_numbers[layer] = layer if layer < first else following
                following = new_numbers[layer] + 1
            name = f"{name[: found.start(1)]}{new_numbers[layer]}{name[found.end(1) :]}"
        kept.append((name, tensor))
    return kept, following


def _layer_and_name(name: str) -> tuple[int, bytes]:
    layer = layer_of(name)
    return -1 if layer is None else layer, name.encode("utf-8", "surrogateescape")
