"""Error feedback: what the codes of one column get wrong, the columns to its right make up for (GPTQ).

Frantar et al. 2022, arXiv:2210.17323. The loss is (w - q) H (w - q)^T for each row w of a matrix and its decoded row q,
where H = X^T X over the inputs X of the matrix: how far the products change. Scales come from the ordinary encoder,
with the importance that it takes, block by block and after the feedback of the blocks before. Then the codes are
chosen unit by unit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.devices import CPU, Device, Errors
from quantreg.tuning.triangular import inverse_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.tuning.choice import Blocks, Chooser
    from quantreg.tuning.triangular import Workers

    Floats = NDArray[np.float32]
    Encode = Callable[..., NDArray[np.uint8]]
    Decode = Callable[[NDArray[np.uint8]], Floats]

__all__ = ["Factor", "factor", "feedback", "loss"]

GROUP = 256  # columns after which errors are sent to all columns to the right, by one product
MINI = 32  # the same within a block
LOCAL_DAMPING = 0.03  # of the mean diagonal, when a block is encoded again: without it, the targets lie too far off
ENCODED_AGAIN = (0, 2)  # the sweeps that choose the scales of each block again
REFITTED = (3,)  # the sweeps before and after which scales are fitted to the codes that stand


@dataclass(frozen=True, slots=True)
class Factor:
    """What error feedback needs of H: ``upper``, float32 (cols, cols), with H^-1 = upper^T upper; and H itself.

    ``ridge`` is what the sweeps add to the diagonal of H, so that they do not move weights whose inputs say little.
    If H cannot be factored, ``reason`` says why, and there is no feedback. ``device`` computes what errors do to all
    columns.
    """

    upper: "Floats"
    h: "Floats"
    reason: str | None = None
    ridge: float = 0.0
    device: Device = CPU
    _there: list[tuple[Any, Any]] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock)
    _blocks: "dict[tuple[int, int], Floats]" = field(default_factory=dict)

    def there(self) -> tuple[Any, Any]:
        """Both matrices on the device. They are sent when the first thread asks: workers elsewhere never do."""
        with self._lock:
            if not self._there:
                self._there.append((self.device.keep(self.upper), self.device.keep(self.h)))
            return self._there[0]

    def upper_of(self, first: int, last: int) -> "Floats":
        """The factor of the inverse of H among these columns alone, damped once more. It is computed once."""
        found = self._blocks.get((first, last))
        if found is None:
            local = self.h[first:last, first:last] + np.float32(self.ridge) * np.eye(last - first, dtype=np.float32)
            found = self._blocks[first, last] = factor(local, LOCAL_DAMPING).upper
        return found


def factor(
    h: "NDArray[np.floating]", damping: float = 0.01, workers: "Workers | None" = None, device: Device = CPU
) -> Factor:
    """Factor the inverse of H = X^T X, float (cols, cols), for `feedback`.

    ``damping`` times the mean of the diagonal is added to the diagonal, so that H can be inverted. A column that is
    always zero gets the mean. ``workers(work, items)`` calls work with each item, on threads or not.
    ``device`` serves `feedback`, and factors H if it can.
    """
    f = np.asarray(h, np.float32)
    none = np.empty((0, 0), np.float32)
    if not np.isfinite(f).all():
        return Factor(none, f, "inputs are so large that their squares overflow", device=device)
    before = np.diagonal(h).astype(np.float64)
    mean = float(before.mean())
    dead = before <= 0
    added = 0.0
    while True:
        added += damping * mean if mean > 0 else 1.0
        a = np.array(h, np.float64)
        np.einsum("ii->i", a)[:] = np.where(dead, mean if mean > 0 else 1.0, before + added)
        try:
            upper = device.inverse_factor(a)
            if upper is None:
                upper = inverse_factor(a, workers).astype(np.float32)
        except np.linalg.LinAlgError:  # rounding made H lose what little the smallest eigenvalue had
            damping *= 10
            if damping > 1:
                return Factor(none, f, "the products of inputs are no covariance", device=device)
            continue
        ridge = damping * mean if mean > 0 else 1.0
        return Factor(upper, f, ridge=ridge, device=device)


def feedback(
    w: "Floats", f: Factor, encode: "Encode", decode: "Decode", chooser: "Chooser | None", block: int, sweeps: int = 4
) -> "NDArray[np.uint8]":
    """Encode rows w, float32 (rows, cols), with error feedback: uint8 (rows, cols / block, bytes of a block).

    ``encode(x, first=, last=)`` encodes columns [first, last) of the rows, which have become x, as ever; ``decode``
    decodes blocks. Without a ``chooser`` the codes stay what the encoder chose, and errors go from block to block.
    ``sweeps`` times afterwards each block is changed, given all others, in the rows where that lowers the loss: it is
    encoded again in the sweeps ``ENCODED_AGAIN``, and each of its units gets the best codes in the others. In the
    sweeps ``REFITTED`` its scales are fitted to the codes, too.
    """
    rows, cols = w.shape
    # A column of all rows lies together: the work goes from column to column.
    errors, decoded = np.empty((2, cols, rows), np.float32)
    all_errors = f.device.errors(errors)
    upper_there, h_there = f.there()
    coded = [np.empty(0, np.uint8)] * (cols // block)
    for first, last in _groups(cols, block):
        left = np.ascontiguousarray(w[:, first:last].T)
        if first:
            left -= all_errors.before(upper_there, first, last)
        for a in range(first, last, block):
            b, near, sent = a + block, left[a - first : a - first + block], errors[a : a + block]
            coded[a // block] = encode(near.T, first=a, last=b)
            if chooser is None:
                decoded[a:b] = decode(coded[a // block]).T
                sent[:] = np.linalg.solve(f.upper[a:b, a:b].T.astype(np.float64), near - decoded[a:b])
            else:
                blocks = chooser.blocks(coded[a // block])
                _one_block(near, decoded[a:b], sent, chooser.triangle(f.upper, a), blocks, chooser)
                coded[a // block] = blocks.bytes()
            if b < last:
                left[b - first :] -= f.upper[a:b, b:last].T @ sent
        all_errors.changed(first, last)
    if chooser is not None and sweeps:
        np.subtract(w.T, decoded, out=errors)
        all_errors.changed(0, cols)
        _descend(errors, all_errors, h_there, decoded, f, coded, chooser, sweeps, encode)
    return np.stack(coded, axis=1)


def _groups(cols: int, block: int) -> "list[tuple[int, int]]":
    """The columns [first, last) of each group: whole blocks, among which errors go at once."""
    width = max(block, GROUP // block * block)
    return [(first, min(first + width, cols)) for first in range(0, cols, width)]


def _one_block(
    left: "Floats", decoded: "Floats", errors: "Floats", u: "Floats", blocks: "Blocks", chooser: "Chooser"
) -> None:
    """Choose the codes of one block, unit by unit, and send the errors to the units to the right.

    ``left`` holds the targets, float32 (columns, rows); ``decoded`` and ``errors`` get what they became, and the errors
    that columns outside of the block make up for. ``u`` is the triangle of the block in the order of the units.
    """
    order = chooser.columns
    x = left[order]
    out = np.empty_like(x)
    sent = np.empty_like(x)
    mini = 0
    for index, span in enumerate(chooser.spans):
        target = x[span]
        corner = u[span, span]
        if len(corner) == 1:
            q = blocks.choose(index, target)
            np.subtract(target, q, out=sent[span])
            sent[span] /= corner[0, 0]
        else:
            inverse = np.linalg.inv(corner)
            metric = (inverse @ inverse.T).astype(np.float32)
            q = blocks.choose(index, target, np.ascontiguousarray(np.diag(metric)), metric)
            np.matmul(inverse.T, target - q, out=sent[span])
        out[span] = q
        at = span.stop
        end = min(mini + MINI, len(x))
        if at < end:
            x[at:end] -= u[span, at:end].T * sent[span] if len(corner) == 1 else u[span, at:end].T @ sent[span]
        else:
            x[at:] -= u[mini:at, at:].T @ sent[mini:at]
            mini = at
    decoded[order] = out
    errors[order] = sent


def _descend(
    errors: "Floats",
    all_errors: Errors,
    h_there: Any,
    decoded: "Floats",
    f: Factor,
    coded: "list[NDArray[np.uint8]]",
    chooser: "Chooser",
    sweeps: int,
    encode: "Encode",
) -> None:
    """Choose each unit again given all others, where that lowers the loss, several times. Changes ``coded``.

    ``decoded``, and ``errors``, how far the weights are from it, are float32 (columns, rows). Both are changed.
    ``all_errors`` and ``h_there`` are the same errors and H on the device.
    """
    block, h, ridge = chooser.block_size, f.h, np.float32(f.ridge)
    diagonal = ridge * np.eye(block, dtype=np.float32)
    for sweep in range(sweeps):
        whole = sweep in ENCODED_AGAIN
        # Whole blocks go in the order of the columns, single units in their own.
        order = np.arange(block) if whole else chooser.columns
        for first, last in _groups(len(decoded), block):
            gradient = all_errors.product(h_there, first, last)
            gradient += ridge * errors[first:last]
            for a in range(first, last, block):
                b, index = a + block, a // block
                q, g = decoded[a:b][order], gradient[a - first : b - first][order]
                local = h[a:b, a:b][np.ix_(order, order)] + diagonal
                if whole:
                    again = partial(encode, first=a, last=b)
                    coded[index], change = _encode_again(q, g, local, coded[index], chooser, again, f.upper_of(a, b))
                    q += change
                elif sweep in REFITTED:
                    coded[index], change = _fitted(q, g, local, coded[index], chooser)
                    q += change
                else:
                    blocks = chooser.blocks(coded[index])
                    q, change = _again(q, g, local, blocks, chooser)
                    coded[index] = blocks.bytes()
                decoded[a + order] = q
                errors[a + order] -= change
                if b < last:
                    gradient[b - first :] -= h[b:last, a + order] @ change
            all_errors.changed(first, last)


def _encode_again(
    q: "Floats",
    g: "Floats",
    local: "Floats",
    encoded: "NDArray[np.uint8]",
    chooser: "Chooser",
    encode: "Callable[[Floats], NDArray[np.uint8]]",
    upper: "Floats",
) -> "tuple[NDArray[np.uint8], Floats]":
    """Encode a block again, given the others, where that lowers the loss: the blocks, and how much they changed.

    ``upper`` is the factor of ``local``, damped once more.
    """
    left = q + upper.T @ (upper @ g)  # the best values, if the block could have any
    blocks = chooser.blocks(encode(left.T))
    new, sent = np.empty_like(q), np.empty_like(q)
    _one_block(left, new, sent, chooser.triangle(upper, 0), blocks, chooser)
    change = new - q
    lower = np.einsum("ir,ir->r", change, local @ change - 2 * g) < 0
    change[:, ~lower] = 0
    return np.where(lower[:, None], blocks.bytes(), encoded), change


def _fitted(
    q: "Floats", g: "Floats", local: "Floats", encoded: "NDArray[np.uint8]", chooser: "Chooser"
) -> "tuple[NDArray[np.uint8], Floats]":
    """Fit the scales of a block, choose its units again, and fit them again: the blocks, and how much they changed."""
    encoded, first = chooser.scales.refit(q, g, local, encoded)
    blocks = chooser.blocks(encoded)
    new, second = _again(q + first, g - local @ first, local, blocks, chooser)
    encoded, third = chooser.scales.refit(new, g - local @ (first + second), local, blocks.bytes())
    return encoded, first + second + third


def _again(q: "Floats", g: "Floats", local: "Floats", blocks: "Blocks", chooser: "Chooser") -> "tuple[Floats, Floats]":
    """Choose the units of one block again: what they decode to, and how much that changed. Changes ``q`` and ``g``."""
    change = np.zeros_like(q)
    mini = 0
    for index, span in enumerate(chooser.spans):
        own = local[span, span]
        old = q[span]
        if len(own) == 1:
            new = blocks.choose(index, old + g[span] * (1 / max(own[0, 0], np.float32(1e-30))))
        else:
            weights = np.ascontiguousarray(np.diag(own))
            ridge = np.float32(1e-6) * max(weights.max(), np.float32(1e-30))
            shift = np.linalg.inv(own + np.eye(len(own), dtype=np.float32) * ridge) @ g[span]
            new = blocks.choose(index, old + shift, weights, own)
        d = np.subtract(new, old, out=change[span])
        q[span] = new
        at = span.stop
        end = min(mini + MINI, len(q))
        if at < end:
            g[at:end] -= local[at:end, span] * d if len(own) == 1 else local[at:end, span] @ d
        else:
            g[at:] -= local[at:, mini:at] @ change[mini:at]
            mini = at
    return q, change


def loss(w: "Floats", decoded: "Floats", h: "Floats") -> float:
    """The loss of all rows, relative to that of zeros: the share of the energy of the products that is wrong."""
    e = (w - decoded).astype(np.float32)
    return float(np.einsum("ij,ij->", e @ h, e, dtype=np.float64) / np.einsum("ij,ij->", w @ h, w, dtype=np.float64))
