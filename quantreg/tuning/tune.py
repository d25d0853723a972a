"""Encode the matrices of a model with error feedback, layer by layer."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.qtype import QuantType
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.embeddings import encode_embeddings
from quantreg.tuning.encoding import encode_matrix, fitted
from quantreg.tuning.feedback import Factor, factor
from quantreg.tuning.statistics import Inputs, importance_of, layers
from quantreg.tuning.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["Tuned", "tune"]

EMBEDDINGS = ("token_embd.weight",)  # whose rows go into the residual stream

NO_TOKEN = "no token of the text gets there"


@dataclass(frozen=True, slots=True)
class Tuned:
    """What error feedback did to one tensor.

    - ``name``, ``type``: of the tensor, and what it becomes.
    - ``plain``, ``tuned``: the error of its outputs on held-out tokens, relative to them, with the ordinary bytes and
      with feedback. ``tuned`` is None if there was no feedback.
    - ``kept``: how many of its matrices keep the feedback, ``matrices``: of how many.
    - ``reason``: why it, or some of its matrices, have the ordinary bytes, or None.
    """

    name: str
    type: str
    plain: float
    tuned: float | None
    kept: int
    matrices: int
    reason: str | None = None


def tune(model: Model, calibration: Calibration, wanted: Mapping[str, QuantType], store: Store) -> Iterator[Tuned]:
    """Encode tensors with feedback and put them into the store; yield what became of each.

    ``wanted`` maps names of tensors to the types that they become. A tensor that is in the store already is left as it
    is. Embeddings come last. Other tensors that no matrix product reads are not touched.
    """
    for _, inputs, same in layers(model, calibration):
        for leader, shared in inputs.items():
            names = [name for name, first in same.items() if first == leader and name in wanted and name not in store]
            names = [name for name in names if model.tensors[name].ndim in (2, 3)]
            if not names:
                continue
            with one_blas_thread():
                yield from _group(model, names, shared, wanted, store)
    for name in EMBEDDINGS:
        if name in wanted and name not in store and name != model.output_name:
            one = encode_embeddings(model, calibration, name, wanted[name])
            done = Tuned(name, wanted[name].name, one.plain, one.tuned, int(one.kept), 1, one.reason)
            store.put(name, one.tensor.data, one.tensor.parameters, asdict(done))
            yield done


def _group(
    model: Model, names: list[str], shared: Inputs, wanted: Mapping[str, QuantType], store: Store
) -> Iterator[Tuned]:
    """Encode the tensors that share their inputs: one factor for each matrix serves all of them."""
    tensors = {name: model.tensors[name] for name in names}
    count = len(shared.h)
    encoded: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names}
    figures: dict[str, list[tuple[float, float | None, bool, str | None]]] = {name: [] for name in names}
    parameters = {
        name: fitted(tensor.dequantize(), wanted[name], importance_of(shared.h[0], int(shared.count[0])), name)
        for name, tensor in tensors.items()
        if wanted[name].parameters is not None
    }
    together = shared.together()
    for matrix in range(count):
        h = shared.shrunk(matrix, together)
        factored: Factor = factor(h, device=model.device) if shared.count[matrix] else Factor(h, h, NO_TOKEN)
        importance = importance_of(h, int(shared.count[matrix]))
        for name, tensor in tensors.items():
            w = (tensor[matrix] if tensor.ndim == 3 else tensor.dequantize()).astype(np.float32, copy=False)
            one = encode_matrix(
                np.ascontiguousarray(w),
                wanted[name],
                name,
                factored,
                importance,
                shared.to_decide(matrix),
                parameters.get(name),
                TensorContext(name, tensor.shape, model.metadata, matrix),
                model.workers,
            )
            encoded[name].append(one.data)
            figures[name].append((one.plain, one.tuned, one.kept, one.reason))
    for name in names:
        done = _summary(name, wanted[name], figures[name])
        store.put(name, np.stack(encoded[name]), parameters.get(name), asdict(done))
        yield done


def _summary(name: str, qtype: QuantType, figures: "list[tuple[float, float | None, bool, str | None]]") -> Tuned:
    plain = float(np.mean([before for before, *_ in figures]))
    after = [before if tuned is None or not kept else tuned for before, tuned, kept, _ in figures]
    kept = sum(kept for _, _, kept, _ in figures)
    none = all(tuned is None for _, tuned, _, _ in figures)
    reason = next(why for *_, why in figures) if not kept else None
    missed = sum(why == NO_TOKEN for *_, why in figures)
    if missed:
        reason = (
            NO_TOKEN if missed == len(figures) else f"no token of the text gets to {missed} of {len(figures)} matrices"
        )
    return Tuned(name, qtype.name, plain, None if none else float(np.mean(after)), kept, len(figures), reason)
