import math

import made_up
import pytest
from test_result import compare

from bareformers.report.result import Measure
from bareformers.report.verdict import caveats, crossovers, kept, kept_means, savings, summary, verdict
from bareformers.report.words import NBSP


def plain(text):
    return text.replace(NBSP, " ")


def with_costs(made, **costs):
    """Set `parameters` and `train_tokens_per_second` per variant: `a=(7, 100)`."""
    for name, (parameters, speed) in costs.items():
        variant = made.variant(name)
        variant.cost["parameters"] = Measure(value=parameters, better="lower", spread=0.0, seeds=2)
        variant.speed["train_tokens_per_second"] = Measure(
            value=speed, unit="tokens/s", better="higher", spread=1.0, seeds=2
        )
    return made


def test_higher_is_better_with_a_floor():
    made = compare({"dot": [40.0, 40.2], "gauss": [39.3, 39.5], "avg": [24.4, 24.6]}, floors={"avg"})
    with_costs(made, dot=(100, 100), gauss=(88, 112), avg=(80, 120))
    assert plain(verdict(made)) == (
        "gauss kept 98.3 % of dot's BLEU (39.4 against 40.1, 2 seeds), with 1.12× the training speed "
        "and 12 % fewer parameters; the floor avg kept 61 %."
    )
    assert plain(summary(made, "avg")).startswith("The floor avg kept 61 % of dot's BLEU (24.5 against 40.1, 2 seeds)")


def test_lower_is_better_with_a_floor_is_a_share_of_the_way():
    made = compare(
        {"dot": [10.0, 10.1], "gauss": [11.0, 11.1], "avg": [20.0, 20.1], "none": [90.0, 90.1]},
        key="perplexity", better="lower", floors={"avg", "none"},
    )  # fmt: skip
    assert plain(verdict(made)) == (
        "gauss went 90.0 % of the way from the floor avg to dot in perplexity (11.05 against 10.05, 2 seeds); "
        "the floor avg is at 20.05."
    )
    assert kept(made, made.variant("none")) == pytest.approx(-7.0)
    assert "no better than the floor avg" in summary(made, "none")
    assert "from the floor avg (0 %) to dot (100 %)" in plain(kept_means(made))


def test_lower_is_better_without_a_floor_is_a_plain_difference():
    made = compare({"dot": [10.0, 10.1], "gauss": [11.0, 11.1]}, key="perplexity", better="lower")
    assert plain(verdict(made)) == "gauss has 10 % higher perplexity than dot (11.05 against 10.05, 2 seeds)."
    assert kept(made, made.variant("gauss")) is None
    assert any(caveat.startswith("No floor") for caveat in caveats(made))
    assert "no floor" in kept_means(made)


def test_a_difference_within_the_spread_is_level_never_a_win():
    made = compare({"dot": [40.0, 40.5], "gauss": [40.2, 40.6]})
    assert plain(verdict(made)) == "gauss is level with dot in BLEU (40.4 against 40.2, within the spread of 2 seeds)."


def test_a_win_beyond_the_spread_says_so_and_one_seed_cannot():
    sure = compare({"dot": [40.0, 40.2], "gauss": [42.0, 42.2]})
    assert plain(verdict(sure)) == "gauss beat dot in BLEU (42.1 against 40.1, more than the spread of 2 seeds)."
    single = compare({"dot": [40.0], "gauss": [42.0]})
    assert plain(verdict(single)) == "gauss scored better than dot in BLEU (42.0 against 40.0, one seed)."
    assert caveats(single)[0] == "One seed: differences are not tested against chance."


def test_one_seed_is_held_against_the_spread_of_the_others():
    made = compare({"dot": [40.0, 40.2], "gauss": [42.0]})
    said = "gauss beat dot in BLEU (42.0 against 40.1, more than the spread of one seed against 2)."
    assert plain(verdict(made)) == said
    assert caveats(made)[0].startswith("One seed only of gauss")
    assert made.seeds == 2 and made.single == ["gauss"]


def test_a_baseline_of_one_seed_is_no_caveat():
    made = compare({"dot": [40.0], "gauss": [42.0, 42.2]})
    assert not any("One seed" in said for said in caveats(made))
    made = compare({"dot": [40.0], "gauss": [42.0], "delta": [41.0, 41.5]})
    assert caveats(made)[0] == "One seed only of gauss: their differences are not tested against chance."


def test_a_floor_as_good_as_the_baseline_shows_nothing():
    made = compare({"dot": [40.0, 40.5], "gauss": [39.0, 39.1], "avg": [40.1, 40.3]}, floors={"avg"})
    assert "but the floor avg does as well as dot (40.2), so nothing is shown" in plain(verdict(made))
    assert any("this task and budget rank nothing" in caveat for caveat in caveats(made))


def test_beside_a_floor_as_good_as_the_baseline_what_beats_both_is_shown():
    scores = {"dot": [40.0, 40.5], "gauss": [44.0, 44.2], "rand": [40.1, 40.2], "avg": [40.1, 40.3]}
    made = compare(scores, floors={"avg"})
    assert plain(verdict(made)).endswith(
        "; but the floor avg does as well as dot (40.2), so only gauss shows that mixing pays."
    )
    assert any("only gauss can be told from it" in caveat for caveat in caveats(made))


def test_a_variant_no_better_than_the_floor_is_told_so():
    made = compare({"dot": [40.0, 40.5], "gauss": [20.0, 20.4], "avg": [20.1, 20.3]}, floors={"avg"})
    assert plain(verdict(made)).endswith("; but that is no better than the floor avg (20.2).")


def test_no_share_of_a_loss_whose_floor_is_not_beaten():
    made = compare({"dot": [2.0, 2.2], "gauss": [2.5, 2.6], "avg": [2.1, 2.2]}, "loss", "lower", floors={"avg"})
    assert kept(made, made.variant("gauss")) is None


def test_nothing_to_compare():
    assert verdict(compare({"dot": [40.0, 40.2]})) == "Only dot was measured: BLEU 40.1."
    failed = compare({"dot": [math.nan], "gauss": [1.0]})
    failed.reference.status = "diverged"
    assert verdict(failed) == "The baseline dot has no BLEU (diverged): nothing to compare with."
    assert summary(failed, "gauss") == "gauss has BLEU 1.0, with no baseline to hold it against."


def test_a_failed_variant_is_never_the_best_and_is_named():
    made = compare({"dot": [40.0, 40.2], "gauss": [39.0, 39.1], "broken": [math.nan, 50.0]})
    made.variant("broken").status = "diverged"
    assert verdict(made).startswith("gauss")
    assert summary(made, "broken") == "broken has no BLEU (diverged)."
    assert any("broken did not finish" in caveat for caveat in caveats(made))


def test_only_floors_beside_the_baseline():
    made = compare({"dot": [40.0, 40.2], "avg": [20.0, 20.1]}, floors={"avg"})
    assert plain(verdict(made)) == "The floor avg kept 50 % of dot's BLEU (20.1 against 40.1, 2 seeds)."


def test_savings_speak_of_losses_too_and_hold_speeds_against_their_spread():
    made = with_costs(compare({"dot": [1.0, 1.1], "b": [1.0, 1.1]}), dot=(100, 100), b=(150, 99.5))
    said = [plain(text) for text in savings(made, made.variant("b"), ("train_tokens_per_second", "parameters"))]
    assert said == ["the same training speed", "50 % more parameters"]
    assert [plain(text) for text in savings(made, made.variant("b"))] == ["50 % more parameters"]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("state_bytes", 0, "no decoding state"),
        ("state_bytes", 8192, "1/12 of the decoding state"),
        ("state_bytes", 65536, "33 % less decoding state"),
        ("state_bytes", 196608, "2.00× the decoding state"),
        ("parameters", 65536, "33 % fewer parameters"),
        ("parameters", 147456, "50 % more parameters"),
        ("parameters", 2162688, "22× the parameters"),
    ],
)
def test_costs_in_words(key, value, text):
    made = made_up.comparison()
    for variant in made.variants:
        variant.cost = {key: Measure(value=98304, better="lower", spread=0.0, seeds=3)}
        variant.speed = {}
    made.variants[1].cost[key].value = value
    assert [plain(said) for said in savings(made, made.variants[1])] == [text]


def test_crossovers_hold_from_a_length_on():
    made = compare({"dot": [1.0], "a": [1.0], "b": [1.0], "c": [1.0], "d": [1.0]})
    times = {"dot": (1, 4, 16), "a": (2, 3, 4), "b": (0.5, 1, 2), "c": (2, 5, 15.9), "d": (0.5, 5, 17)}
    for name, values in times.items():
        for length, value in zip((10, 100, 1000), values, strict=True):
            measure = Measure(value=value, unit="ms", better="lower", spread=0.2, seeds=2)
            made.variant(name).speed[f"forward_ms@{length}"] = measure
    assert made.lengths() == {"forward_ms": [10, 100, 1000]}
    assert crossovers(made, "forward_ms") == [
        "a from 100 tokens on",
        "b at every length measured",
        "c and d not at 1,000 tokens, the longest measured",
    ]
