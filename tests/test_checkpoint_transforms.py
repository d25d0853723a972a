"""Transforms: any piece of a tensor is read as NumPy computes the whole, and what they do can be undone."""

import pickle
from math import prod

import numpy as np
import pytest

import quantreg
from quantreg.checkpoints import (
    Apart,
    Behind,
    Generated,
    Grouped,
    Heads,
    MinusExp,
    Mxfp4,
    Pairs,
    Plus,
    Share,
    Squeezed,
    Tiled,
    Transform,
    Transposed,
    made,
)
from quantreg.checkpoints.layout import Layout
from quantreg.checkpoints.made import Made, MadeMxfp4, Piece
from quantreg.checkpoints.transforms import arranged, shape_before
from quantreg.checkpoints.undo import put, put_some
from quantreg.safetensors import Part, Stored

RNG = np.random.default_rng(5)
MATRIX, STACK = (RNG.standard_normal(shape).astype(np.float32) for shape in ((24, 10), (5, 12, 7)))
RATES = RNG.standard_normal(24).astype(np.float32)

CASES = {
    "pairs": (MATRIX, (Pairs(3),), MATRIX.reshape(3, 2, 4, 10).swapaxes(1, 2).reshape(24, 10)),
    "pairs of a bias": (MATRIX[:, 0], (Pairs(3),), MATRIX[:, 0].reshape(3, 2, 4).swapaxes(1, 2).reshape(24)),
    "transposed": (MATRIX, (Transposed(),), MATRIX.T),
    "stack transposed": (STACK, (Transposed(),), STACK.swapaxes(1, 2)),
    "second half": (STACK, (Share(1, 2, 1),), STACK[:, 6:]),
    "first third of the columns": (MATRIX[:, :9], (Share(0, 3, -1),), MATRIX[:, :3]),
    "every second row": (STACK, (Share(1, 2, 1, alternating=True),), STACK[:, 1::2]),
    "every second column": (MATRIX, (Share(0, 2, -1, alternating=True),), MATRIX[:, ::2]),
    "transposed, then every third row": (
        STACK.swapaxes(1, 2), (Transposed(), Share(2, 3, -2, alternating=True)), STACK[:, 2::3]),
    "apart": (MATRIX, (Apart(4, (3, 2, 1)),), np.concatenate(
        [MATRIX.reshape(4, 6, 10)[:, a:b].reshape(-1, 10) for a, b in ((0, 3), (3, 5), (5, 6))])),
    "apart bias": (MATRIX[:, 1], (Apart(2, (4, 4, 4)),), np.concatenate(
        [MATRIX[:, 1].reshape(2, 3, 4)[:, k].reshape(-1) for k in range(3)])),
    "some kinds apart": (MATRIX, (Apart(4, (3, 2, 1), (2, 0)),), np.concatenate(
        [MATRIX.reshape(4, 6, 10)[:, a:b].reshape(-1, 10) for a, b in ((5, 6), (0, 3))])),
    "tiled": (MATRIX, (Tiled(4, 3, 2),), MATRIX.reshape(4, 3, 2, 10).swapaxes(0, 1).reshape(24, 10)),
    "tiled columns": (MATRIX, (Tiled(5, 2, axis=1),), MATRIX.reshape(24, 5, 2).swapaxes(1, 2).reshape(24, 10)),
    "tiled behind others": (MATRIX, (Tiled(3, 2, 2, skip=12),), np.concatenate(
        [MATRIX[:12], MATRIX[12:].reshape(3, 2, 2, 10).swapaxes(0, 1).reshape(12, 10)])),
    "behind the first rows": (MATRIX, (Behind(5),), MATRIX[5:]),
    "grouped": (MATRIX, (Grouped(6),), MATRIX.reshape(6, 4, 10)),
    "grouped rates": (RATES, (MinusExp(), Grouped(24)), -np.exp(RATES.astype(np.float64)).astype(np.float32)[:, None]),
    "part of each head": (MATRIX, (Heads(4, 6, 2, 3),), MATRIX.reshape(4, 6, 10)[:, 2:5]),
    "part of each head, transposed": (
        MATRIX, (Heads(3, 8, 0, 5), Transposed()), MATRIX.reshape(3, 8, 10)[:, :5].swapaxes(1, 2)),
    "the middle of each head": (MATRIX, (Heads(3, 8, 2, 5),), MATRIX.reshape(3, 8, 10)[:, 2:7]),
    "a part of each head, turned": (
        MATRIX, (Heads(3, 8, 0, 6), Transposed()), MATRIX.reshape(3, 8, 10)[:, :6].swapaxes(1, 2)),
    "plus": (MATRIX[0], (Plus(1.0),), MATRIX[0] + np.float32(1)),
    "minus exp": (RATES, (MinusExp(),), -np.exp(RATES.astype(np.float64)).astype(np.float32)),
    "squeezed": (STACK[:, :1], (Squeezed(1),), STACK[:, 0]),
    "squeezed share": (STACK[:, :, None], (Squeezed(2), Share(0, 2, 1)), STACK[:, :6]),
    "nothing": (MATRIX, (), MATRIX),
    "one value": (MATRIX[:1, :1], (Transposed(),), MATRIX[:1, :1]),
    "empty": (MATRIX[:0], (Transposed(),), MATRIX[:0].T),
}  # fmt: skip


def stored_as(array, how, dtype="F32", to_type=None):
    """The tensor after some transforms, and a function that reads bytes of its file."""
    raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    source = Part(0, 0, dtype, array.shape)
    pieces = tuple(Piece(source, layout) for layout in arranged(array.shape, how)[1])

    def read(file, position, out):
        assert file == 0
        assert len(out) <= len(raw)
        out[:] = raw[position : position + len(out)]

    return Made(pieces, dtype, to_type or dtype, tuple(step for step in how if step.changes)), read


@pytest.mark.parametrize(("span", "gap"), [(1, 0), (7, 2), (50, 0), (1 << 20, 0), (1 << 20, 1 << 14)])
@pytest.mark.parametrize("name", CASES)
def test_any_piece_of_a_tensor_is_read_as_numpy_computes_the_whole(name, span, gap, monkeypatch):
    monkeypatch.setattr(made, "_SPAN", span)
    monkeypatch.setattr(made, "_GAP", gap)
    array, how, expected = CASES[name]
    tensor, read = stored_as(array, how)
    tensor = pickle.loads(pickle.dumps(tensor))
    assert arranged(array.shape, how)[0] == expected.shape
    assert shape_before(how, expected.shape) == array.shape
    flat = np.ascontiguousarray(expected).reshape(-1)
    ranges = [(0, flat.size), *np.sort(RNG.integers(0, flat.size + 1, (40, 2)))]
    for start, end in ranges:
        out = np.empty(4 * (end - start), np.uint8)
        tensor.read_into(read, 4 * int(start), out)
        np.testing.assert_array_equal(out.view(np.float32), flat[start:end])


@pytest.mark.parametrize("name", CASES)
def test_what_a_transform_does_can_be_undone(name):
    array, how, expected = CASES[name]
    found = np.full(array.shape, np.nan, np.float32)
    put(np.ascontiguousarray(expected), how, found)
    there = ~np.isnan(found)
    assert there.sum() == expected.size
    np.testing.assert_allclose(found[there], np.ascontiguousarray(array)[there], atol=2e-7)


@pytest.mark.parametrize("name", CASES)
def test_any_piece_of_a_tensor_is_put_where_it_came_from(name):
    array, how, expected = CASES[name]
    flat, whole = np.ascontiguousarray(expected).reshape(-1), np.full(array.shape, np.nan, np.float32)
    put(np.ascontiguousarray(expected), how, whole)
    for change in how:
        flat = change.unchanged(flat)
    for step in (1, 3, 7, 1000):
        found, start = np.full(array.shape, np.nan, np.float32), 0
        for layout in arranged(array.shape, how)[1]:
            n = prod(layout.shape)
            for first in range(0, n, step):
                put_some(flat[start + first : start + min(first + step, n)], first, layout, found)
            start += n
        np.testing.assert_array_equal(found, whole)


def test_each_transform_is_undone_in_a_test():
    """But two: blocks of MXFP4 go back decoded, and what follows from the configuration is left out."""
    tested = {type(step) for _, how, _ in CASES.values() for step in how}
    assert {kind for kind in Transform.__subclasses__() if kind.__module__.startswith("quantreg.")} - tested == {
        Mxfp4, Generated,
    }  # fmt: skip


def test_tensors_that_share_one_fill_it_together():
    found = np.full(STACK.shape, np.nan, np.float32)
    for index in range(2):
        how = (Share(index, 2, 1, alternating=True),)
        put(np.ascontiguousarray(STACK[:, index::2]), how, found)
    np.testing.assert_array_equal(found, STACK)


@pytest.mark.parametrize(
    ("how", "shape"),
    [
        (Pairs(3), (25, 4)), (Pairs(0), (24, 4)), (Pairs(12), (12, 1)), (Pairs(1), ()), (Apart(2, (1, 2)), (5,)),
        (Share(0, 2), (5, 2)), (Share(0, 2, 3), (4, 4)), (Share(0, 2), ()), (Transposed(), (4,)), (Squeezed(1), (4, 2)),
        (Heads(2, 3, 0, 1), (5, 2)), (Heads(1, 1, 0, 1), ()),
        (Squeezed(2), (4, 2)), (Mxfp4(), (4, 4)), (Mxfp4(0, 2), (3, 2, 16)),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(how, shape):
    with pytest.raises(quantreg.CheckpointError):
        how.after(shape)


@pytest.mark.parametrize(("dtype", "numpy"), [("F16", np.float16), ("F32", np.float32), ("F64", np.float64)])
@pytest.mark.parametrize("plus", [0.0, 1.0])
def test_values_become_float32_and_the_sum_has_the_type_of_its_terms(dtype, numpy, plus):
    values = RNG.standard_normal(1000).astype(numpy)
    tensor, read = stored_as(values, (Plus(plus),), dtype, "F32")
    out = np.empty(4000, np.uint8)
    tensor.read_into(read, 0, out)
    terms = values.astype(np.float32) if dtype == "F64" else values
    np.testing.assert_array_equal(out.view(np.float32), (terms + terms.dtype.type(plus)).astype(np.float32))


def test_bf16_is_summed_in_float32():
    codes = RNG.integers(0x3C00, 0x4100, 500).astype(np.uint16)
    values = (codes.astype(np.uint32) << 16).view(np.float32)
    tensor, read = stored_as(codes, (Plus(1.0),), "BF16", "F32")
    out = np.empty(2000, np.uint8)
    tensor.read_into(read, 0, out)
    np.testing.assert_array_equal(out.view(np.float32), values + np.float32(1))


def test_experts_in_several_files_are_one_stack_above_fp8_too():
    experts = [RNG.integers(0, 0x7E, (4, 6)).astype(np.uint8) for _ in range(3)]
    scales = [RNG.random((4, 1), np.float32) for _ in range(3)]
    files = [
        np.concatenate([e.reshape(-1), s.view(np.uint8).reshape(-1)]) for e, s in zip(experts, scales, strict=True)
    ]
    sources = [
        Stored(Part(k, 0, "F8_E4M3", (4, 6)), "F32", scales=Part(k, 24, "F32", (4, 1)), block=(1, 6)) for k in range(3)
    ]
    turned = Layout.whole((4, 6)).moved(1, 0)
    tensor = Made(tuple(Piece(source, turned) for source in sources), "F32", "F32")
    assert tensor.files == (0, 1, 2)

    def read(file, position, out):
        out[:] = files[file][position : position + len(out)]

    whole = np.empty(3 * 24 * 4, np.uint8)
    tensor.read_into(read, 0, whole)
    from quantreg.safetensors.stored import fp8_values

    expected = [(fp8_values("F8_E4M3")[e] * s).T for e, s in zip(experts, scales, strict=True)]
    np.testing.assert_array_equal(whole.view(np.float32).reshape(3, 6, 4), expected)
    part = np.empty(4 * 13, np.uint8)
    tensor.read_into(read, 4 * 20, part)
    np.testing.assert_array_equal(part, whole[80:132])


@pytest.mark.parametrize(("index", "of"), [(0, 1), (0, 2), (1, 2)])
def test_mxfp4_is_repacked_without_decoding(index, of, monkeypatch):
    """Read at any byte; and what GGUF's codec decodes is what the codes and scales mean."""
    monkeypatch.setattr(made, "_SPAN", 64)
    codes = RNG.integers(0, 256, (2, 6, 3, 16)).astype(np.uint8)
    scales = RNG.integers(120, 130, (2, 6, 3)).astype(np.uint8)
    files = [codes.reshape(-1), scales.reshape(-1)]
    tensor = MadeMxfp4(
        Piece(Part(0, 0, "U8", codes.shape), Layout.whole(codes.shape).taken(1, index, 6 // of, of)),
        Piece(Part(1, 0, "U8", scales.shape), Layout.whole(scales.shape).taken(1, index, 6 // of, of)),
    )

    def read(file, position, out):
        out[:] = files[file][position : position + len(out)]

    shape = (2, 6 // of, 96)
    whole = np.empty(prod(shape) // 32 * 17, np.uint8)
    tensor.read_into(read, 0, whole)
    e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    nibbles = np.stack([codes & 15, codes >> 4], -1).reshape(2, 6, 3, 32)
    values = np.where(nibbles & 8, -1, 1) * e2m1[nibbles & 7] * 2.0 ** (scales[..., None].astype(float) - 127)
    decoded = quantreg.dequantize(whole.reshape(-1, 3 * 17), "MXFP4")
    np.testing.assert_array_equal(decoded.reshape(shape), values.reshape(2, 6, 96)[:, index::of])
    for start, end in np.sort(RNG.integers(0, whole.size + 1, (60, 2))):
        out = np.empty(end - start, np.uint8)
        tensor.read_into(read, int(start), out)
        np.testing.assert_array_equal(out, whole[start:end])
