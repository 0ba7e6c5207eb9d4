"""Sweeps: the same comparison at many sizes and amounts of data, and the laws that its losses follow."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from bareformers import run as running
from bareformers import run_folder, sweep
from bareformers.data.corpus import Corpus, WordSequence
from bareformers.errors import InputError
from bareformers.recipe import Recipe, Sweep, load
from bareformers.report import scale as reporting
from bareformers.report.result import Comparison
from bareformers.report.scale import Scale
from tests.training import tiny

RECIPE = Path(__file__).parents[1] / "recipes" / "scale" / "language_model.yaml"
COMMAND = "bareformers run sweep.yaml"
SIZES = {
    "small": {"hidden_size": 8, "num_attention_heads": 1, "learning_rate": 0.004},
    "large": {"hidden_size": 16, "num_attention_heads": 2, "learning_rate": 0.002},
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def recipe_at(folder, **given):
    """The recipe of a sweep over sizes and shares of the data, with two variants; `given` replaces its sections."""
    path = tiny.language_modelling(folder, "dot_product", "average")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe |= {"kind": "sweep", "sweep": {"sizes": SIZES, "share": [0.5, 1]}}
    recipe["model"] = {key: value for key, value in recipe["model"].items() if key in ("intermediate_size", "dropout")}
    recipe["model"]["num_hidden_layers"] = 1
    recipe["training"] |= {"budget": {"epochs": 0.15}, "evaluations": 1, "checkpoints": 1, "precision": "fp32"}
    recipe |= given
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def carry_out(path, *overrides, **given):
    """What was found, and what was said on the way."""
    said = []
    return sweep.run(load(path, list(overrides)), COMMAND, log=said.append, **given), said


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return recipe_at(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def finished(recipe):
    found, said = carry_out(recipe)
    return recipe.parent / "run", found, said


@pytest.fixture
def unreported(monkeypatch):
    """Points are not drawn, which takes seconds."""
    monkeypatch.setattr("bareformers.report.html.build", lambda folder: None)


# The recipe

POINTS = ["small,share=0.5", "small,share=1", "large,share=0.5", "large,share=1"]


def test_a_point_is_an_ordinary_comparison(recipe):
    found = load(recipe)
    assert type(found) is Sweep and list(found.points()) == POINTS
    point = found.points()["large,share=0.5"]
    assert type(point) is Recipe and point.folder == found.folder / "large,share=0.5"
    assert point.model == {"intermediate_size": 32, "dropout": 0.0, "num_hidden_layers": 1} | {
        "hidden_size": 16, "num_attention_heads": 2,
    }  # fmt: skip
    assert point.training.learning_rate == 0.002 and point.task.share == 0.5 and point.task.vocab_size == 300
    assert point.variants == found.variants and point.seeds == found.seeds


def test_tokens_are_the_budget(tmp_path):
    training = {"learning_rate": 0.1}
    path = recipe_at(tmp_path, training=training, sweep={"tokens": ["1k", 2500], "num_hidden_layers": [1]}, model={})
    found = load(path)
    assert list(found.points()) == ["tokens=1k,num_hidden_layers=1", "tokens=2500,num_hidden_layers=1"]
    assert [point.training.budget.tokens for point in found.points().values()] == [1000, 2500]
    (tmp_path / "again.yaml").write_text(found.dump(), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == found


@pytest.mark.parametrize(
    "given, words",
    [
        ({"sweep": {}}, "sweep says what grows, as in sweep: {hidden_size"),
        ({"sweep": {"hidden_size": 64}}, "sweep.hidden_size"),
        ({"sweep": {"hidden_size": []}}, "sweep.hidden_size needs at least one value"),
        ({"sweep": {"share": [0.5, 0.5]}}, "sweep.share needs at least one value, and none twice"),
        ({"sweep": {"share": [0.5, 1.5]}}, "the point share=1.5: task.share: .* not 1.5"),
        ({"sweep": {"sizes": [1, 2]}}, "sweep.sizes is a mapping of names to sizes"),
        ({"sweep": {"hidden_size": {"a": {}}}}, "sweep.hidden_size is a list of values"),
        ({"sweep": {"sizes": {"a b": {"hidden_size": 8}}}}, "size 'a b' names a folder: use letters"),
        ({"sweep": {"sizes": {"a": {"hidden_size": 8}, "b": {}}}}, "not all of them say hidden_size"),
        ({"sweep": {"sizes": SIZES, "hidden_size": [8]}}, "sweep.hidden_size is also in sweep.sizes"),
        ({"sweep": {"share": [1], "tokens": [9]}, "training": {}}, "sweep.share and sweep.tokens both say"),
        ({"sweep": {"tokens": [900, 1000]}}, "sweep.tokens is the budget, so training.budget would do nothing"),
        ({"sweep": {"tokens": ["much"]}, "training": {}}, "sweep.tokens is a list of budgets"),
        ({"training": {"budget": {"minutes": 1}}}, "training.budget.minutes lets each size learn from another amount"),
        ({"sweep": {"max_length": [16, 32]}, "task": {"max_length": 16}}, "so task.max_length would do nothing"),
        ({"sweep": {"intermediate_size": [8]}}, "nothing where model.intermediate_size says it"),
        (
            {"training": {"budget": {"steps": 1}, "learning_rate": 0.5}},
            "learning_rate is in the sweep, so training.learning_rate would do nothing; leave it out",
        ),
        ({"variants": {"a": {"hidden_size": 8}}}, "nothing where variants.a.hidden_size says it"),
        ({"variants": {"a": {"training": {"learning_rate": 1}}}}, "where variants.a.training.learning_rate says it"),
    ],
)
def test_what_is_wrong_with_a_grid(tmp_path, given, words):
    with pytest.raises(InputError, match=words) as raised:
        load(recipe_at(tmp_path, **given))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "grown, words",
    [
        ({"hiden_size": [8, 16]}, "unknown key of sweep 'hiden_size'; did you mean 'hidden_size'"),
        ({"shares": [0.5]}, "unknown key of sweep 'shares'; did you mean 'share'"),
        ({"sizes": {"a": {"learning_rat": 1}}}, "unknown key of sweep.sizes.a 'learning_rat'; did you mean 'learning_"),
        ({"hidden_size": [8, 15]}, "variant 'dot_product': hidden_size 15 is not a multiple"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, trained, grown, words):
    with pytest.raises(InputError, match=words) as raised:
        carry_out(recipe_at(tmp_path, sweep=grown))
    assert "\n" not in str(raised.value) and not trained and not (tmp_path / "run").exists()


# A share of the data


def test_a_smaller_share_is_part_of_a_larger_one():
    texts = tuple(f"{index} " * (1 + index % 7) for index in range(200))
    corpus = Corpus("documents", texts, ("v",), ("t",), unlabelled=texts[:20])
    found = [corpus.less(share) for share in (0.1, 0.25, 0.5, 1)]
    for one, other in zip(found, found[1:], strict=False):
        assert set(one.train) < set(other.train) and set(one.unlabelled) < set(other.unlabelled)
    assert found[-1] is corpus and list(found[1].train) == sorted(found[1].train, key=texts.index)
    total = sum(map(len, texts))
    for share, one in zip((0.1, 0.25, 0.5), found, strict=False):
        assert share * total <= sum(map(len, one.train)) <= share * total + max(map(len, texts))
        assert (one.validation, one.test) == (corpus.validation, corpus.test)
    assert found[0].notes == (
        f"Of the training side, 10 % is read: {len(found[0].train)} of 200 documents, chosen by hash.",
    )
    sequences = tuple(WordSequence((str(index), "a"), (1,)) for index in range(10))
    assert len(Corpus("sequences", sequences, sequences[:1]).less(0.3).train) == 3
    assert len(Corpus("pairs", (("a", "b"),), (("c", "d"),)).less(0.01).train) == 1


def test_the_tokenizer_and_the_other_sides_are_the_same_for_all(finished):
    folder, _, said = finished
    spelled = {path.read_text("utf-8") for path in folder.rglob("tokenizer.json")}
    assert len(list(folder.rglob("tokenizer.json"))) == 8 and len(spelled) == 1
    sizes = [[len(side) for side in (data.train, data.validation, data.test)] for data in (
        run_folder.reload(folder / "small,share=0.5" / "average" / "seed0", [])[1],
        run_folder.reload(folder / "small,share=1" / "average" / "seed0", [])[1],
    )]  # fmt: skip
    assert sizes[0][1:] == sizes[1][1:] and sizes[0][0] == pytest.approx(sizes[1][0] / 2, rel=0.05)
    assert sum("50 % is read" in sentence for sentence in said) == 1


# What a sweep leaves


def test_a_sweep_leaves_everything(finished):
    folder, found, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        "recipe.yaml",
        "result.json",
        "results.csv",
        "report.html",
        *POINTS,
    }
    for point in POINTS:
        inside = {path.name for path in (folder / point).iterdir()}
        assert inside == {"recipe.yaml", "result.json", "results.csv", "report.html", "dot_product", "average"}
    assert Scale.load(folder / "result.json") == found
    rows = list(csv.DictReader((folder / "results.csv").open(encoding="utf-8")))
    assert [(row["point"], row["variant"]) for row in rows] == [
        (p, v) for p in POINTS for v in ("dot_product", "average")
    ]
    assert (rows[0]["sizes"], rows[0]["share"], rows[0]["loss"]) == ("small", "0.5", str(found.points[0].loss.value))


def test_points_are_those_of_the_comparisons(finished):
    folder, found, _ = finished
    for point in found.points:
        variant = Comparison.load(folder / point.name / "result.json").variant(point.variant)
        assert point.loss == variant.quality["loss"] and point.losses == [point.loss.value]
        assert point.parameters == variant.cost["parameters_without_embeddings"].value
        assert (point.tokens, point.floor) == (variant.budget["tokens"], point.variant == "average")
        assert point.distinct == pytest.approx(min(point.tokens, point.tokens / point.epochs), rel=1e-3)
    assert {point.setting for point in found.points} == {""} and found.unit == "nats/token"
    assert [fit.axes for fit in found.fits] == [["parameters"], ["tokens"]] * 2
    assert all("2 points are too few for an irreducible loss" in fit.remark or not fit.law.holds for fit in found.fits)


def test_the_report(finished, capsys):
    folder, found, _ = finished
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert COMMAND in page and all(point in page for point in POINTS) and page.count('<svg class="figure"') == 3
    (folder / "report.html").unlink()
    outcome = tiny.command(capsys, "report", folder)
    assert outcome.code == 0 and (folder / "report.html").read_text(encoding="utf-8") == page
    assert len(reporting.table(found).rows) == 4


def test_given_again_nothing_is_trained_and_new_points_are_trained_alone(
    finished, recipe, tmp_path, trained, unreported
):
    folder, found, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    more, said = carry_out(recipe, "sweep.share=[0.5,0.75,1]", f"output={tmp_path / 'run'}")
    assert trained == [
        f"{size},share=0.75: {variant} seed 0" for size in SIZES for variant in ("dot_product", "average")
    ]
    assert sum("finished before" in sentence for sentence in said) == 8
    assert [point for point in more.points if point.name in POINTS] == found.points


def test_a_folder_of_another_recipe_is_left_alone(finished, recipe, tmp_path, trained):
    with pytest.raises(
        InputError, match="small,share=0.5/dot_product/seed0 belongs to another recipe: training.batch_tokens differs"
    ):
        carry_out(recipe, "training.batch_tokens=128")
    plain = tiny.language_modelling(tmp_path, "average")
    with pytest.raises(InputError, match="run belongs to another recipe: kind differs"):
        running.run(load(plain, [f"output={finished[0]}"]), COMMAND, log=lambda sentence: None)
    assert not trained


def test_a_run_that_diverges_is_left_out_of_the_laws(tmp_path):
    path = recipe_at(tmp_path, sweep={"sizes": SIZES}, variants={"average": {"mixer": "average"}})
    found, _ = carry_out(path, "sweep.sizes.large.learning_rate=1e30")
    assert [point.status for point in found.points] == ["finished", "diverged"]
    assert [(fit.points, fit.law, fit.remark) for fit in found.fits] == [
        (1, None, "one point lies on every law, so none is fitted")
    ]
    assert json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["points"][1]["tokens"] == "NaN"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Left out of the laws, since it did not end in numbers: average at large." in page


def test_what_makes_nothing_larger_parts_the_points(tmp_path):
    task, grown = {"vocab_size": 300}, {"max_length": [16, 24], "num_hidden_layers": [1, 2]}
    model = {key: value for key, value in tiny.SIZES.items() if key != "num_hidden_layers"}
    found = load(recipe_at(tmp_path, task=task, sweep=grown, model=model))
    assert [sweep.setting_of(values) for values in found.grid()] == ["max_length 16"] * 2 + ["max_length 24"] * 2


@pytest.mark.slow
def test_the_recipe_runs(tmp_path, unreported):
    given = load(RECIPE)
    first = next(iter(given.sizes))
    path = tmp_path / "recipe.yaml"
    plain = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    plain["sweep"] |= {"sizes": {first: given.sizes[first]}, "tokens": [1000, 2000]}
    path.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    quick = [word for word in tiny.two_steps(RECIPE, tmp_path) if not word.startswith(("model.", "training.budget"))]
    found, _ = carry_out(path, *quick, f"output={tmp_path / 'run'}")
    assert len(found.points) == 2 * len(given.variants) and all(point.counts for point in found.points)
    assert any(found.variants.values()), "a comparison without a floor says nothing"
