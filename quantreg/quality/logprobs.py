"""From logits to what is counted: the log-probability of the true token, and the divergence from a base.

All arithmetic over the vocabulary is float32, summed in float64, in blocks of rows that stay in the cache. Each block
is worked on by one thread, so that no result depends on how many there are.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantreg.dispatch import cpu_count
from quantreg.quality.base import HEAD, row_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scores", "encoded", "scored"]

_BLOCK = 1 << 16  # logits that are worked on at once
_FLOOR = np.float32(-16)  # log-probabilities of the base at or below it do not count, in ggml's tool as here
_LEVELS = np.float32(65535)


class Scores(NamedTuple):
    """What is known of each counted prediction, as arrays of the same length.

    - ``nll``: the negative log-probability of the true token, in nats. float64.
    - ``nll_base``: that of the base model, ``kl``: the KL divergence from it, ``same``: whether both have the same most
      probable token. Empty without a base.
    """

    nll: "NDArray[np.float64]"
    nll_base: "NDArray[np.float64]"
    kl: "NDArray[np.float64]"
    same: "NDArray[np.bool_]"

    def part(self, start: int, stop: int) -> "Scores":
        """Return the scores of some of the predictions."""
        return Scores(self.nll[start:stop], self.nll_base[start:stop], self.kl[start:stop], self.same[start:stop])

    def followed_by(self, other: "Scores") -> "Scores":
        """Return these scores and others as one."""
        return Scores(
            np.concatenate([self.nll, other.nll]),
            np.concatenate([self.nll_base, other.nll_base]),
            np.concatenate([self.kl, other.kl]),
            np.concatenate([self.same, other.same]),
        )


def scored(
    logits: "NDArray[np.float32]",
    targets: "NDArray[np.int32]",
    *,
    base: "NDArray[Any] | None" = None,
    threads: int | None = None,
) -> Scores:
    """Score the predictions in ``logits``, of shape (rows, vocabulary), of which ``targets`` are the true tokens.

    ``base`` holds the logits of the base model, or rows of a base file.
    """
    rows, cols = logits.shape
    found = rows if base is not None else 0
    scores = Scores(np.empty(rows), np.empty(found), np.empty(found), np.empty(found, np.bool_))

    def work(start: int, stop: int, scratch: "NDArray[np.float32]", more: "NDArray[np.float32]") -> None:
        block, true, each = logits[start:stop], targets[start:stop], np.arange(stop - start)
        top, total = _normalizer(block, scratch)
        scores.nll[start:stop] = total - block[each, true]
        if base is None:
            return
        stored = base.dtype == np.uint16
        theirs = base[start:stop]
        if stored:
            numbers = np.ascontiguousarray(theirs[:, :HEAD]).view(np.float32)
            codes = theirs[:, HEAD : HEAD + cols]
            base_top = codes.argmax(axis=1)
            np.multiply(codes, numbers[:, :1], out=scratch)
            scratch += numbers[:, 1:]
            scores.nll_base[start:stop] = -scratch[each, true]
        else:
            base_top, base_total = _normalizer(theirs, scratch)
            scores.nll_base[start:stop] = base_total - theirs[each, true]
            np.subtract(theirs, base_total.astype(np.float32)[:, None], out=scratch)
        scores.same[start:stop] = base_top == top
        np.exp(scratch, out=more)
        more *= scratch > _FLOOR
        if stored:
            scratch -= block
            scratch += total.astype(np.float32)[:, None]
        else:  # so that equal logits give exactly 0
            np.subtract(theirs, block, out=scratch)
            scratch += (total - base_total).astype(np.float32)[:, None]
        scratch *= more
        scratch.sum(axis=1, dtype=np.float64, out=scores.kl[start:stop])

    _in_blocks(work, rows, cols, threads)
    return scores


def encoded(logits: "NDArray[np.float32]", threads: int | None = None) -> "NDArray[np.uint16]":
    """Return the log-probabilities of ``logits`` as rows of a base file.

    A row covers 16 nats below the most probable token; whatever is less probable gets code 0.
    """
    rows, cols = logits.shape
    result = np.zeros((rows, row_codes(cols)), np.uint16)

    def work(start: int, stop: int, scratch: "NDArray[np.float32]", _: "NDArray[np.float32]") -> None:
        block, each = logits[start:stop], np.arange(stop - start)
        top, total = _normalizer(block, scratch)
        highest = block[each, top]
        lowest = np.maximum(block[each, block.argmin(axis=1)], highest + _FLOOR)
        numbers = np.empty((stop - start, 2), np.float32)
        numbers[:, 0] = (highest - lowest) / _LEVELS
        numbers[:, 1] = lowest - highest - (total - highest).astype(np.float32)
        result[start:stop, :HEAD] = numbers.view(np.uint16)
        inverse = np.divide(1, numbers[:, 0], out=np.zeros(stop - start, np.float32), where=numbers[:, 0] > 0)
        np.subtract(block, lowest[:, None], out=scratch)
        scratch *= inverse[:, None]
        np.rint(scratch, out=scratch)
        np.clip(scratch, 0, _LEVELS, out=scratch)
        result[start:stop, HEAD : HEAD + cols] = scratch

    _in_blocks(work, rows, cols, threads)
    return result


def _normalizer(
    block: "NDArray[np.float32]", scratch: "NDArray[np.float32]"
) -> "tuple[NDArray[np.intp], NDArray[np.float64]]":
    """Return the most probable token and the logarithm of the sum of exponentials (float64) of each row."""
    top = block.argmax(axis=1)
    highest = block[np.arange(len(block)), top]
    np.subtract(block, highest[:, None], out=scratch)
    np.exp(scratch, out=scratch)
    return top, highest + np.log(scratch.sum(axis=1, dtype=np.float64))


def _in_blocks(
    work: "Callable[[int, int, NDArray[np.float32], NDArray[np.float32]], None]",
    rows: int,
    cols: int,
    threads: int | None,
) -> None:
    """Call ``work`` with ranges of rows that cover all of them, and scratch space of the same shape."""
    step = max(1, _BLOCK // cols)
    parts = min(threads or cpu_count(), -(-rows // step))
    edges = [min(rows, step * (-(-rows // step) * part // max(1, parts))) for part in range(parts + 1)]

    def run(part: int) -> None:
        space = np.empty((2, step, cols), np.float32)
        with np.errstate(all="ignore"):  # logits that are not finite are found in the results
            for start in range(edges[part], edges[part + 1], step):
                stop = min(start + step, edges[part + 1])
                work(start, stop, space[0, : stop - start], space[1, : stop - start])

    if parts <= 1:
        for part in range(parts):
            run(part)
        return
    with ThreadPoolExecutor(parts) as pool:
        for _ in pool.map(run, range(parts)):
            pass
