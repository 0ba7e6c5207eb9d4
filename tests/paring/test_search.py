"""The search for what to replace, on made-up numbers."""

import json
import math

import pytest

from bareformers.errors import InputError
from bareformers.paring.search import search

DROPS = {"a": {"cheap": 0.5, "dear": 0.1}, "b": {"cheap": 0.3, "dear": 0.2}, "c": {"cheap": 2.0, "dear": 0.9}}
SAVINGS = {"a": {"cheap": 4.0, "dear": 2.0}, "b": {"cheap": 3.0, "dear": 1.0}, "c": {"cheap": 4.0, "dear": 2.0}}
PLACES = {place: ["cheap", "dear"] for place in DROPS}


class Additive:
    """A quality of 90 from which the drops of all that is replaced are taken, with what they lose beyond that."""

    def __init__(self, drops=DROPS, together=0.0):
        self.drops, self.together, self.asked = drops, together, []

    def __call__(self, assignment):
        self.asked.append(dict(assignment))
        more = self.together * max(len(assignment) - 1, 0)
        return 90 - sum(self.drops[place][each] for place, each in assignment.items()) - more


def saving(place, candidate):
    return SAVINGS[place][candidate]


def steps(trace):
    return [(step.place, step.candidate, step.accepted) for step in trace.steps]


def test_an_instance_worked_out_by_hand():
    # Worth by gain / loss: a dear 20, b cheap 10, a cheap 8, b dear 5, c dear 2.2, c cheap 2. Once a has its dear one,
    # the cheap one brings 2 more for 0.4 more (5). All of 0.8 is spent on a and b, and c is too much alone.
    trace = search(PLACES, Additive(), saving, 0.8)
    assert steps(trace) == [
        ("a", "dear", True),
        ("b", "cheap", True),
        ("a", "cheap", True),
    ]
    assert trace.assignment == {"a": "cheap", "b": "cheap"}
    assert trace.steps[2].before == "dear" and trace.steps[2].saved == 7.0
    assert trace.steps[2].drop == pytest.approx(0.8) and trace.steps[2].quality == pytest.approx(89.2)
    assert trace.after(1) == {"a": "dear"} and trace.after(0) == {}
    assert "2 of 3 places" in trace.remark
    best = max(
        (sum(SAVINGS[place][each] for place, each in chosen.items()), chosen)
        for a in (None, "cheap", "dear")
        for b in (None, "cheap", "dear")
        for c in (None, "cheap", "dear")
        for chosen in [{place: each for place, each in zip("abc", (a, b, c), strict=True) if each}]
        if sum(DROPS[place][each] for place, each in chosen.items()) <= 0.8 + 1e-9
    )[0]
    assert trace.accepted[-1].saved == best


def test_every_candidate_is_first_tried_alone():
    quality = Additive()
    trace = search(PLACES, quality, saving, 0.8)
    assert quality.asked[0] == {}
    assert quality.asked[1:7] == [{place: each} for place in PLACES for each in PLACES[place]]
    assert trace.alone["c"]["dear"] == pytest.approx(0.9)
    assert len(quality.asked) == len({json.dumps(each, sort_keys=True) for each in quality.asked})


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.35, 0.6, 1.0, 1.7, 5.0])
@pytest.mark.parametrize("together", [0.0, 0.07, 0.4, -0.05])
def test_the_budget_is_never_exceeded(budget, together):
    quality = Additive(together=together)
    trace = search(PLACES, quality, saving, budget)
    assert all(step.drop <= budget + 1e-9 for step in trace.accepted)
    assert 90 - quality(trace.assignment) <= budget + 1e-9
    assert all(later.saved > step.saved for step, later in zip(trace.accepted, trace.accepted[1:], strict=False))


def test_what_saves_nothing_is_never_taken():
    savings = {place: {"cheap": 0.0, "dear": -1.0} for place in PLACES}
    trace = search(PLACES, Additive(), lambda place, each: savings[place][each], 100)
    assert trace.steps == [] and trace.assignment == {}
    assert trace.remark == "No candidate saves anything in any place, so nothing is replaced."
    savings["b"]["dear"] = 0.5
    trace = search(PLACES, Additive(), lambda place, each: savings[place][each], 100)
    assert trace.assignment == {"b": "dear"}


def test_an_unreachable_budget_leaves_all_as_it_is():
    trace = search(PLACES, Additive(), saving, 0.05)
    assert trace.assignment == {} and not trace.steps
    assert trace.remark == "Nothing can be replaced for a drop of at most 0.05: the least that one costs alone is 0.1."


def test_what_candidates_lose_together_counts_in_the_order():
    # Alone x loses less than y in each place; together x loses five times as much, and after one step y comes first.
    places = {place: ["x", "y"] for place in "pqr"}

    def quality(assignment):
        count = sum(each == "x" for each in assignment.values())
        return 50 - {0: 0, 1: 0.1, 2: 2.0, 3: 6.0}[count] - 0.12 * sum(each == "y" for each in assignment.values())

    savings = {"p": {"x": 1.1, "y": 1.0}, "q": {"x": 1.1, "y": 1.0}, "r": {"x": 1.1, "y": 1.0}}
    trace = search(places, quality, lambda place, each: savings[place][each], 0.5)
    tried = steps(trace)
    assert tried[:2] == [("p", "x", True), ("q", "x", False)]
    assert tried[2] == ("q", "y", True) and ("r", "y", True) in tried
    assert trace.assignment == {"p": "x", "q": "y", "r": "y"}


def test_drops_below_the_noise_are_all_alike():
    drops = {"a": {"x": 0.0}, "b": {"x": 0.09}}
    savings = {"a": 1.0, "b": 2.0}
    places = {place: ["x"] for place in drops}
    exact = search(places, Additive(drops), lambda place, each: savings[place], 1)
    noisy = search(places, Additive(drops), lambda place, each: savings[place], 1, noise=0.1)
    assert [step.place for step in exact.steps] == ["a", "b"]
    assert [step.place for step in noisy.steps] == ["b", "a"]


def test_equal_arguments_give_equal_traces():
    first, second = (search(PLACES, Additive(together=0.1), saving, 0.9) for _ in range(2))
    assert first == second


def test_a_search_that_was_killed_goes_on(tmp_path):
    whole = search(PLACES, Additive(together=0.05), saving, 0.9)
    for stop in (1, 4, 8):
        file = tmp_path / f"{stop}.json"
        quality = Additive(together=0.05)

        def killed(assignment, quality=quality, stop=stop):
            if len(quality.asked) == stop:
                raise KeyboardInterrupt
            return quality(assignment)

        with pytest.raises(KeyboardInterrupt):
            search(PLACES, killed, saving, 0.9, file=file)
        again = Additive(together=0.05)
        assert search(PLACES, again, saving, 0.9, file=file) == whole
        assert not any(each in quality.asked for each in again.asked)
        nothing = Additive()
        search(PLACES, nothing, saving, 0.9, file=file)
        assert nothing.asked == []


def test_a_damaged_file_is_said(tmp_path):
    file = tmp_path / "scores.json"
    file.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        search(PLACES, Additive(), saving, 0.9, file=file)


def test_no_number_is_a_drop_without_end(tmp_path):
    def quality(assignment):
        return math.nan if "a" in assignment else Additive()(assignment)

    trace = search(PLACES, quality, saving, 0.5, file=tmp_path / "scores.json")
    assert trace.assignment == {"b": "cheap"} and trace.alone["a"]["cheap"] == math.inf


def test_a_perplexity_rises():
    trace = search(
        {"a": ["x"], "b": ["x"]},
        lambda assignment: 20.0 + 0.1 * len(assignment),
        lambda place, each: 1.0,
        0.6,
        drop=lambda original, now: 100 * (now / original - 1),
    )
    assert trace.assignment == {"a": "x"} and trace.steps[-1].drop == pytest.approx(1.0)
