"""How many bytes of a target are left for the tensors whose types are open."""

from quantreg import gguf
from quantreg.errors import PlanError
from quantreg.jobs.rehearsal import Rehearsal
from quantreg.tuning.search import Budget

__all__ = ["budget_for"]


def budget_for(rehearsal: Rehearsal, *, size: int | None = None, bpw: float | None = None) -> Budget:
    """The budget for the free tensors of a plan, for a file of so many bytes or of so many bits per weight.

    ``size`` counts the whole file, ``bpw`` the tensor data over all weights. Give one of them. Raises PlanError for
    values that no file can have, and for a plan of several files.
    """
    planned = rehearsal.plan
    if (size is None) == (bpw is None):
        raise PlanError("give a target as a size or as bits per weight: one of them")
    free = [tensor.bytes for tensor in planned.tensors if tensor.name in planned.free]
    if bpw is not None:
        if not 0 < bpw <= 32:
            raise PlanError(f"the target is {bpw!r} bits per weight: expected a number above 0, such as 4.5")
        return Budget(int(bpw * planned.n_elements / 8), planned.bytes - sum(free), 1, "the tensor data")
    if len(rehearsal.files) != 1:
        raise PlanError("a target size is for one file: leave out the options that split the output")
    assert size is not None
    (file,) = rehearsal.files
    stated = rehearsal.source.metadata.get("general.alignment")
    alignment = int(stated) if stated else gguf.DEFAULT_ALIGNMENT
    return Budget(size, file.size - sum(gguf.padded(nbytes, alignment) for nbytes in free), alignment, "the file")
