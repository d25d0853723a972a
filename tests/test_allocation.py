"""Allocation: the least loss within so many bytes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantreg.errors import PlanError
from quantreg.tuning.allocation import Choice, allocate

tables = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 10)), min_size=1, max_size=4), min_size=1, max_size=4
)


def choices_of(table):
    return {f"t{i}": [Choice(f"T{j}", n, loss) for j, (n, loss) in enumerate(row)] for i, row in enumerate(table)}


@given(tables, st.integers(1, 160))
def test_the_bytes_fit_and_no_single_change_would_be_better(table, budget):
    choices = choices_of(table)
    smallest = sum(min(c.nbytes for c in row) for row in choices.values())
    if smallest > budget:
        with pytest.raises(PlanError, match=f"{smallest} bytes"):
            allocate(choices, budget)
        return
    chosen = allocate(choices, budget)
    used = sum(c.nbytes for c in chosen.values())
    assert used <= budget
    for name, row in choices.items():
        for other in row:
            fits = used - chosen[name].nbytes + other.nbytes <= budget
            assert not (fits and other.loss < chosen[name].loss)


@given(tables)
def test_with_room_for_all_every_tensor_gets_its_best_choice(table):
    choices = choices_of(table)
    chosen = allocate(choices, 1000)
    assert [c.loss for c in chosen.values()] == [min(c.loss for c in row) for row in choices.values()]


@pytest.mark.parametrize("budget", [24, 30, 41, 55, 70])
def test_for_losses_that_fall_with_size_it_is_close_to_the_best_there_is(budget):
    sizes, weights = (4, 6, 9, 14), (1.0, 3.0, 0.2, 8.0, 0.5)
    choices = {
        f"t{i}": [Choice(f"T{size}", size, weight * 4.0**-size) for size in sizes] for i, weight in enumerate(weights)
    }
    chosen = allocate(choices, budget)
    fitting = (row for row in itertools.product(*choices.values()) if sum(c.nbytes for c in row) <= budget)
    best = min(sum(c.loss for c in row) for row in fitting)
    assert sum(c.loss for c in chosen.values()) <= 1.05 * best


def test_the_result_is_the_same_each_time_also_among_equals():
    choices = {f"t{i}": [Choice("A", 4, 1.0), Choice("B", 4, 1.0), Choice("C", 8, 0.5)] for i in range(6)}
    assert [c.type for c in allocate(choices, 33).values()] == [c.type for c in allocate(choices, 33).values()]
