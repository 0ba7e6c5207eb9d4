"""The shapes of the learning rate."""

import itertools
import math

import pytest

from bareformers.recipe import Training, paring
from bareformers.training.schedules import SCHEDULES, factor

STEPS, WARMUP, DECAY = 1000, 100, 0.3

schedules = pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"slanted_triangular"}))
ending = pytest.mark.parametrize("schedule", ["warmup_stable_decay", "cosine"])


def curve(schedule, warmup=WARMUP, decay=DECAY):
    return [factor(schedule, step, step / STEPS, warmup, decay) for step in range(STEPS + 1)]


def rises(values):
    return all(low < high for low, high in itertools.pairwise(values))


def falls(values):
    return all(low <= high + 1e-12 for high, low in itertools.pairwise(values))


@schedules
def test_it_rises_then_falls(schedule):
    values = curve(schedule)
    assert rises(values[: WARMUP - 3]) and falls(values[WARMUP:])
    assert 0 < values[0] < 0.02 and 0.96 < max(values) < 1 + 1e-12


@schedules
def test_without_warmup_it_starts_at_the_peak(schedule):
    values = curve(schedule, warmup=0)
    assert values[0] == pytest.approx(1) and falls(values)


@ending
def test_it_ends_with_the_budget(schedule):
    assert curve(schedule)[-1] == pytest.approx(0, abs=1e-12)
    assert factor(schedule, 500, 1.0, WARMUP, DECAY) == pytest.approx(0, abs=1e-12)
    assert factor(schedule, 500, 1.7, WARMUP, DECAY) == pytest.approx(0, abs=1e-12)


def test_warmup_stable_decay():
    values = curve("warmup_stable_decay")
    assert values[:WARMUP] == pytest.approx([(step + 1) / WARMUP for step in range(WARMUP)])
    assert set(values[WARMUP:700]) == {1.0}
    assert values[850] == pytest.approx(0.5) and values[925] == pytest.approx(0.25)
    assert set(curve("warmup_stable_decay", decay=0.0)[WARMUP:STEPS]) == {1.0}
    assert curve("warmup_stable_decay", decay=1.0)[500] == pytest.approx(0.5)


def test_cosine():
    values = curve("cosine", warmup=0)
    assert (values[500], values[250]) == (pytest.approx(0.5), pytest.approx(0.5 + 0.5 * 0.5**0.5))


def printed(steps, cut_frac=0.1, ratio=32):
    """Equation 3 of Howard & Ruder (2018) as it stands, over its peak."""
    cut = math.floor(steps * cut_frac)
    shares = [t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1)) for t in range(steps)]
    return [(1 + share * (ratio - 1)) / ratio for share in shares]


@pytest.mark.parametrize("steps", range(1, 21))
def test_slanted_triangular_whatever_the_number_of_steps(steps):
    values = [factor("slanted_triangular", step, step / steps, 100, 0.35) for step in range(steps + 1)]
    assert all(1 / 32 - 1e-12 <= value <= 1 for value in values)
    assert values[0] == values[-1] == pytest.approx(1 / 32)
    if steps % 10 == 0:
        assert values[:-1] == pytest.approx(printed(steps))
    elif steps < 10:
        with pytest.raises(ZeroDivisionError):
            printed(steps)
    if steps == 19:
        assert min(printed(steps)) < 0, "which ours never is"


def test_slanted_triangular_is_the_printed_one():
    values = curve("slanted_triangular")
    assert values[:-1] == pytest.approx(printed(STEPS)) and rises(values[:101]) and falls(values[100:])


@pytest.mark.parametrize("key, value", [("warmup_steps", 50), ("decay", 0.5)])
def test_slanted_triangular_refuses_what_would_do_nothing(key, value):
    with pytest.raises(ValueError, match=f"slanted_triangular has its own rise and fall, so {key} {value} would do"):
        Training.model_validate({"budget": {"steps": 1}, "schedule": "slanted_triangular", key: value})


def test_a_paring_can_have_it_too():
    """Its own default of the warm-up goes."""
    found = paring({"name": "x", "model": "y", "finetune": {"schedule": "slanted_triangular"}})
    assert found.finetune.warmup_steps == 100 and found.finetune.learning_rate == 5e-5


def test_inverse_sqrt_is_equation_3_of_the_paper():
    """lrate ~ min(step^-0.5, step * warmup^-1.5), steps counted from 1, here over its peak warmup^-0.5."""
    expected = [min(step**-0.5, step * WARMUP**-1.5) * WARMUP**0.5 for step in range(1, STEPS + 2)]
    assert curve("inverse_sqrt") == pytest.approx(expected)
    assert factor("inverse_sqrt", 400, 0.0, WARMUP, DECAY) == factor("inverse_sqrt", 400, 1.0, WARMUP, DECAY)
