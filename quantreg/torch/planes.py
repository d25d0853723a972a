"""Decode on a device: the bytes of a matrix with the scales that they hold, by operations of torch alone.

What `quantreg.tuning` finds out about a type, by flipping bits of its blocks, is where each weight has its code, and
that the weight is scale * point + offset, with one scale and offset for several weights. So no type needs a line here.
The processors decode the matrix once, to find the scales and offsets, and once more to check what the device makes of
it. Then the device decodes it again and again.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from quantreg.parameters import TensorContext
from quantreg.products import crew
from quantreg.registry import registry
from quantreg.torch.decode import Rows
from quantreg.torch.encoded import Encoded, torch_view
from quantreg.tuning.encoding import chooser_of

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from quantreg.tuning.choice import Chooser

    Floats = NDArray[np.float32]
    _Field = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8], int]

__all__ = ["Planes", "planes_of"]

PART = 1 << 18  # weights whose scales a thread finds at a time
TILE = 1 << 24  # weights that are decoded in both ways at a time, to see that they agree
EXAMPLES = 512  # blocks that show which weights share a scale
TOLERANCE = 2.0**-20  # of the largest weight of a block: sums of float32 in another order


@dataclass(frozen=True, slots=True)
class _Codes:
    """Where the codes of a block are, and what they stand for.

    - ``fields``: (bytes, right shifts, masks, left shift), the first three with one entry for each column of a block.
      The code of a column is the sum of its fields. It is a number of 8 bits, and ``signed`` if it is int8.
    - ``table``: float32, what each code stands for, or None if that is the code itself plus ``start``, which is None if
      it is not the same everywhere.
    - ``first``, ``step``: float32 (block_size,): in units of the scale of `Chooser.levels`, a weight is
      first + step * code, or step times its entry in the table. ``reach``: of steps in the largest point.
    """

    fields: "list[_Field]"
    signed: bool
    table: "Floats | None"
    start: float | None
    first: "Floats"
    step: "Floats"
    reach: float


class Planes:
    """The scales and offsets of a matrix on its device, with which its bytes can be decoded there.

    It takes 4 bytes for each group of weights with the same scale, and as many if they have an offset.
    """

    def __init__(
        self,
        codes: _Codes,
        start: float,
        size: "Floats",
        low: "Floats | None",
        type_size: int,
        cols: int,
        where: torch.device,
    ) -> None:
        self._fields = [
            (
                torch.from_numpy(index).to(where),
                torch.from_numpy(right).to(where) if right.any() else None,
                torch.from_numpy(mask).to(where) if (mask != 255).any() else None,
                left,
            )
            for index, right, mask, left in codes.fields
        ]
        self._signed, self._start, self._type_size, self._cols = codes.signed, start, type_size, cols
        self._table = None if codes.table is None else torch.from_numpy(codes.table).to(where)
        self._size = torch.from_numpy(size).to(where)  # (rows, groups)
        self._low = None if low is None else torch.from_numpy(low).to(where)

    @classmethod
    def of(cls, encoded: "Encoded") -> "Self | None":
        """Find the scales of a matrix, or return None if its type is none that can be decoded like this."""
        qtype = registry.get(encoded.type_id)
        if qtype.row_header_size or len(encoded.shape) != 2 or not encoded.bytes.numel():
            return None
        context = TensorContext(encoded.name, encoded.shape)
        codec = qtype.codec_for(encoded.parameters, context) if qtype.by_matrix else qtype.codec_for(None)
        rows, cols = encoded.shape
        data = encoded.bytes.detach().cpu().numpy().reshape(rows, -1)
        chooser = chooser_of(qtype, codec, encoded.parameters, data)
        codes = None if chooser is None else _codes(chooser)
        if chooser is None or codes is None:
            return None
        n_groups, columns = _groups(chooser, codes, data)
        size = np.empty((rows, cols // qtype.block_size * n_groups), np.float32)
        low = np.empty_like(size)
        step = max(1, PART // cols)

        def work(first: int) -> None:
            blocks = np.ascontiguousarray(data[first : first + step]).reshape(-1, qtype.type_size)
            scale, offset = chooser.levels_at(blocks, columns)
            size[first : first + step] = (codes.step[columns] * scale).reshape(-1, size.shape[1])
            low[first : first + step] = offset.reshape(-1, size.shape[1])
            if codes.start is None:
                low[first : first + step] += (scale * codes.first[columns]).reshape(-1, size.shape[1])

        crew.run(work, range(0, rows, step), torch.get_num_threads())
        start = codes.start
        if start is None or not (abs(low) <= TOLERANCE * codes.reach * abs(size)).all():
            if start is not None:
                low += size * np.float32(start)
            made = cls(codes, 0.0, size, low, qtype.type_size, cols, encoded.bytes.device)
        else:
            made = cls(codes, start, size, None, qtype.type_size, cols, encoded.bytes.device)
        return made if made._agrees(encoded, data) else None

    def _agrees(self, encoded: "Encoded", data: "NDArray[np.uint8]") -> bool:
        """Whether all rows decode to what the codec makes of them."""
        here = Encoded(
            encoded.name, encoded.shape, encoded.type_id, encoded.type_name, torch_view(data), encoded.parameters
        )
        rows, block = Rows(here), registry.get(encoded.type_id).block_size
        step = max(1, TILE // rows.cols)
        for first in range(0, rows.count, step):
            last = min(first + step, rows.count)
            codec = torch.empty((last - first, rows.cols), dtype=torch.float32, device="cpu")
            rows.decode(first, last, codec.numpy(), torch.get_num_threads())
            expected = codec.to(encoded.bytes.device).view(-1, block)
            found = self.span(encoded.bytes, first, last).view(-1, block)
            most = expected.abs().amax(1, keepdim=True)
            if not bool(((found - expected).abs() <= TOLERANCE * most).all()):
                return False
        return True

    def span(self, bytes: torch.Tensor, first: int, last: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The rows [first, last) of the matrix: (rows, cols)."""
        low = None if self._low is None else self._low[first:last]
        return self._decoded(bytes[first:last], self._size[first:last], low, dtype)

    def rows(self, bytes: torch.Tensor, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Some rows of the matrix, by their numbers (n,): (n, cols)."""
        low = None if self._low is None else self._low.index_select(0, ids)
        return self._decoded(bytes.index_select(0, ids), self._size.index_select(0, ids), low, dtype)

    def _decoded(
        self, bytes: torch.Tensor, size: torch.Tensor, low: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        rows, groups = size.shape
        if not rows:
            return torch.empty((0, self._cols), dtype=dtype, device=bytes.device)
        blocks = bytes.reshape(-1, self._type_size)
        code: torch.Tensor | None = None
        for index, right, mask, left in self._fields:
            part = blocks.index_select(1, index)
            if right is not None:
                part = part.bitwise_right_shift_(right)
            if mask is not None:
                part = part.bitwise_and_(mask)
            if left:
                part = part.bitwise_left_shift_(left)
            code = part if code is None else code.bitwise_or_(part)
        assert code is not None
        code = code.view(rows, groups, -1)
        if self._table is not None:
            value = self._table[code.int()]
        else:
            value = (code.view(torch.int8) if self._signed else code).float()
        if self._start:
            value += self._start
        if low is None:
            value *= size.unsqueeze(-1)
        else:
            value = torch.addcmul(low.unsqueeze(-1), value, size.unsqueeze(-1))
        return value.view(rows, -1).to(dtype)


def planes_of(encoded: Encoded) -> Planes | None:
    """What decodes a matrix on its device, or None for a type that only the processors decode. It is found once."""
    if encoded.bytes.device.type == "meta":
        return None
    if encoded.planes is None:
        encoded.planes = Planes.of(encoded) or False
    return encoded.planes if isinstance(encoded.planes, Planes) else None


def _codes(chooser: "Chooser") -> _Codes | None:
    """The codes of a type, or None if some do not stand for one weight, or are no 8 bits."""
    n = chooser.block_size
    bits: list[NDArray[np.intp]] = [np.zeros(0, np.intp)] * n
    points: list[Floats] = [np.zeros(0, np.float32)] * n
    for unit in chooser.units:
        if len(unit.columns) != 1 or len(unit.numbers) != 1 or len(unit.sign_bits):
            return None
        (number,) = unit.numbers
        bits[int(unit.columns[0])], points[int(unit.columns[0])] = number.bits, number.points[:, 0]
    if len({len(own) for own in bits}) != 1 or len(bits[0]) > 8:
        return None
    by_weight = [_by_weight(own, line) for own, line in zip(bits, points, strict=True)]
    bits, table = [own for own, _ in by_weight], np.array([line for _, line in by_weight])  # (columns, codes)
    reach = 1.0
    signed, straight = False, _straight(table)
    if straight is None and len(bits[0]) == 8:
        signed, straight = True, _straight(np.roll(table, 128, axis=1))
    if straight is not None:
        first, step = straight
        first = first + 128 * step if signed else first
        starts = first / step
        reach = float(abs(table / step[:, None]).max())
        start = float(np.rint(2 * starts.mean()) / 2)
        steady = bool((abs(starts - start) <= 1e-4 * max(1.0, abs(start))).all())
        made = first.astype(np.float32), step.astype(np.float32)
        return _Codes(_fields(bits), signed, None, start if steady else None, *made, reach)
    largest: Floats = table[:, abs(table[0]).argmax()]
    if not largest.all() or not (abs(table / largest[:, None] - table[0] / largest[0]) <= TOLERANCE).all():
        return None
    return _Codes(_fields(bits), False, table[0] / largest[0], 0.0, np.zeros(n, np.float32), largest, reach)


def _by_weight(bits: "NDArray[np.intp]", line: "Floats") -> "tuple[NDArray[np.intp], Floats]":
    """The bits of a code from the one that changes its point least to the one that changes it most, and the points."""
    single = np.int64(1) << np.arange(len(bits))
    order = np.argsort(abs(line[single] - line[0]), kind="stable")
    places = np.arange(len(line))
    old = sum((places >> k & 1) << bit for k, bit in enumerate(order.tolist()))
    return bits[order], line[old]


def _straight(table: "Floats") -> "tuple[NDArray[np.float64], NDArray[np.float64]] | None":
    """The first points of each column and the distance between two, or None if they are not evenly spaced."""
    values: NDArray[np.float64] = table.astype(np.float64)
    step = (values[:, -1] - values[:, 0]) / max(1, values.shape[1] - 1)
    even = values[:, :1] + step[:, None] * np.arange(values.shape[1])
    if not step.all() or not (abs(values - even) <= 4 * TOLERANCE * abs(values).max(axis=1, keepdims=True)).all():
        return None
    return values[:, 0], step


def _fields(bits: "list[NDArray[np.intp]]") -> "list[_Field]":
    """Bits of each column, gathered into runs within a byte, of which some columns may have more than others."""
    runs = []
    for own in bits:
        found: list[list[int]] = []  # place in the code, first bit, length
        for place, bit in enumerate(own.tolist()):
            if found and bit == found[-1][1] + found[-1][2] and bit // 8 == found[-1][1] // 8:
                found[-1][2] += 1
            else:
                found.append([place, bit, 1])
        runs.append(found)
    fields = []
    for left in sorted({place for found in runs for place, _, _ in found}):
        index, right, mask = np.zeros(len(bits), np.int64), *np.zeros((2, len(bits)), np.uint8)
        for column, found in enumerate(runs):
            for place, bit, length in found:
                if place == left:
                    index[column], right[column], mask[column] = bit // 8, bit % 8, (1 << length) - 1
        fields.append((index, right, mask, left))
    return fields


def _groups(chooser: "Chooser", codes: _Codes, data: "NDArray[np.uint8]") -> "tuple[int, NDArray[np.intp]]":
    """How many groups of weights in a row share scale and offset in each block, and the first column of each."""
    blocks = data.reshape(-1, chooser.type_size)
    some = np.ascontiguousarray(blocks[:: max(1, len(blocks) // EXAMPLES)])
    n = chooser.block_size
    scale, offset = chooser.levels_at(some, np.arange(n))
    size = codes.step * scale
    low = offset + scale * codes.first if codes.start is None else offset
    most = TOLERANCE / 8 * (abs(size) * np.float32(codes.reach) + abs(low)).max(axis=1)[:, None, None]
    best = 1
    for width in (width for width in range(2, n + 1) if n % width == 0):
        with np.errstate(all="ignore"):
            each = [values.reshape(len(some), -1, width) for values in (size, low)]
            if all(bool((abs(values - values[:, :, :1]) <= most).all()) for values in each):
                best = width
    return n // best, np.arange(0, n, best)
