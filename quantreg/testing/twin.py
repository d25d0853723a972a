"""The check that a type which replaces another on purpose agrees with it."""

from typing import TYPE_CHECKING

import numpy as np

from quantreg.registry import registry
from quantreg.testing.report import NotApplicable, expect
from quantreg.testing.samples import KINDS, bits_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.codec import RowCodec
    from quantreg.qtype import QuantType
    from quantreg.testing.samples import Subject

__all__ = ["twin"]


def twin(s: "Subject") -> None:
    """A type that replaces another decodes the same values, and encodes the same bytes if the other is in NumPy.

    Files hold what the replaced codec wrote, so decoding has to agree always. A codec in NumPy is the model of the
    compiled one. A compiled codec may be replaced by one that searches better.
    """
    other = registry.replaced_by(s.qtype)
    if other is None:
        raise NotApplicable("the type replaces no other")
    layouts = [(q.type_id, q.block_size, q.type_size, q.row_header_size) for q in (s.qtype, other)]
    if layouts[0] != layouts[1]:
        raise NotApplicable(f"{other.name}, which the type replaces, has another layout")
    _decodes_alike(s, other)
    if other.codec.level == "python" and other.codec.can_encode:
        expect(s.codec.can_encode, "the replaced codec in NumPy encodes, and this one does not: write encode_rows")
        expect(
            s.codec.has_scorer == other.codec.has_scorer,
            "only one of this codec and the replaced one in NumPy reads importance: pass score_rows or NULL to "
            "codec_capsule as encode(rows, importance) or encode(rows) does",
        )
        _scores_alike(s, other)
        _encodes_alike(s, other)


def _decodes_alike(s: "Subject", other: "QuantType") -> None:
    data = np.random.default_rng(3).integers(0, 256, (16, s.qtype.row_bytes(s.cols(3))), np.uint8)
    for what, found in (("random bytes", data), ("encoded rows", s.some_bytes(rows=16))):
        ours, theirs = s.decode(found), s.decode(found, other.codec)
        differs = bits_of(ours) != bits_of(theirs)
        if differs.any():
            row, column = np.argwhere(differs)[0]
            raise AssertionError(
                f"{what} decode to {ours[row, column]:g} in row {row}, column {column}, and to {theirs[row, column]:g} "
                "by the codec that this one replaces: files hold what that one wrote, so decode alike"
            )


def _scores_alike(s: "Subject", other: "QuantType") -> None:
    if not s.codec.has_scorer:
        return
    x = s.rows(rows=4)
    columns = s.columns(x.shape[1])
    ours, theirs = s.qtype.score(x, columns), other.score(x, columns)
    same = ours is not None and theirs is not None and (bits_of(ours) == bits_of(theirs)).all()
    expect(same, "the error weights (score_rows) differ from those of the replaced codec in NumPy")


def _encodes_alike(s: "Subject", other: "QuantType") -> None:
    for seed, kind in enumerate(KINDS * (4 if s.full else 1)):
        for scale in (0.1, 10.0 ** np.random.default_rng(seed).uniform(-8, 6)):
            x = s.rows(kind, rows=17, blocks=3, scale=scale, seed=seed)
            for importance in s.importances(x.shape[1]):
                words = f"{kind} rows of {scale:g}{'' if importance is None else ' with importance'}"
                ours, refused = _encoded(s, s.codec, x, importance)
                theirs, expected = _encoded(s, other.codec, x, importance)
                if refused != expected:
                    told = [f"refuses row {row}" if row is not None else "takes all" for row in (refused, expected)]
                    raise AssertionError(f"of {words} the codec {told[0]}, and the replaced one in NumPy {told[1]}")
                _expect_same_bytes(s, ours[:refused], theirs[:refused], words)


def _encoded(
    s: "Subject", codec: "RowCodec", x: "NDArray[np.float32]", importance: "NDArray[np.float32] | None"
) -> "tuple[NDArray[np.uint8], int | None]":
    """The bytes of x, and the first row that the codec refuses or None. Bytes from that row on have no meaning."""
    refused = None
    while True:
        try:
            return s.encode(x[:refused], importance, codec), refused
        except ValueError as error:
            row = getattr(error, "row", None)
            if not isinstance(row, int):
                raise
            refused = row


def _expect_same_bytes(s: "Subject", ours: "NDArray[np.uint8]", theirs: "NDArray[np.uint8]", words: str) -> None:
    if not (ours != theirs).any():
        return
    row, byte = np.argwhere(ours != theirs)[0]
    block = (byte - s.qtype.row_header_size) // s.qtype.type_size
    where = "the row header" if byte < s.qtype.row_header_size else f"block {block}"
    raise AssertionError(
        f"{words}: byte {byte} of row {row}, in {where}, is {ours[row, byte]}, and {theirs[row, byte]} from the "
        f"replaced codec in NumPy ({np.mean(ours != theirs):.2%} of the bytes differ). Do the same float32 operations "
        "in the same order: np.sum adds in pairs, and np.cumsum(...)[..., -1] from the first to the last"
    )
