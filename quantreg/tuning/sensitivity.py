"""How much the predictions suffer when one tensor is wrong: KL divergence per output error, measured by running it."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.model import Model
from quantreg.quality import kl_divergence, perplexity
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.calibration import Calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Probe"]


class Probe:
    """Measures the KL divergence of changed models from the model as it is, on the tokens that decide.

    A context manager: the predictions of the model wait in a temporary file.
    """

    def __init__(self, model: Model, calibration: Calibration) -> None:
        self._model, self._calibration = model, calibration
        self._folder = tempfile.TemporaryDirectory(prefix="quantreg-probe-")
        self._base = Path(self._folder.name, "base.kld")
        tokens = calibration.part("decide")
        self._n_ctx = tokens.shape[1]
        if len(tokens) < 2:  # a measurement takes two chunks
            tokens = np.concatenate([tokens, calibration.part("report"), calibration.part("fit")])[:2]
        self._ids: NDArray[np.int32] = tokens.reshape(-1)
        perplexity(model, self._ids, n_ctx=self._n_ctx, save_base=self._base)

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def divergence(self, tensors: Mapping[str, QuantizedTensor]) -> float:
        """The mean KL divergence per token, in nats, when these tensors take the place of the model's own."""
        return kl_divergence(self._model.replaced(tensors), self._base).kl_mean
