"""What a run tells whoever listens: `quantize_file(progress=callable)` calls it with one of these."""

from dataclasses import dataclass

__all__ = ["Advanced", "Finished", "Started", "TensorDone"]


@dataclass(frozen=True, slots=True)
class Started:
    """The plan is made and the output is open. ``source_bytes``: tensor data that will be read."""

    plan: object
    source_bytes: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """A slab of rows of the tensor was written; ``source_bytes`` of it were read."""

    tensor: object
    source_bytes: int


@dataclass(frozen=True, slots=True)
class TensorDone:
    """All rows of a tensor (a TensorPlan) were written; ``index`` counts tensors from 1 in file order."""

    tensor: object
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The output stands under its name."""

    result: object
