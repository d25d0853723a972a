"""Error feedback: what the codes of one column get wrong, the columns to its right make up for (GPTQ).

Frantar et al. 2022, arXiv:2210.17323. The loss is (w - q) H (w - q)^T for each row w of a matrix and its decoded row q,
where H = X^T X over the inputs X of the matrix: how far the products change. Scales come from the ordinary encoder,
with the importance that it takes, block by block and after the feedback of the blocks before. Then the codes are
chosen unit by unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.tuning.choice import Chooser

    Floats = NDArray[np.float32]
    Encode = Callable[[Floats, int, int], NDArray[np.uint8]]
    Decode = Callable[[NDArray[np.uint8]], Floats]

__all__ = ["Factor", "factor", "feedback", "loss"]

GROUP = 256  # columns after which errors are sent to all columns to the right, by one product


@dataclass(frozen=True, slots=True)
class Factor:
    """What error feedback needs of H: ``upper``, float32 (cols, cols), with H^-1 = upper^T upper; and H itself."""

    upper: "Floats"
    h: "Floats"


def factor(h: "NDArray[np.floating]", damping: float = 0.01) -> Factor:
    """Factor the inverse of H = X^T X, float (cols, cols), for `feedback`.

    ``damping`` times the mean of the diagonal is added to the diagonal, so that H can be inverted. A column that is
    always zero gets 1.
    """
    a = np.array(h, np.float64)
    diagonal = np.einsum("ii->i", a)
    mean = float(diagonal.mean())
    dead = diagonal == 0
    diagonal += damping * mean if mean else 1.0
    diagonal[dead] = 1.0
    # With J the reversal of order, J H J = L L^T gives H = R R^T, where R = J L J is upper triangular, and so is R^-1.
    lower = np.linalg.cholesky(a[::-1, ::-1])
    return Factor(_inverse(np.ascontiguousarray(lower[::-1, ::-1])).astype(np.float32), np.asarray(h, np.float32))


def _inverse(upper: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """The inverse of an upper triangular matrix, by halves, so that nearly all of the work is products."""
    n = len(upper)
    if n <= 128:
        return np.triu(np.linalg.inv(upper))
    out = np.zeros_like(upper)
    half = n // 2
    a, d = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    out[:half, :half], out[half:, half:] = a, d
    out[:half, half:] = -(a @ (upper[:half, half:] @ d))
    return out


def feedback(
    w: "Floats", f: Factor, encode: "Encode", decode: "Decode", chooser: "Chooser | None", block: int, sweeps: int = 2
) -> "NDArray[np.uint8]":
    """Encode rows w, float32 (rows, cols), with error feedback: uint8 (rows, cols / block, bytes of a block).

    ``encode(x, first, last)`` encodes columns [first, last) of the rows, which have become x, ordinarily; ``decode`` decodes
    blocks. Without a ``chooser`` the codes stay what the encoder chose, and errors go from block to block.
    ``sweeps`` times afterwards, each unit gets the best codes given all others.
    """
    rows, cols = w.shape
    left = w.copy()
    coded = [np.empty(0, np.uint8)] * (cols // block)
    decoded = np.empty_like(w)
    width = max(block, GROUP // block * block)
    for first in range(0, cols, width):
        last = min(first + width, cols)
        errors = np.empty((rows, last - first), np.float32)
        for a in range(first, last, block):
            b = a + block
            coded[a // block] = encode(left[:, a:b], a, b)
            if chooser is None:
                decoded[:, a:b] = decode(coded[a // block])
                local = np.linalg.solve(f.upper[a:b, a:b].T.astype(np.float64), (left[:, a:b] - decoded[:, a:b]).T)
                errors[:, a - first : b - first] = local.T
            else:
                blocks = chooser.blocks(coded[a // block])
                _one_block(left, decoded, errors, f.upper, blocks, chooser, a, first)
                coded[a // block] = blocks.bytes()
            left[:, b:last] -= errors[:, a - first : b - first] @ f.upper[a:b, b:last]
        left[:, last:] -= errors @ f.upper[first:last, last:]
    if chooser is not None:
        for _ in range(sweeps):
            coded = descend(w, decoded, f.h, coded, chooser, block)
    return np.stack(coded, axis=1)


def _one_block(left, decoded, errors, upper, blocks, chooser, start, origin):
    """Choose the codes of one block, unit by unit, and send the errors to the units to the right."""
    order = chooser.columns
    # The units need not be neighbours: their columns are put in the order of the units.
    x = left[:, start : start + chooser.block_size][:, order]
    u = chooser.triangle(upper, start)
    at = 0
    out = np.empty_like(x)
    sent = np.empty_like(x)
    mini = 0
    for index, unit in enumerate(chooser.units):
        n = len(unit.columns)
        target = x[:, at : at + n]
        if n == 1:
            q = blocks.choose(index, target)
            e = (target - q) / u[at, at]
        else:
            corner = u[at : at + n, at : at + n]
            inverse = np.linalg.inv(corner)
            metric = (inverse @ inverse.T).astype(np.float32)
            q = blocks.choose(index, target, np.ascontiguousarray(np.diag(metric)), metric)
            e = (target - q) @ inverse
        out[:, at : at + n] = q
        sent[:, at : at + n] = e
        at += n
        end = min(mini + 32, x.shape[1])
        if at < end:
            x[:, at:end] -= e @ u[at - n : at, at:end] if n > 1 else e * u[at - 1, at:end]
        else:
            x[:, at:] -= sent[:, mini:at] @ u[mini:at, at:]
            mini = at
    decoded[:, start + order] = out
    errors[:, start - origin + order] = sent


def descend(w, decoded, h, coded, chooser, block):
    """Choose each unit again given all others, where that lowers the loss. Changes ``decoded``; returns the blocks."""
    cols = w.shape[1]
    gradient = (w - decoded) @ h
    found = []
    for a in range(0, cols, block):
        b = a + block
        order = chooser.columns + a
        blocks = chooser.blocks(coded[a // block])
        q = decoded[:, order]
        g = gradient[:, order]
        local = h[np.ix_(order, order)]
        change = np.zeros_like(q)
        at = 0
        for index, unit in enumerate(chooser.units):
            n = len(unit.columns)
            span = slice(at, at + n)
            own = local[span, span]
            if n == 1:
                better = q[:, span] + g[:, span] / max(own[0, 0], np.float32(1e-30))
                new = blocks.choose(index, better)
            else:
                weights = np.ascontiguousarray(np.diag(own))
                shift = np.linalg.solve(own + np.eye(n, dtype=np.float32) * 1e-6 * max(weights.max(), 1e-30), g[:, span].T).T
                new = blocks.choose(index, q[:, span] + shift.astype(np.float32), weights, own)
                # Signs and numbers are chosen one after the other, so that the new codes may be worse.
                d = new - q[:, span]
                worse = np.einsum("ri,ij,rj->r", d, own, d) - 2 * np.einsum("ri,ri->r", d, g[:, span]) > 0
                if worse.any():
                    blocks.keep(index, worse)
                    new[worse] = q[worse, span]
            d = new - q[:, span]
            change[:, span] = d
            q[:, span] = new
            g[:, at + n :] -= d @ local[span, at + n :]
            at += n
        found.append(blocks.bytes())
        decoded[:, order] = q
        gradient -= change @ h[order]
    return found


def loss(w: "Floats", decoded: "Floats", h: "Floats") -> float:
    """The loss of all rows, relative to that of zeros: the share of the energy of the products that is wrong."""
    e = (w - decoded).astype(np.float32)
    return float(np.einsum("ij,ij->", e @ h, e, dtype=np.float64) / np.einsum("ij,ij->", w @ h, w, dtype=np.float64))
