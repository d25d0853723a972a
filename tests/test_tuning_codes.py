"""Codes of every type: where they are, and choosing them again with the scales as they stand."""

from functools import cache

import numpy as np
import numpy_q4_1
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from tuning_inputs import ENCODED, chooser_of, decoder, encoded_blocks

import quantreg
from quantreg import types
from quantreg.tuning.choice import Chooser
from quantreg.tuning.codes import find_codes

PYTHON = {"TOY3": toy.make, "NUMPY_Q4_1": lambda: numpy_q4_1.Q4_1}
every_type = pytest.mark.parametrize("name", [*ENCODED, *PYTHON])
UNITS = {name: {8} for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ1_S", "IQ1_M")}
UNITS |= {"IQ3_S": {4}, "TQ1_0": {4, 5}}  # a byte of TQ1_0 holds five trits, or four


@cache
def known(name):
    qtype = PYTHON[name]() if name in PYTHON else types[name]
    return qtype, chooser_of(qtype), decoder(qtype)


def choose_all(chooser, encoded, targets, metrics=None):
    """Choose every unit of blocks; return what ``choose`` says they decode to, and the bytes."""
    blocks = chooser.blocks(encoded)
    said = np.empty_like(targets)
    for index, unit in enumerate(chooser.units):
        metric = None if metrics is None else metrics[index]
        said[:, unit.columns] = blocks.choose(index, np.ascontiguousarray(targets[:, unit.columns].T), None, metric).T
    return said, blocks.bytes()


@every_type
def test_every_weight_of_a_block_is_in_one_unit(name):
    qtype, chooser, _ = known(name)
    assert sorted(chooser.columns) == list(range(qtype.block_size))
    assert {len(unit.columns) for unit in chooser.units} == UNITS.get(name, {1})


@every_type
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_choosing_again_for_the_decoded_values_changes_no_decoded_value(name, seed):
    qtype, chooser, decode = known(name)
    _, encoded = encoded_blocks(qtype, 32, seed)
    before = decode(encoded)
    _, again = choose_all(chooser, encoded, before)
    assert (decode(again) == before).all()


@every_type
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
def test_a_unit_never_costs_more_than_with_the_codes_that_stood_there(name, seed, spread):
    qtype, chooser, decode = known(name)
    rng = np.random.default_rng(seed)
    x, encoded = encoded_blocks(qtype, 16, seed)
    targets = (x + 0.03 * spread * rng.standard_normal(x.shape)).astype(np.float32)
    metrics = []
    for unit in chooser.units:
        root = rng.standard_normal((len(unit.columns), len(unit.columns)))
        metrics.append((root @ root.T + 0.1 * np.eye(len(root))).astype(np.float32))
    before = decode(encoded)
    said, after = choose_all(chooser, encoded, targets, metrics)
    assert np.allclose(decode(after), said, rtol=0, atol=1e-4 * abs(said).max())
    for unit, metric in zip(chooser.units, metrics, strict=True):
        old, new = (np.einsum("ri,ij,rj->r", e, metric, e) for e in (
            (d - targets)[:, unit.columns].astype(np.float64) for d in (before, decode(after))
        ))  # fmt: skip
        size = np.einsum("ri,ij,rj->r", targets[:, unit.columns], metric, targets[:, unit.columns])
        assert (new <= old + 1e-5 * size).all()


@every_type
def test_the_scales_stay_as_they_are(name):
    qtype, chooser, _ = known(name)
    x, encoded = encoded_blocks(qtype, 16)
    _, after = choose_all(chooser, encoded, x[::-1].copy())
    outside = ~chooser.layout.mask
    assert (after & outside == encoded & outside).all()
    assert (after != encoded).any()


@pytest.mark.parametrize("name", ["Q4_0", "Q3_K", "IQ4_XS", "TQ1_0", "NVFP4"])
def test_a_single_column_gets_the_nearest_of_all_its_codes(name):
    """Against every value that the bits of the code can take, decoded."""
    qtype, chooser, decode = known(name)
    x, encoded = encoded_blocks(qtype, 8)
    targets = 2 * x
    said, _ = choose_all(chooser, encoded, targets)
    for unit in chooser.units[:: max(1, len(chooser.units) // 16)]:
        (number,) = unit.numbers
        bits = np.unpackbits(encoded, axis=1, bitorder="little")
        best = np.full(len(x), np.inf)
        for value in range(1 << len(number.bits)):
            bits[:, number.bits] = value >> np.arange(len(number.bits)) & 1
            q = decode(np.packbits(bits, axis=1, bitorder="little"))[:, unit.columns[0]]
            best = np.minimum(best, abs(q - targets[:, unit.columns[0]]))
        error = abs(said - targets)[:, unit.columns[0]]
        assert np.allclose(error, best, rtol=1e-4, atol=1e-6)


@every_type
def test_blocks_of_zeros_stay_zeros_or_as_small(name):
    """A scale of zero says nothing about the codes, and must not become a division by zero."""
    qtype, chooser, decode = known(name)
    x = np.zeros((4, qtype.block_size), np.float32)
    given = np.ones(qtype.block_size, np.float32) if qtype.requires_importance else None
    encoded = quantreg.quantize(x, qtype, given, threads=1)
    with np.errstate(all="raise"):
        _, after = choose_all(chooser, encoded, x + np.float32(0.1))
    assert np.isfinite(decode(after)).all()
    assert (abs(decode(after) - 0.1) <= abs(decode(encoded) - 0.1) + 1e-6).all()


def test_targets_that_are_no_numbers_choose_some_code():
    for name in ("Q4_K", "IQ2_XS", "IQ4_XS"):
        qtype, chooser, decode = known(name)
        _, encoded = encoded_blocks(qtype, 4)
        targets = np.full((4, qtype.block_size), np.nan, np.float32)
        with np.errstate(invalid="ignore"):
            _, after = choose_all(chooser, encoded, targets)
        assert np.isfinite(decode(after)).all()


def test_a_numpy_type_of_a_plugin_has_codes():
    qtype = toy.make()
    chooser = chooser_of(qtype)
    x, encoded = encoded_blocks(qtype, 32)
    before = decoder(qtype)(encoded)
    _, after = choose_all(chooser, encoded, x)
    now = decoder(qtype)(after)
    assert (np.square(now - x).sum() <= np.square(before - x).sum()).all()


def test_a_type_whose_weights_all_hang_together_has_no_codes():
    """Each bit of the block changes every weight."""

    def decode(blocks):
        total = np.unpackbits(blocks, axis=1).sum(axis=1, dtype=np.float32)
        return np.repeat(total[:, None], 32, axis=1)

    examples = np.random.default_rng(0).integers(0, 255, (12, 4), np.uint8)
    assert find_codes(decode, 4, 32, examples) is None
    assert Chooser.of(decode, 4, 32, examples) is None


def test_a_type_that_is_not_affine_in_its_scale_is_not_taken_for_one():
    """The points move with the scale: scale and offset of two codes do not give those of the others."""

    def decode(blocks):
        scale = 1 + blocks[:, :1].astype(np.float32)
        return np.power(blocks[:, 1:].astype(np.float32) / 255, scale / 64)

    examples = np.random.default_rng(0).integers(1, 255, (12, 9), np.uint8)
    assert Chooser.of(decode, 9, 8, examples) is None
