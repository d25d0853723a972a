"""Compare the bytes that this installation writes with known ones, of every built-in type and at every CPU level.

It needs neither pytest nor another implementation of the formats, so it runs wherever a wheel is installed:
``python -P -m quantreg.testing``. The digests beside this file are those of codecs whose bytes equal ggml's reference.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import CodecError
from quantreg.registry import types
from quantreg_kernels import usable_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.codec import RowCodec
    from quantreg.qtype import QuantType

__all__ = ["DIGESTS", "digests", "find_differences", "sample_rows"]

DIGESTS = Path(__file__).with_name("digests.json")
_ROWS, _COLS = 24, 768  # a whole number of blocks of every built-in type


def _integers(seed: int, *shape: int) -> "NDArray[np.int64]":
    """Return integers from 0 to 65535. NumPy promises to keep the bits of this generator, but not its distributions."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return (raw >> np.uint64(48)).astype(np.int64).reshape(shape)


def sample_rows() -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Return rows of weights, float32 of shape (24, 768), and the importance of their 768 columns.

    They are made of integers and powers of two, and so are the same on every system. The rows are of different sizes.
    The last ones are sparse, full of ties, subnormal and zero.
    """
    bell = (_integers(1, 4, _ROWS, _COLS) - 32768).sum(axis=0)  # at most 18 bits, so that float32 holds it exactly
    x = np.ldexp(bell.astype(np.float32), -17 - np.arange(_ROWS)[:, None] % 7)
    x[-4] *= _integers(2, _COLS) < 2048
    x[-3] = (_integers(3, _COLS) % 17 - 8) / np.float32(8)
    x[-2] = np.ldexp(bell[-2].astype(np.float32), -147)
    x[-1] = 0
    return x, np.ldexp((_integers(4, _COLS) + 1).astype(np.float32), -16)


def digests(qtype: "QuantType", codec: "RowCodec") -> dict[str, str]:
    """Return a digest of what the codec of a type writes and reads.

    "plain" and "weighted" are of the bytes of `sample_rows`, without and with importance. "decoded" is of their floats,
    and "any" of the floats of arbitrary bytes. The sign of a NaN is left out, because processors choose it differently.
    """
    x, importance = sample_rows()
    found: dict[str, NDArray[Any]] = {}
    data = _integers(5, _ROWS, qtype.row_bytes(_COLS)).astype(np.uint8)
    inputs = {"any": data}
    if codec.can_encode:
        cases: dict[str, NDArray[np.float32] | None] = {"plain": None} if not qtype.requires_importance else {}
        if codec.has_scorer:
            cases["weighted"] = importance
        for name, columns in cases.items():
            found[name] = np.zeros_like(data)
            codec.encode_rows(x, found[name], columns)
        inputs["decoded"] = found[next(iter(cases))]
    for name, blocks in inputs.items():
        floats = np.zeros_like(x)
        codec.decode_rows(blocks, floats)
        floats[np.isnan(floats)] = np.nan
        found[name] = floats
    return {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in found.items()}


@contextmanager
def _at(level: str) -> Iterator[None]:
    before = os.environ.get("QUANTREG_CPU")
    os.environ["QUANTREG_CPU"] = level
    try:
        yield
    finally:
        if before is None:
            del os.environ["QUANTREG_CPU"]
        else:
            os.environ["QUANTREG_CPU"] = before


def find_differences() -> tuple[int, list[str]]:
    """Return the number of digests that were compared, and one line for each that differs from the known one.

    The variable QUANTREG_CPU limits the check to one CPU level. A type or a level that was not built is a difference.
    """
    known: dict[str, dict[str, str]] = json.loads(DIGESTS.read_text(encoding="utf-8"))
    compared, wrong = 0, []
    for level in usable_levels():
        for name, expected in known.items():
            try:
                with _at(level):
                    found = digests(types[name], types[name]._load_codec())
            except (CodecError, LookupError) as error:
                wrong.append(f"{name} at {level}: {error}")
                continue
            compared += len(expected)
            wrong += [
                f"{name} at {level}: {what} has the digest {found.get(what)} instead of {digest}"
                for what, digest in expected.items()
                if found.get(what) != digest
            ]
    return compared, wrong
