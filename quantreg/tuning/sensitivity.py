"""How much the predictions suffer when tensors are wrong: KL divergence per output error, measured by running them."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.model import Model
from quantreg.names import layer_of
from quantreg.quality import kl_divergence, perplexity
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.calibration import Calibration
from quantreg.words import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cost", "Sensitivity", "groups_of"]

MOST_WORK = 5e13  # multiplications that all probes together may take: some ten minutes on two cores
THIRDS = 3  # parts of the model, by depth, whose tensors of one role may be probed together


PER_MINUTE = 5e12  # multiplications on two cores


@dataclass(frozen=True, slots=True)
class Cost:
    """What it takes to measure sensitivities by running the model: it is told before it is paid.

    - ``tensors``: how many of them the measurement is about. ``runs``: how often the model runs, on ``chunks`` chunks.
    - ``again``: whether this is around a solution of few bits, after a first measurement.
    - ``multiplications``: of all runs together.
    """

    tensors: int
    runs: int
    chunks: int
    again: bool
    multiplications: float

    @property
    def minutes(self) -> float:
        """About how many minutes this takes on two cores."""
        return self.multiplications / PER_MINUTE

    def __str__(self) -> str:
        what = "the types are probed again" if self.again else f"{count(self.tensors, 'tensor')} are probed"
        long = "less than a minute" if self.minutes < 1 else f"about {self.minutes:.0f} min"
        return (
            f"{what}: {'at most ' if self.again else ''}{count(self.runs, 'run')} of the model on "
            f"{count(self.chunks, 'chunk')}, {self.multiplications:.1e} multiplications, {long} on two cores"
        )


class Sensitivity:
    """Measures how far the predictions of changed models are from those of the model as it is.

    The text is the part of the calibration that decides, at most ``chunks`` chunks of it. A context manager: the
    predictions of the model wait in a temporary file.
    """

    def __init__(self, model: Model, calibration: Calibration, chunks: int | None = None) -> None:
        self._model = model
        self._folder = tempfile.TemporaryDirectory(prefix="quantreg-sensitivity-")
        self._base = Path(self._folder.name, "base.kld")
        tokens = calibration.part("decide")
        if len(tokens) < 2:  # a measurement takes two chunks
            tokens = np.concatenate([tokens, calibration.part("fit")])[:2]
        self._tokens: NDArray[np.int32] = tokens[: max(2, chunks or len(tokens))]
        self._floor: float | None = None

    def cost(self, tensors: Sequence[str], runs: int, again: bool = False) -> Cost:
        """What so many calls of `divergence` take, and what the first takes besides: two runs of the model as it is."""
        runs += 2 if self._floor is None else 0
        model = self._model
        unused = {"token_embd.weight"} - {model.output_name}  # rows of it are looked up
        each = self._tokens.size * sum(t.size for name, t in model.tensors.items() if t.ndim > 1 and name not in unused)
        return Cost(len(tensors), runs, len(self._tokens), again, float(runs * each))

    def __enter__(self) -> "Sensitivity":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def divergence(self, tensors: Mapping[str, QuantizedTensor]) -> float:
        """The mean KL divergence per token, in nats, when these tensors take the place of the model's own.

        Raises what `quantreg.perplexity` raises.
        """
        if self._floor is None:
            perplexity(self._model, self._tokens.reshape(-1), n_ctx=self._tokens.shape[1], save_base=self._base)
            # The file holds rounded predictions, which are at a small distance even from the model's own.
            self._floor = kl_divergence(self._model, self._base).kl_mean
        return max(0.0, kl_divergence(self._model.replaced(tensors), self._base).kl_mean - self._floor)


def groups_of(model: Model, calibration: Calibration, names: Sequence[str]) -> tuple[dict[str, list[str]], int]:
    """Return the tensors to probe together, by the name of their group, and how many chunks to probe them on.

    Each tensor is probed alone if that takes at most `MOST_WORK` multiplications. Otherwise those of one role in one
    third of the layers are probed together, on as many chunks as that allows and at least two. This is counted, not
    timed, so that it is the same on each computer.
    """
    chunks = max(2, len(calibration.part("decide")))
    a_chunk = calibration.tokens.shape[1] * sum(model.tensors[name].size for name in names)
    if a_chunk * chunks * len(names) <= MOST_WORK:
        return {name: [name] for name in names}, chunks
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = layer_of(name)
        third = "" if layer is None else f", part {min(THIRDS - 1, layer * THIRDS // model.n_layers) + 1} of {THIRDS}"
        groups.setdefault(re.sub(r"^blk\.\d+\.", "", name) + third, []).append(name)
    return groups, max(2, min(chunks, int(MOST_WORK / (a_chunk * len(groups)))))
