"""The calibration text: tokens in chunks, in three parts that must not be mixed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from quantreg.inference.model import Model
from quantreg.quality.chunks import Chunks, token_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.quality.chunks import TextOrIds

__all__ = ["Calibration", "Part"]

Part = Literal["fit", "decide", "report"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Chunks of tokens that show what a model is used for.

    - ``tokens``: int32 (chunks, tokens of a chunk), each as it goes into the model.
    - ``decide``, ``report``: the first chunks of the parts that decide and report; those before fit.

    The parts are contiguous, so that no chunk has its neighbour in another part: 80 % fit the codes, 10 % decide what
    is kept, and 10 % report how good the result is, which decides nothing.
    """

    tokens: "NDArray[np.int32]"
    decide: int
    report: int

    @classmethod
    def cut(cls, model: Model, text: "TextOrIds", n_ctx: int = 512, chunks: int | None = None) -> "Calibration":
        """Cut a text, or token ids, into chunks of ``n_ctx`` tokens, at most ``chunks`` of them.

        Raises QualityError if the text is shorter than two chunks, and what `Model.tokenize` raises.
        """
        cut = Chunks.cut(model, token_ids(model, text), n_ctx, chunks)
        total = len(cut)
        decide = max(1, min(total - 1, round(0.8 * total)))
        report = min(total - 1, max(decide + 1, round(0.9 * total))) if total > 2 else total
        return cls(cut.inputs(0, total), decide, report)

    @classmethod
    def joined(cls, several: "Sequence[Calibration]") -> "Calibration":
        """One calibration of several, of chunks of the same length. Each part holds that part of all of them."""
        if len(several) == 1:
            return several[0]
        fit, decide, report = ([one.part(name) for one in several] for name in ("fit", "decide", "report"))
        tokens = np.concatenate([*fit, *decide, *report])
        first = sum(map(len, fit))
        return cls(tokens, first, first + sum(map(len, decide)))

    def part(self, name: Part) -> "NDArray[np.int32]":
        """The chunks of one part: int32 (chunks, tokens). That which reports may be empty in a very short text."""
        spans = {"fit": (0, self.decide), "decide": (self.decide, self.report), "report": (self.report, None)}
        first, last = spans[name]
        return self.tokens[first:last]

    def batches(self, name: Part, size: int) -> "Iterator[NDArray[np.int32]]":
        """Several chunks of a part at a time, about ``size`` tokens."""
        chunks = self.part(name)
        step = max(1, size // self.tokens.shape[1])
        for first in range(0, len(chunks), step):
            yield chunks[first : first + step]
