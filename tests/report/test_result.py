import csv
import io
import json
import math
import re

import made_up
import pytest
from rich.console import Console

from bareformers.errors import InputError
from bareformers.report.result import Comparison, Measure, RunResult, aggregate, difference, write_csv
from bareformers.report.table import table


def runs(values, key="bleu", better="higher", floors=()):
    """Runs from `{variant: [value per seed]}`."""
    return [
        RunResult(
            variant=name,
            seed=seed,
            floor=name in floors,
            quality={key: Measure(value=value, better=better)},
            budget={"asked": {"tokens": 5}, "spent": {"seconds": 10.0 * seed}},
        )
        for name, per_seed in values.items()
        for seed, value in enumerate(per_seed, start=1)
    ]


def compare(values, key="bleu", better="higher", floors=(), **more):
    return aggregate(
        runs(values, key, better, floors), name="c", command="x", baseline=next(iter(values)), headline=key, **more
    )


def test_comparison_and_run_survive_their_files(tmp_path):
    made = made_up.comparison()
    assert Comparison.load(made.save(tmp_path / "deep" / "result.json")) == made
    run = made_up.run_results()[0]
    assert RunResult.load(run.save(tmp_path / "run.json")) == run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "run.json"]


def test_a_diverged_run_survives_as_strict_json(tmp_path):
    run = RunResult(variant="a", seed=1, quality={"loss": Measure(value=math.nan, better="lower")}, status="diverged")
    path = run.save(tmp_path / "result.json")

    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(path.read_text(), parse_constant=no_constants)
    assert math.isnan(RunResult.load(path).quality["loss"].value)


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"name": "x", "surprise": 1}', "\x00"],
    ids=["missing", "torn", "list", "foreign", "nul"],
)
def test_a_bad_file_is_one_sentence_that_names_it(tmp_path, content):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="result.json") as caught:
        Comparison.load(path)
    assert "\n" not in str(caught.value)


def test_a_later_schema_is_refused(tmp_path):
    path = made_up.comparison().save(tmp_path / "result.json")
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(InputError, match="schema_version"):
        Comparison.load(path)


def test_aggregate_gives_mean_and_spread_in_the_order_of_the_recipe():
    made = compare({"a": [1.0, 2.0, 6.0], "b": [3.0, 3.0, 3.0]}, order=["b", "a"])
    assert [variant.name for variant in made.variants] == ["b", "a"]
    measure = made.variant("a").quality["bleu"]
    assert (measure.value, measure.spread, measure.seeds, measure.better) == (3.0, 5.0, 3, "higher")
    assert made.variant("a").runs == ["a/seed1", "a/seed2", "a/seed3"]
    assert made.variant("a").budget == {"asked": {"tokens": 5}, "spent": {"seconds": 20.0}}
    assert made.seeds == 3


def test_one_seed_has_no_spread():
    assert compare({"a": [1.0]}).reference.quality["bleu"].spread is None


def test_one_diverged_seed_makes_the_mean_no_number():
    assert not compare({"a": [1.0, 2.0], "b": [1.0, math.nan]}).variant("b").quality["bleu"].finite


def test_aggregate_refuses_what_cannot_be_compared():
    with pytest.raises(InputError, match="did you mean 'gaussian'"):
        made_up.comparison(baseline="gausian")
    with pytest.raises(InputError, match="'bleau' was not measured; did you mean 'bleu'"):
        made_up.comparison(headline="bleau")
    with pytest.raises(ValueError, match="twice"):
        aggregate(runs({"a": [1.0]}) * 2, name="c", command="x", baseline="a", headline="bleu")


@pytest.mark.parametrize(
    ("values", "within", "tested", "better"),
    [
        ({"a": [10.0, 11.0], "b": [10.2, 10.4]}, True, True, False),  # 0.2 below, where a's seeds differ by 1
        ({"a": [10.0, 10.1], "b": [9.0, 12.0]}, True, True, True),  # 0.45 above, where b's seeds differ by 3
        ({"a": [10.0, 10.1], "b": [12.0, 12.1]}, False, True, True),
        ({"a": [10.0], "b": [12.0]}, False, False, True),
        ({"a": [10.0], "b": [10.0]}, False, False, None),
    ],
)
def test_a_difference_is_held_against_the_spread_of_either(values, within, tested, better):
    made = compare(values)
    found = difference(made.variant("b"), made.reference, "bleu")
    assert (found.within_spread, found.tested, found.better) == (within, tested, better)


def test_lower_is_better_where_it_is():
    made = compare({"a": [10.0, 10.1], "b": [8.0, 8.1]}, key="perplexity", better="lower")
    found = difference(made.variant("b"), made.reference, "perplexity")
    assert found.better and found.value == pytest.approx(-2.0) and found.relative == pytest.approx(-2 / 10.05)


def test_no_difference_without_two_numbers():
    made = compare({"a": [1.0], "b": [math.inf]})
    assert difference(made.variant("b"), made.reference, "bleu") is None
    assert difference(made.variant("b"), made.reference, "speed") is None


def test_csv_has_a_row_per_variant_with_means_and_spreads(tmp_path):
    with write_csv(made_up.comparison(), tmp_path / "results.csv").open(newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(made_up.VARIANTS)
    assert float(rows["gaussian"]["parameters"]) == 6825984 and float(rows["gaussian"]["parameters_spread"]) == 0
    assert (rows["average"]["floor"], rows["dot_product"]["baseline"], rows["delta"]["seeds"]) == ("true", "true", "3")


def printed(made, width=200):
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=True, color_system="standard").print(table(made))
    return output.getvalue()


def test_table_dims_what_lies_within_the_spread_and_colours_the_rest():
    text = printed(compare({"a": [10.0, 11.0], "near": [10.2, 10.4], "far": [20.0, 20.1]}))
    near, far = (next(line for line in text.splitlines() if name in line) for name in ("near", "far"))
    assert re.search(r"\x1b\[2m *−0.2", near) and "\x1b[32m" not in near
    assert re.search(r"\x1b\[32m *\+9.6", far)


def test_table_with_one_seed_says_so_and_colours_nothing():
    text = printed(compare({"a": [10.0], "b": [12.0]}))
    assert "One seed" in text and "\x1b[32m" not in text


def test_table_marks_floors_and_stands_missing_numbers():
    made = made_up.comparison()
    del made.variants[1].quality["bleu"], made.variants[1].speed["train_tokens_per_second"]
    text = printed(made)
    assert "floor" in next(line for line in text.splitlines() if "average" in line)
    assert "–" in next(line for line in text.splitlines() if "gaussian" in line)
