"""Mixers x tasks, from comparisons that are finished."""

import csv
from pathlib import Path

import pytest
from rich.console import Console

from bareformers import matrix
from bareformers.errors import InputError
from bareformers.recipe import MatrixRecipe, load
from bareformers.report import matrix as reporting
from bareformers.report.kinds import SHOWN, shown
from bareformers.report.matrix import Matrix
from bareformers.report.result import Measure, RunResult, aggregate

ROOT = Path(__file__).parents[1]
MIXERS = ["dot_product", "gaussian", "linear", "average"]


def finished(folder, scores, *, metric="accuracy", better="higher", baseline="dot_product", floors=("average", "none")):
    """A comparison in `folder` with one run for each of the scores of a variant."""
    runs = [
        RunResult(
            variant=name,
            seed=seed,
            floor=name in floors,
            quality={metric: Measure(value=value, better=better), "mute": Measure(value=1.0)},
        )
        for name, values in scores.items()
        for seed, value in enumerate(values)
    ]
    made = aggregate(runs, name=folder.name, command="bareformers run", baseline=baseline, headline=metric)
    made.save(folder / "result.json")
    return folder


@pytest.fixture
def digits(tmp_path):
    scores = {"dot_product": [96, 98], "gaussian": [89, 93], "none": [20, 20], "average": [49, 51], "hc": [104, 104]}
    return finished(tmp_path / "digits", scores)


@pytest.fixture
def text(tmp_path):
    return finished(
        tmp_path / "text",
        {"dot_product": [2.0], "gaussian": [1.9], "linear": [2.5], "average": [3.0]},
        metric="loss",
        better="lower",
    )


def carried_out(tmp_path, tasks, **given):
    recipe = MatrixRecipe.model_validate(
        {"name": "m", "output": str(tmp_path / "m"), "mixers": MIXERS, "tasks": tasks, **given}
    )
    return matrix.run(recipe, "bareformers run m.yaml", log=lambda sentence: None)


def test_a_share_is_that_of_the_way_from_the_best_floor(tmp_path, digits, text):
    found = carried_out(tmp_path, {"Digits": {"results": str(digits)}, "Text": {"results": str(text)}})
    images, words = found.rows
    assert (images.floor, images.distance, images.tested) == ("average", 47.0, True)
    assert images.cells["gaussian"].share == pytest.approx((91 - 50) / 47)
    assert images.cells["gaussian"].spread == pytest.approx(4 / 47)
    assert images.cells["average"].share == 0 and images.cells["dot_product"].share == 1
    assert "linear" not in images.cells
    # Lower is better: from 3 down to 2.
    assert {mixer: cell.share for mixer, cell in words.cells.items()} == pytest.approx(
        {"dot_product": 1, "gaussian": 1.1, "linear": 0.5, "average": 0}
    )
    assert words.cells["gaussian"].spread is None and not words.tested
    assert found.reached() == {"gaussian": (0, 1)}  # one seed of text is no test


def test_a_mixer_may_have_another_name_there(tmp_path, digits):
    found = carried_out(tmp_path, {"Digits": {"results": str(digits), "variants": {"linear": "hc"}}})
    assert found.rows[0].cells["linear"].variant == "hc"
    assert found.rows[0].cells["linear"].share == pytest.approx(54 / 47)
    assert found.rows[0].comes_as_far("linear") and not found.rows[0].comes_as_far("gaussian")
    assert found.reached() == {"gaussian": (0, 1), "linear": (1, 1)}


def test_where_the_floor_is_as_good_there_is_no_way(tmp_path):
    folder = finished(tmp_path / "c", {"dot_product": [50, 54], "gaussian": [60, 60], "average": [50, 52]})
    found = carried_out(tmp_path, {"Level": {"results": str(folder)}})
    assert not found.rows[0].open and all(cell.share is None for cell in found.rows[0].cells.values())
    assert reporting.written(found.rows[0], "gaussian") == "60.00"
    assert (
        "In none of the 1 task with several seeds" in reporting.verdict(found)
        and "does no better" in reporting.caveats(found)[0]
    )


def test_what_is_said_is_what_stands_there(tmp_path, digits, text):
    found = carried_out(tmp_path, {"Digits": {"results": str(digits)}, "Text": {"results": str(text)}})
    said = reporting.verdict(found)
    assert "in 1 of 1 task with several seeds; nothing else that was tried comes as far in Digits." in said
    assert reporting.caveats(found) == ["One seed of Text: shares there are not held against chance."]
    assert reporting.written(found.rows[0], "gaussian").replace("\xa0", " ") == "87 % ± 4"
    assert reporting.written(found.rows[0], "linear") == "–"


def test_noise_does_not_come_as_far(tmp_path):
    scores = {"dot_product": [90, 91, 92], "gaussian": [30, 60, 95], "linear": [89, 91, 90], "average": [60, 61, 62]}
    found = carried_out(tmp_path, {"Task": {"results": str(finished(tmp_path / "c", scores))}})
    assert not found.rows[0].comes_as_far("gaussian") and found.rows[0].comes_as_far("linear")
    assert "As far come linear in 1 of 1." in reporting.verdict(found)


def test_what_was_not_tried_is_not_said_to_fall_short(tmp_path):
    folder = finished(tmp_path / "c", {"dot_product": [90, 91], "average": [60, 61]})
    found = carried_out(tmp_path, {"Task": {"results": str(folder)}})
    assert reporting.verdict(found).endswith("by more than chance in 1 of 1 task with several seeds.")


def test_what_diverged_is_said(tmp_path):
    scores = {"dot_product": [90, 91], "gaussian": [80, float("nan")], "average": [60, 61]}
    comparison = finished(tmp_path / "c", scores)
    text = (comparison / "result.json").read_text()
    at = text.index('"name": "gaussian"')
    place = text.rindex('"status": "finished"', 0, at)
    (comparison / "result.json").write_text(text[:place] + '"status": "diverged"' + text[place + 20 :])
    found = carried_out(tmp_path, {"Task": {"results": str(comparison)}})
    assert "gaussian" not in found.rows[0].cells
    assert "Diverged, and so left out: gaussian in Task." in reporting.caveats(found)


def test_files_and_report(tmp_path, digits):
    found = carried_out(tmp_path, {"Digits <1>": {"results": str(digits)}})
    folder = tmp_path / "m"
    assert Matrix.load(folder / "result.json") == found
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["mixer"] for row in rows] == ["dot_product", "gaussian", "average"]
    assert float(rows[1]["share"]) == pytest.approx(41 / 47) and rows[1]["results"] == str(digits)
    page = (folder / "report.html").read_text()
    assert (
        "Digits &lt;1&gt;" in page
        and "87\xa0%" in page
        and "<svg" in page
        and "http" not in page.replace("http-equiv", "")
    )
    (folder / "report.html").unlink()
    SHOWN["matrix"].build(folder)
    assert (folder / "report.html").read_text() == page
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    for table in shown(found).tables(found):
        console.print(table)
    assert "87\xa0%" in console.export_text()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"results": "nowhere"}, "nowhere holds no finished comparison"),
        ({"metric": "bleu"}, "has no bleu of a variant 'dot_product', and without dot_product no share can be taken"),
        ({"metric": "mute"}, "of mute neither direction is better"),
        ({"variants": {"gaussian": "gausian"}}, "has no variant 'gausian' for gaussian; it has dot_product"),
        ({"variants": {"gauss": "hc"}}, "names the mixer 'gauss', which is not among"),
    ],
)
def test_what_does_not_fit_is_a_sentence(tmp_path, digits, row, said):
    path = tmp_path / "m.yaml"
    path.write_text(
        f"kind: matrix\nname: m\nmixers: {MIXERS}\ntasks: {{Digits: { {'results': str(digits), **row} }}}\n"
    )
    with pytest.raises(InputError) as error:
        matrix.run(load(path, [f"output={tmp_path / 'm'}"]), "", log=print)
    assert said in str(error.value) and not (tmp_path / "m").exists()


def test_a_comparison_without_a_floor_has_no_way(tmp_path, digits):
    folder = finished(tmp_path / "c", {"dot_product": [1], "gaussian": [2]})
    with pytest.raises(InputError, match="has no floor"):
        carried_out(tmp_path, {"Floorless": {"results": str(folder)}})


def test_nothing_else_is_overwritten(tmp_path, digits):
    (digits / "recipe.yaml").write_text("kind: comparison\nname: digits\n")
    before = (digits / "result.json").read_text()
    with pytest.raises(InputError, match="belongs to another recipe"):
        carried_out(tmp_path, {"Digits": {"results": str(digits)}}, output=str(digits))
    assert (digits / "result.json").read_text() == before
    carried_out(tmp_path, {"Digits": {"results": str(digits)}})
    with pytest.raises(InputError, match="holds a matrix, not a comparison"):
        carried_out(tmp_path, {"Digits": {"results": str(tmp_path / "m")}}, output=str(tmp_path / "n"))


def test_the_recipe_of_the_repository(tmp_path, monkeypatch):
    """It reads what is committed, and gives what is committed but for when and how."""
    monkeypatch.chdir(ROOT)
    recipe = load(Path("recipes/tasks/matrix.yaml"), [f"output={tmp_path / 'm'}"])
    found = matrix.run(recipe, "bareformers run", log=lambda sentence: None)
    assert found.rows == Matrix.load(ROOT / "results" / recipe.name / "result.json").rows


def test_the_whole_is_a_column():
    with pytest.raises(ValueError, match="not among mixers"):
        MatrixRecipe(name="m", mixers=["gaussian"], tasks={"t": {"results": "r"}})
