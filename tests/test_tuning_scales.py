"""Scales of encoded blocks: where they are, and fitting them to codes that stand."""

from functools import cache

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from tuning_inputs import ENCODED, chooser_of, encoded_blocks

from quantreg import types
from quantreg.tuning.scales import Scales

every_type = pytest.mark.parametrize("name", [*ENCODED, "TOY3"])
# Bits of the numbers of a whole block; parts, their columns, and bits of the numbers of each.
FOUND = {
    "Q4_K": ([16, 16], 8, 32, [6, 6]),
    "Q5_K": ([16, 16], 8, 32, [6, 6]),
    "Q3_K": ([16], 16, 16, [6]),
    "Q2_K": ([16, 16], 16, 16, [4, 4]),
    "Q6_K": ([16], 16, 16, [8]),
    "IQ4_XS": ([16], 8, 32, [6]),
    "IQ2_XXS": ([16], 8, 32, [4]),
    "IQ3_S": ([16], 8, 32, [4]),
    "Q4_0": ([16], 0, 0, []),
    "Q5_1": ([16, 16], 0, 0, []),
    "TOY3": ([16], 0, 0, []),
}


@cache
def known(name):
    qtype = toy.make() if name == "TOY3" else types[name]
    return qtype, chooser_of(qtype)


def case(name, seed, spread=1.0, n=12):
    """Encoded blocks by units, what they should be, their gradient, and a metric: that of `Scales.refit`."""
    qtype, chooser = known(name)
    x, encoded = encoded_blocks(qtype, n, seed)
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((qtype.block_size, qtype.block_size)) / qtype.block_size**0.5
    metric = (root @ root.T + 0.1 * np.eye(len(root))).astype(np.float32)
    targets = x * (1 + 0.1 * spread * rng.standard_normal((n, 1)))
    q = chooser.decoded(encoded)
    wanted = np.ascontiguousarray(targets.T[chooser.columns], np.float32)
    return chooser, q, metric @ (wanted - q), metric, encoded, wanted


def cost(e, metric):
    return np.einsum("ir,ij,jr->r", *(a.astype(np.float64) for a in (e, metric, e)))


@pytest.mark.parametrize("name", sorted(FOUND))
def test_the_numbers_of_a_type_are_found(name):
    whole, count, columns, digits = FOUND[name]
    scales = known(name)[1].scales
    assert [len(number.bits) for number in scales._whole] == whole
    assert len(scales._parts) == count
    assert all(len(places) == columns for places, _ in scales._parts)
    assert all([len(number.bits) for number in numbers] == digits for _, numbers in scales._parts)


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ2_XS", "IQ3_XXS", "IQ1_M"])
def test_a_step_of_the_scale_of_a_part_is_always_as_large(name):
    """So the bits of each number are in their order, though some lie far apart."""
    _, chooser = known(name)
    encoded = encoded_blocks(known(name)[0], 1)[1]
    for columns, numbers in chooser.scales._parts:
        for number in numbers:
            bits = np.repeat(np.unpackbits(encoded, axis=1, bitorder="little"), number.most + 1, axis=0)
            number.write(bits, np.arange(number.most + 1))
            values = chooser.decoded(np.packbits(bits, axis=1, bitorder="little"))[columns]
            steps = np.diff(values, axis=1)
            assert np.allclose(steps, steps[:, :1], rtol=1e-3, atol=1e-4 * abs(values).max())
            assert steps.any()


@every_type
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 1.0, 10.0]))
def test_blocks_never_cost_more_than_before(name, seed, spread):
    chooser, q, gradient, metric, encoded, wanted = case(name, seed, spread)
    found, change = chooser.scales.refit(q, gradient, metric, encoded)
    assert np.allclose(chooser.decoded(found), q + change)
    before, after = cost(wanted - q, metric), cost(wanted - chooser.decoded(found), metric)
    assert (after <= before + 1e-5 * cost(wanted, metric)).all()


@every_type
def test_codes_stay_as_they_are(name):
    chooser, q, gradient, metric, encoded, _ = case(name, 7)
    found, _ = chooser.scales.refit(q, gradient, metric, encoded)
    assert (found & chooser.layout.mask == encoded & chooser.layout.mask).all()


@pytest.mark.parametrize("name", ["Q4_K", "Q3_K", "IQ4_XS", "Q4_0", "Q5_1", "TOY3"])
def test_scales_follow_weights_that_are_larger(name):
    """Every weight of the blocks is to become a twentieth larger: scales can do nearly all of that."""
    chooser, q, _, metric, encoded, _ = case(name, 5)
    wanted = 1.05 * q
    found, _ = chooser.scales.refit(q, metric @ (wanted - q), metric, encoded)
    before, after = cost(wanted - q, metric), cost(wanted - chooser.decoded(found), metric)
    assert after.sum() < 0.25 * before.sum()


@every_type
def test_gradients_that_are_no_numbers_change_nothing(name):
    chooser, q, gradient, metric, encoded, _ = case(name, 3)
    found, change = chooser.scales.refit(q, np.full_like(gradient, np.nan), metric, encoded)
    assert np.array_equal(found, encoded)
    assert not change.any()


def test_a_block_of_very_many_bits_that_are_no_codes_has_no_scales():
    codes = np.zeros(1024, np.uint8)
    found = Scales.of(lambda blocks: blocks[:, :4].T.astype(np.float32), codes, np.ones((3, 1024), np.uint8))
    q = np.ones((4, 3), np.float32)
    blocks, change = found.refit(q, q, np.eye(4, dtype=np.float32), np.ones((3, 1024), np.uint8))
    assert (blocks == 1).all()
    assert not change.any()
