"""Batches: bounded, complete, random, repeatable, and over when the budget is."""

from itertools import islice

import numpy as np
import pytest

from bareformers.data.batching import BatchPlan, evaluation_batches
from bareformers.errors import InputError


@pytest.fixture(scope="module")
def sides():
    """Source and target lengths like those of image captions."""
    random = np.random.default_rng(0)
    sources = np.clip(random.gamma(9.0, 1.7, 20_000), 3, 60).astype(int)
    return sources, np.maximum(2, (sources * random.normal(0.97, 0.17, 20_000)).astype(int))


def plan(sides, **given):
    return BatchPlan(np.maximum(*sides), sides[1], given.pop("batch_tokens", 1024), given.pop("seed", 0), **given)


def test_each_epoch_holds_each_example_once(sides):
    batches = list(plan(sides, epochs=2))
    indices = np.concatenate(batches)
    assert (np.sort(indices[:20_000]) == np.arange(20_000)).all()
    assert (np.sort(indices[20_000:]) == np.arange(20_000)).all()


def test_batches_keep_their_bound(sides):
    longest = np.maximum(*sides)
    assert all(len(batch) * longest[batch].max() <= 1024 for batch in plan(sides, epochs=1))


def test_an_example_beyond_the_bound_is_alone():
    batches = list(BatchPlan([5, 500, 4, 600], [1, 1, 1, 1], 100, 0, epochs=1))
    assert sorted(map(sorted, batches)) == [[0, 2], [1], [3]]
    assert evaluation_batches([5, 500, 4, 600], 100) == [[3], [1], [0, 2]]


def test_little_is_padding(sides):
    def padding(batches):
        padded = sum(len(batch) * (sides[0][batch].max() + sides[1][batch].max()) for batch in batches)
        return 1 - sum(side.sum() for side in sides) / padded

    order = np.random.default_rng(0).permutation(20_000)
    assert padding(list(plan(sides, epochs=1))) < 0.09
    assert padding(np.array_split(order, len(plan(sides, epochs=1)))) > 0.4


def test_plans_are_repeatable_and_seeded(sides):
    first, again, other = (list(islice(plan(sides, seed=seed), 1500)) for seed in (3, 3, 4))
    assert first == again != other
    assert list(plan(sides, seed=3, steps=700)) == first[:700]
    epoch = len(plan(sides, epochs=1))
    assert {frozenset(batch) for batch in first[:epoch]} != {frozenset(batch) for batch in first[epoch : 2 * epoch]}


def test_lengths_come_in_random_order(sides):
    longest = [np.maximum(*sides)[batch].max() for batch in plan(sides, epochs=1)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


def test_budgets(sides):
    targets = sides[1]
    for given in ({"steps": 900}, {"tokens": 700_000}, {"epochs": 1.5}, {"tokens": 1}, {"epochs": 0.001}):
        budget = plan(sides, **given)
        batches = list(budget)
        assert len(budget) == len(batches)
        assert budget.tokens == sum(targets[batch].sum() for batch in batches)
        assert budget.epochs == pytest.approx(sum(map(len, batches)) / 20_000)
    assert len(plan(sides, steps=900)) == 900
    budget = plan(sides, tokens=700_000)
    assert budget.tokens - targets[list(budget)[-1]].sum() < 700_000 <= budget.tokens
    assert plan(sides, epochs=2).epochs == 2.0
    exact = plan(sides, epochs=1).tokens
    assert len(plan(sides, tokens=exact)) == len(plan(sides, epochs=1))


def test_no_budget_has_no_end(sides):
    endless = plan(sides)
    with pytest.raises(TypeError):
        len(endless)
    assert endless.tokens is None and endless.epochs is None
    assert sum(len(batch) for batch in islice(endless, 2000)) > 2 * 20_000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 3, "epochs": 1}, "one budget, not steps and epochs"),
        ({"steps": 0}, "steps must be above zero"),
        ({"tokens": -1}, "tokens must be above zero"),
        ({"batch_tokens": 0}, "batch_tokens must be above zero"),
    ],
)
def test_impossible_plans(sides, given, message):
    with pytest.raises(InputError, match=message):
        plan(sides, **given)
    with pytest.raises(InputError, match="no examples"):
        BatchPlan([], [], 10, 0)


def test_blocks_of_one_length_fill_every_batch():
    batches = list(BatchPlan(np.full(100_000, 256), np.full(100_000, 255), 4096, 0, epochs=1))
    assert {len(batch) for batch in batches} == {16}
    assert np.mean(np.diff(batches[0]) > 0) < 0.9


def test_evaluation_batches_hold_each_example_once(sides):
    longest = np.maximum(*sides)
    batches = evaluation_batches(longest, 2048)
    assert sorted(index for batch in batches for index in batch) == list(range(20_000))
    assert all(len(batch) * longest[batch].max() <= 2048 for batch in batches)
    assert evaluation_batches([], 10) == []
