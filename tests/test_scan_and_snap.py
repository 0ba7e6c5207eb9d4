"""Scan and Snap: one layer in its own variables, and what the maps of trained models read."""

import csv
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from bareformers import dynamics, scan_and_snap
from bareformers.data.corpus import Corpus
from bareformers.data.tasks import prepare
from bareformers.dynamics import Descent, Language, Rates, Sample
from bareformers.errors import InputError
from bareformers.measure.token_attention import Contexts, contexts, next_tokens, reading
from bareformers.recipe import ScanAndSnapRecipe, load
from bareformers.report import scan_and_snap as reporting
from bareformers.report.result import Measure
from bareformers.report.scan_and_snap import HEADLINE, ScanAndSnap
from tests.reference import scan_and_snap as written
from tests.training import tiny

RECIPE = Path(__file__).parents[1] / "recipes" / "scan_and_snap.yaml"
SMALL = {"kind": "scan_and_snap", "name": "small", "common": 3, "distinct": 4, "iterations": 12, "batch": 16}


def weights(language, seed=0, scale=0.7):
    """Y and Z, [2, M, M]."""
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, language.size, language.size, generator=random, dtype=torch.float64)


def sample(language, seed=0, batch=5, length=20):
    """Sequences without leading dimensions."""
    found = dynamics.draw(language, [np.random.default_rng(seed)], batch, length)
    return Sample(found.counts[0], found.last[0], found.following[0])


# The language


def test_the_language_is_that_of_the_paper():
    language = Language(classes=2, last_tokens=3, common=4, distinct=5)
    assert (language.num_next, language.num_context, language.size) == (6, 34, 43)
    assert language.last_ids.tolist() == [34, 34, 35, 35, 36, 36]
    assert language.next_ids.tolist() == list(range(37, 43))
    shares = language.probabilities
    assert shares.sum(1).tolist() == pytest.approx([1.0] * 6)
    assert ((shares > 0).sum(0)[:4] == 6).all() and ((shares > 0).sum(0)[4:34] == 1).all()
    assert (shares[:, 34:] == 0).all()
    ratios = sorted((shares[1, 9:14] / shares[1, 0]).tolist())
    assert ratios == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0])
    assert (language.distinct_of == ((shares > 0) & (torch.arange(43) >= 4))).all()


def test_samples_are_of_the_language():
    language = Language(last_tokens=2)
    found = dynamics.draw(language, [np.random.default_rng(seed) for seed in (0, 1)], batch=400, length=128)
    assert found.counts.shape == (2, 400, language.size) and (found.counts.sum(-1) == 127).all()
    number = found.following - language.next_ids[0]
    assert (found.last == language.last_ids[number]).all() and not torch.equal(number[0], number[1])
    for each in range(language.num_next):
        mean = found.counts[number == each].mean(0) / 127
        assert torch.allclose(mean, language.probabilities[each], atol=0.01)


def test_one_distinct_token_is_as_frequent_as_a_common_one():
    assert Language(common=3, distinct=1).probabilities[0, :5].tolist() == pytest.approx([0.25] * 4 + [0.0])
    assert Language(common=0, distinct=1).probabilities[1].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]


# Counts, and gradients in closed form


@pytest.mark.parametrize("language", [Language(2, 1, 3, 4), Language(1, 3, 2, 3), Language(3, 2, 0, 2)], ids=str)
def test_counts_say_what_the_sequence_says(language):
    y, z = weights(language)
    given = sample(language)
    f, logs = dynamics.forward(y, z, given)
    assert f.norm(dim=-1).tolist() == pytest.approx([1.0] * 5)
    for seed in (0, 1):  # of the order of the tokens, which does not matter
        wanted = written.loss(y, z, given, torch.Generator().manual_seed(seed))
        assert float(dynamics.loss(logs, given)) == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize("language", [Language(2, 1, 3, 4), Language(1, 3, 2, 3), Language(3, 2, 0, 2)], ids=str)
def test_gradients_are_those_of_autograd(language):
    y, z = (each.requires_grad_() for each in weights(language))
    given = sample(language)
    wanted = torch.autograd.grad(written.loss(y, z, given, torch.Generator().manual_seed(0)), (y, z))
    y, z = y.detach(), z.detach()
    before, *found = dynamics.gradients(y, z, given)
    assert float(before) == pytest.approx(float(dynamics.loss(dynamics.forward(y, z, given)[1], given)))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14) and other.abs().max() > 1e-3
    unasked = torch.ones(language.size, dtype=torch.bool)
    unasked[given.last] = False
    assert (found[1][unasked] == 0).all(), "only rows of last tokens learn"


def test_gradients_are_those_of_the_paper():
    language = Language(2, 2, 3, 4)
    y, z = weights(language)
    given = sample(language, batch=1)
    x = written.one_hot(given.counts[0], torch.Generator().manual_seed(0))
    of_y, row = written.written_out(y, z, x, int(given.last), int(given.following))
    _, found_y, found_z = dynamics.gradients(y, z, given)
    assert torch.allclose(found_y, of_y, atol=1e-14) and torch.allclose(found_z[given.last[0]], row, atol=1e-14)


def test_tokens_that_are_absent_may_be_far_higher():
    """Distinct tokens of another next token come to be higher than exp can say, and are in no context of this one."""
    language = Language(2, 1, 3, 4)
    y, z = weights(language)
    given = sample(language)
    given.counts[:, 3:7] = 0.0
    wanted = dynamics.gradients(y, z, given)
    attended = dynamics.attention(language, z)[1]
    z[:, 3:7] += 5000.0
    for found, other in zip(dynamics.gradients(y, z, given), wanted, strict=True):
        assert torch.allclose(found, other, rtol=1e-12, atol=1e-15)
    assert torch.allclose(dynamics.attention(language, z)[1], attended, rtol=1e-12)


def test_high_rates_have_numbers():
    rates = [Rates(50, 100), Rates(100, 10)]
    course = dynamics.learn(Language(), Descent(initial=0.1005), rates, [0, 1])
    assert all(values.isfinite().all() for values in course.found.values())


def test_many_at_once_are_as_each_alone():
    language = Language(2, 2, 3, 4)
    given = dynamics.draw(language, [np.random.default_rng(seed) for seed in range(3)], 6, 20)
    y, z = (torch.stack([weights(language, seed)[side] for seed in range(3)]) for side in (0, 1))
    found = dynamics.gradients(y, z, given)
    for index in range(3):
        alone = Sample(given.counts[index], given.last[index], given.following[index])
        for many, one in zip(found, dynamics.gradients(y[index], z[index], alone), strict=True):
            assert torch.allclose(many[index], one, rtol=1e-12, atol=1e-15)


# Statistics


def test_statistics_before_anything_is_learnt():
    language = Language()
    found = dynamics.statistics(language, dynamics.attention(language, torch.zeros(language.size, language.size)))
    begun = {name: value.tolist() for name, value in found.items()}
    assert begun["common"] == pytest.approx([10 / 15.5] * 2) and begun["distinct"] == pytest.approx([5.5 / 15.5] * 2)
    assert begun["largest"] == pytest.approx([1 / 15.5] * 2)
    assert begun["entropy"] == pytest.approx([2.8993] * 2, abs=1e-4)
    assert begun["distinct_entropy"] == pytest.approx([2.1513] * 2, abs=1e-4)


def test_statistics_of_known_attention():
    language = Language(common=2, distinct=2)  # ids: common 0, 1; distinct 2, 3 of the first and 4, 5 of the second
    c = torch.zeros(2, language.size, dtype=torch.float64)
    c[0, [0, 1, 2, 3]] = torch.tensor([0.1, 0.1, 0.4, 0.4], dtype=torch.float64)
    c[1, 4] = 1.0
    found = {name: value.tolist() for name, value in dynamics.statistics(language, c).items()}
    assert found["common"] == pytest.approx([0.2, 0.0]) and found["distinct"] == pytest.approx([0.8, 1.0])
    assert found["largest"] == pytest.approx([0.4, 1.0]) and found["distinct_entropy"] == pytest.approx([np.log(2), 0])
    assert found["entropy"] == pytest.approx([-0.2 * np.log(0.1) - 0.8 * np.log(0.4), 0.0])
    assert dynamics.entropy(torch.zeros(3)).item() == 0


# Learning


@pytest.fixture(scope="module")
def course():
    rates = [Rates(rate, ratio) for rate in (0.5, 1, 2) for ratio in (1, 2, 5)]
    return dynamics.learn(Language(), Descent(initial=0.1005), rates, [1, 2, 3])


def test_the_orderings_of_the_paper(course):
    """Figure 6: sparser where the learning rate is higher, denser where the ratio is."""
    sparseness = course.found[HEADLINE][-1].mean(-1).view(3, 3)
    assert (sparseness.diff(dim=0) < 0).all() and (sparseness.diff(dim=1) > 0).all()
    assert (sparseness < 2.11).all() and (course.found[HEADLINE][0] > 2.12).all()


def test_common_tokens_lose_and_distinct_ones_gain(course):
    common, distinct = course.found["common"], course.found["distinct"]
    assert torch.allclose(common + distinct, torch.ones(()).double())
    assert (common[-1] < common[0] - 0.05).all() and (course.found["loss"][-1] < 0.05).all()
    assert course.times == list(range(101))


def test_the_numbers_of_syn_small():
    """Two last tokens with a next token each, from zeros: the learned mass is that of a run of the authors' form."""
    found = dynamics.learn(Language(1, 2), Descent(), [Rates(1, 1)], [0, 1]).found
    assert float(found["loss"][0].mean()) == pytest.approx(np.log(34), rel=1e-6)
    last = {name: float(value[-1].mean()) for name, value in found.items()}
    assert last["common"] == pytest.approx(0.389, abs=0.02) and last["largest"] == pytest.approx(0.17, abs=0.02)
    assert last["entropy"] == pytest.approx(2.75, abs=0.03)


def test_a_seed_is_the_same_alone_and_beside_others():
    descent, language = Descent(iterations=15, batch=16, initial=0.1), Language(2, 2, 3, 4)
    rates = [Rates(1, 1), Rates(2, 5)]
    both = dynamics.learn(language, descent, rates, [3, 4])
    again = dynamics.learn(language, descent, rates, [3, 4])
    alone = dynamics.learn(language, descent, rates[1:], [4])
    for name, values in both.found.items():
        assert torch.equal(values, again.found[name])
        assert torch.allclose(values[:, 1:, 1:], alone.found[name], rtol=1e-9)
        assert not torch.allclose(values[-1, :, 0], values[-1, :, 1])


def test_momentum_is_that_of_torch():
    language, descent = Language(2, 1, 3, 4), Descent(length=16, batch=8, iterations=4, momentum=0.9)
    y, z = (torch.zeros(language.size, language.size, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [z], "lr": 0.5}, {"params": [y], "lr": 1.5}], momentum=0.9)
    random = np.random.default_rng(7)
    random.uniform(size=(2, language.size, language.size))  # the start, which here is 0
    for _ in range(4):
        drawn = dynamics.draw(language, [random], 8, 16)
        given = Sample(drawn.counts[0], drawn.last[0], drawn.following[0])
        optimizer.zero_grad()
        dynamics.loss(dynamics.forward(y, z, given)[1], given).backward()
        optimizer.step()
    found = dynamics.learn(language, descent, [Rates(0.5, 3)], [7]).found
    wanted = dynamics.statistics(language, dynamics.attention(language, z.detach()))
    for name, value in wanted.items():
        assert float(found[name][-1, 0, 0]) == pytest.approx(float(value.mean()), rel=1e-9)


def test_a_run_takes_a_moment():
    started = time.perf_counter()
    dynamics.learn(Language(), Descent(), [Rates(1, 1)], [0])
    assert time.perf_counter() - started < 10


def test_long_runs_are_told_at_few_points():
    course = dynamics.learn(Language(2, 1, 1, 1), Descent(2, 1, 450), [Rates(1, 1)], [0])
    assert len(course.times) == 201 and course.times[0] == 0 and course.times[-1] == 450
    assert all(len(values) == 201 for values in course.found.values())


def test_what_memory_does_not_hold():
    with pytest.raises(InputError, match="write fewer seeds, ratios or last_tokens, or a smaller batch"):
        dynamics.learn(Language(last_tokens=1000), Descent(), [Rates(1, 1)], [0])


# The recipe


def recipe_at(folder, **changes):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "output": str(folder / "run"), **changes}), encoding="utf-8")
    return path


def test_the_recipe_of_the_repository():
    recipe = load(RECIPE)
    assert isinstance(recipe, ScanAndSnapRecipe) and recipe.folder == Path("runs/scan_and_snap")
    assert recipe.ratios == [1, 2, 5, 10] and recipe.learning_rate_z == [0.5, 1, 2] and len(recipe.seeds) == 10
    assert ScanAndSnapRecipe.model_validate(yaml.safe_load(recipe.dump())) == recipe


def test_every_key_is_documented():
    page = (RECIPE.parents[1] / "docs" / "scan_and_snap.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]*) \|", page.partition("What the figures show")[0], re.MULTILINE)
    assert {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} == set(ScanAndSnapRecipe.model_fields)


@pytest.mark.parametrize(
    "override, words",
    [
        ("classes=1", "leaves nothing to predict; write classes: 2"),
        ("classes=0", "classes: .*greater than 0, not 0"),
        ("last_tokens=0", "last_tokens: .*greater than 0, not 0"),
        ("distinct=0", "distinct: .*greater than 0, not 0"),
        ("common=-1", "common: .*greater than or equal to 0, not -1"),
        ("length=1", "length: .*greater than or equal to 2, not 1"),
        ("momentum=1", "momentum: .*less than 1"),
        ("ratios=[]", "ratios: .*at least 1 item"),
        ("ratios=[1,1]", "ratios: entries repeat"),
        ("ratios=[0]", "ratios.0: .*greater than 0"),
        ("learning_rate_z=1", "learning_rate_z: .*list, not 1"),
        ("learning_rate_z=[.inf]", "learning_rate_z.0: .*finite"),
        ("ratios=[1,2,3,4,5,6,7,8,9]", "ratios: .*at most 8 items"),
        ("initial=-1", "initial: -1 is neither a number from 0 on nor auto"),
        ("initial=.inf", "initial: inf is neither a number from 0 on nor auto"),
        ("initial=some", "initial: 'some' is neither a number from 0 on nor auto"),
        ("seeds=[1,1]", "seeds: entries repeat"),
        ("clases=3", "unknown key 'clases'; did you mean 'classes'"),
        ("training.budget.steps=2", "unknown key 'training'"),
    ],
)
def test_mistakes_are_sentences(tmp_path, override, words):
    with pytest.raises(InputError, match=words) as raised:
        load(recipe_at(tmp_path), [override])
    assert "\n" not in str(raised.value)


def test_the_start_of_the_authors(tmp_path, monkeypatch):
    """A uniform number of [-1, 1] over the square root of the number of tokens, of which each panel has its own."""
    begun = []
    monkeypatch.setattr(scan_and_snap, "Descent", lambda *given: begun.append(given[-1]) or Descent(*given))
    for last, tokens in (1, 14), (3, 36):
        recipe = load(recipe_at(tmp_path), ["initial=auto", f"last_tokens={last}", "iterations=1", f"name=of{last}"])
        found = scan_and_snap.run(recipe.model_copy(update={"output": str(tmp_path / recipe.name)}), "", log=print)
        assert found.tokens == tokens and begun[-1] == pytest.approx(1 / np.sqrt(3 * tokens))
        assert found.recipe["initial"] == "auto"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small recipe that was carried out, and what came of it."""
    folder = tmp_path_factory.mktemp("scan")
    said = []
    found = scan_and_snap.run(load(recipe_at(folder, seeds=[0, 1])), "bareformers run recipe.yaml", log=said.append)
    assert any("24 runs of 12 iterations" in sentence for sentence in said)
    return folder / "run", found


def test_the_recipe_of_the_repository_runs(tmp_path):
    recipe = load(RECIPE, ["iterations=2", f"output={tmp_path}"])
    assert len(scan_and_snap.run(recipe, "", log=lambda sentence: None).settings) == 12
    assert (tmp_path / "report.html").exists()


def test_what_is_written(finished):
    folder, found = finished
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "result.json", "results.csv", "report.html"}
    assert ScanAndSnap.load(folder / "result.json") == found
    assert len(found.settings) == 12 and found.tokens == 14 and found.times == list(range(13))
    setting = found.setting(2, 5)
    assert setting.final[HEADLINE].seeds == 2 and setting.final[HEADLINE].spread > 0
    assert setting.final[HEADLINE].value == pytest.approx(setting.course[HEADLINE][-1], rel=1e-5)
    assert setting.final[HEADLINE].value == pytest.approx(np.mean(setting.by_seed), rel=1e-5)
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 12 * 6 * 13
    assert all(float(row["lowest"]) <= float(row["value"]) <= float(row["highest"]) for row in rows[:50])


def test_the_report(finished):
    folder, found = finished
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('<svg class="figure"') == 9
    assert "://" not in page.replace("http://www.w3.org", "")
    assert len(ids := re.findall(r' id="([^"]+)"', page)) == len(set(ids))
    for said in ("Who is read", "How many tokens are read", "run recipe.yaml", "ratio 10", "a higher ratio"):
        assert said in page
    for ordering in reporting.orderings(found):
        assert ordering.sentence in page.replace("&#39;", "'")


def test_given_again_nothing_is_computed(finished, monkeypatch):
    folder, found = finished
    before = (folder / "result.json").read_bytes()
    monkeypatch.setattr(scan_and_snap, "learn", None)
    again = scan_and_snap.run(load(recipe_at(folder.parent, seeds=[0, 1])), "", log=lambda sentence: None)
    assert again == found and (folder / "result.json").read_bytes() == before


def test_from_the_start_the_numbers_are_the_same(finished, tmp_path):
    again = scan_and_snap.run(load(recipe_at(tmp_path, seeds=[0, 1])), "", log=lambda sentence: None)
    assert again.settings == finished[1].settings


def test_a_folder_of_another_recipe_is_refused(finished):
    folder, _ = finished
    with pytest.raises(InputError, match="belongs to another recipe: batch differs; write output="):
        scan_and_snap.run(load(recipe_at(folder.parent, seeds=[0, 1]), ["batch=8"]), "", log=lambda sentence: None)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = recipe_at(tmp_path)
    outcome = tiny.command(capsys, "run", path, "ratios=[1, 4]")
    assert outcome.code == 0, outcome
    assert "entropy on distinct tokens" in outcome.out and "ratio 4" in outcome.out and "higher ratio" in outcome.out
    report = tmp_path / "run" / "report.html"
    page = report.read_text(encoding="utf-8")
    report.unlink()
    assert tiny.command(capsys, "report", tmp_path / "run").code == 0
    assert report.read_text(encoding="utf-8") == page
    assert tiny.command(capsys, "run", path, "distinct=0").sentence.startswith(f"{path}: distinct: ")


def result_of(table, seeds=3):
    """A result with these finals, {(rate, ratio): value or values by seed}; one value is that of the second seed."""
    settings = []
    for (rate, ratio), value in table.items():
        by_seed = value if isinstance(value, list) else [value + 0.01 * (seed - 1) for seed in range(seeds)]
        measures = [Measure(value=each) for each in by_seed]
        final = dict.fromkeys(reporting.TITLES, Measure.over_seeds(measures))
        course = dict.fromkeys(reporting.TITLES, [2.0, final[HEADLINE].value])
        settings.append(
            reporting.Setting(
                learning_rate_z=rate, ratio=ratio, final=final, course=course, lowest=course, highest=course,
                by_seed=by_seed,
            )
        )  # fmt: skip
    return ScanAndSnap(
        name="made_up", created="2026-01-01", command="", times=[0, 5], settings=settings, seconds=1, tokens=3,
        seeds=list(range(len(by_seed))),
    )  # fmt: skip


def on_ratios(*values):
    """What is said of the ratios 1, 2, ... with these values at one learning rate."""
    found = result_of({(1, ratio): value for ratio, value in enumerate(values, 1)})
    return reporting.orderings(found)[1].sentence


def test_what_is_said_of_the_orderings():
    holds = result_of({(1, 1): 2.0, (1, 2): 2.1, (2, 1): 1.8, (2, 2): 1.9})
    assert reporting.verdict(holds) == (
        "As in the paper, a higher learning rate makes attention sparser: in both pairs of neighbouring settings by "
        "the means (6 of 6 seed by seed). As in the paper, a higher ratio makes it denser: in both pairs of "
        "neighbouring settings by the means (6 of 6 seed by seed)."
    )
    assert "was not asked" in reporting.orderings(result_of({(1, 1): 2.0, (1, 2): 2.1}))[0].sentence
    assert on_ratios(2.0, 2.1, 2.095) == (
        "Other than in the paper, a higher ratio makes it denser in only 1 of 2 pairs by the means (3 of 6 seed by "
        "seed)."
    )
    mostly = result_of({(1, 1): 2.0, (1, 2): 2.1, (1, 3): 2.095, (1, 4): 2.2})
    assert reporting.orderings(mostly)[1].sentence == (
        "Mostly as in the paper, a higher ratio makes it denser: in 2 of 3 pairs of neighbouring settings by the means "
        "(6 of 9 seed by seed), but not at rate 1 from ratio 2 to 3 (2.100 to 2.095)."
    )
    console = Console(width=120, file=io.StringIO())
    console.print(reporting.table(mostly))
    assert "2.095 ± 0.010" in console.file.getvalue() and "began at 2.000" in console.file.getvalue()


def test_one_seed_says_nothing_of_a_spread():
    assert on_ratios([2.0], [2.1], [2.095], [2.2]) == (
        "Mostly as in the paper, a higher ratio makes it denser: in 2 of 3 pairs of neighbouring settings (of one "
        "seed), but not at rate 1 from ratio 2 to 3 (2.100 to 2.095)."
    )
    assert on_ratios([2.0], [2.1]).endswith("in the one pair of neighbouring settings (of one seed).")


def test_pairs_on_which_seeds_disagree_cannot_be_told():
    assert on_ratios([1.0, 1.1, 1.2], [1.1, 1.2, 1.3], [2.9, 1.1, 1.2]) == (
        "As in the paper, a higher ratio makes it denser: in both pairs of neighbouring settings by the means (4 of 6 "
        "seed by seed); seeds disagree at rate 1 from ratio 2 to 3, which cannot be told."
    )
    wide = [1.0, 1.5, 2.0], [1.01, 1.52, 2.01]
    assert "disagree" not in on_ratios(*wide), "they differ by more than the settings, and yet all say the same"
    steps = [1.0, 2.0], [1.1, 2.1], [1.2, 2.2], [1.3, 2.3], [1.2, 2.2], [1.1, 2.5]
    assert on_ratios(*steps) == (
        "Mostly as in the paper, a higher ratio makes it denser: in 4 of 5 pairs of neighbouring settings by the means "
        "(7 of 10 seed by seed), but not at rate 1 from ratio 4 to 5 (1.800 to 1.700); seeds disagree at rate 1 from "
        "ratio 5 to 6, which cannot be told."
    )
    assert on_ratios([1.0, 2.0], [1.1, 1.95]) == (
        "Whether a higher ratio makes it denser cannot be told: seeds disagree in the one pair by the means (1 of 2 "
        "seed by seed)."
    )


def test_a_long_list_has_an_end():
    falling = result_of({(1, ratio): value for ratio, value in enumerate([1.0, 2, 3, 4, 5, 6, 7, 8], 1)})
    found = reporting.Ordering("it is so", 20, [f"at {number}" for number in range(6)], [], 3, 1)
    assert found.sentence.endswith("but not at 0, at 1, at 2 and in 3 more.")
    assert "in all 7 pairs" in reporting.verdict(falling)


def test_what_overflowed_is_said():
    found = result_of({(1, 1): 2.0, (1, 2): 2.1, (9, 1): 1.9, (9, 2): [2.0, float("nan"), 2.0]})
    assert reporting.verdict(found) == (
        "As in the paper, a higher learning rate makes attention sparser: in the one pair of neighbouring settings by "
        "the means (3 of 3 seed by seed). As in the paper, a higher ratio makes it denser: in the one pair of "
        "neighbouring settings by the means (3 of 3 seed by seed). The numbers overflowed at rate 9 and ratio 2."
    )
    assert on_ratios(2.0, float("inf")).endswith("cannot be told, for the numbers overflowed.")
    assert not re.search(r"\bnan\b", reporting.page(found))


def test_numbers_that_are_too_large(tmp_path):
    recipe = load(recipe_at(tmp_path), ["learning_rate_z=[1, 1e300]", "ratios=[1]"])
    found = scan_and_snap.run(recipe, "", log=lambda sentence: None)
    assert [each.finite for each in found.settings] == [True, False]
    assert ScanAndSnap.load(tmp_path / "run" / "result.json").settings[0] == found.settings[0]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "cannot be told, for the numbers overflowed" in page
    assert "The numbers overflowed at rate 1e+300 and ratio 1." in page.replace("&#43;", "+")


# What maps of models read


def test_contexts_are_counted():
    rows = [np.array([5, 1, 2, 5, 3]), np.array([1, 2, 3]), np.array([4, 4])]
    found = contexts(rows, torch.tensor([3, 5, 3]), size=6)
    assert found.following.tolist() == [3, 5]
    assert found.counts[:, 0].tolist() == [0, 2, 1, 0, 0, 1]  # before 3: 5 1 2 (after it 5), and 1 (after it 2)
    assert found.counts[:, 1].tolist() == [0, 1, 0, 0, 0, 1]  # before 5: 5 1 (after it 2)
    naive = torch.zeros(6)
    for row in rows:
        for place in range(1, len(row) - 1):
            for token in row[:place]:
                naive[token] += 1
    assert found.overall.tolist() == naive.tolist()


@pytest.mark.parametrize("language", [Language(2, 1, 3, 4), Language(2, 2, 2, 3)], ids=str)
def test_distinct_tokens_are_those_of_the_paper(language):
    """Where contexts are of one next token or of all, both definitions are one."""
    given, random = dynamics.draw(language, [np.random.default_rng(0)], 600, 40), torch.Generator().manual_seed(0)
    rows = []
    for counts, last, following in zip(given.counts[0], given.last[0], given.following[0], strict=True):
        context = torch.repeat_interleave(torch.arange(language.size), counts.long())
        context = context[torch.randperm(len(context), generator=random)]
        rows.append(torch.cat([context, torch.stack([last, following])]))
    # As in a text, tokens of contexts come next too, and all places count as contexts at large.
    known = contexts(rows, torch.cat(rows), language.size)
    everything = torch.arange(language.size)[None].expand(language.num_next, -1)
    assert torch.equal(known.distinct(everything, language.next_ids[:, None]), language.distinct_of)


def test_few_sightings_prove_little():
    overall = torch.tensor([5000.0, 5000.0, 2.0])
    known = Contexts(torch.tensor([7]), torch.tensor([[3.0], [0.0], [0.0]]), overall)
    assert not known.distinct(torch.arange(3), torch.tensor([7])).any()
    known = Contexts(torch.tensor([7]), torch.tensor([[3000.0], [0.0], [0.0]]), overall)
    assert known.distinct(torch.arange(3), torch.tensor([7])).tolist() == [True, False, False]


class Net(torch.nn.Module):
    """Gives the maps that it was made with."""

    device = torch.device("cpu")

    def __init__(self, *maps):
        super().__init__()
        self.maps = maps

    def forward(self, **inputs):
        return type("Out", (), {"attentions": self.maps})()


def test_a_map_whose_reading_is_known():
    ids = torch.tensor([[0, 1, 2, 3, 4]])
    following = next_tokens({"input_ids": ids})
    counts = torch.zeros(6, len(following))
    counts[0, following.tolist().index(4)] = 1e6  # only 0 tells of 4; of others nothing is known
    counts[5] = 1e6  # what is no part of the row
    known = Contexts(following, counts, torch.tensor([1.0, 1, 1, 1, 1, 5]))
    asked = known.distinct(torch.tensor([0, 1, 2]), torch.tensor([4]))
    assert asked.tolist() == [True, False, False]
    even = torch.ones(5, 5).tril()[None, None]
    peaked = even.clone()
    peaked[0, 0, 3] = torch.tensor([6.0, 1, 1, 2, 0])
    negative = even.clone()
    negative[0, 0, 2, 0] = -1
    found = reading(Net(even, None, peaked, negative), {"input_ids": ids}, known)
    assert [each.layer for each in found] == [1, 3, 4]
    # Places 1, 2 and 3 have a context and a next token; at 3, where 4 comes next, one of four tokens is distinct.
    assert found[0].even == pytest.approx(1 / 4 / 3) and found[0].distinct == pytest.approx(1 / 4 / 3)
    assert found[0].own == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert found[0].entropy == pytest.approx(np.log([2, 3, 4]).mean()) and found[0].distinct_entropy == 0
    assert found[1].distinct == pytest.approx(0.6 / 3) and found[1].common == pytest.approx((1 / 2 + 2 / 3 + 0.2) / 3)
    for each in found[:2]:
        assert each.distinct + each.common + each.own == pytest.approx(1)
    assert found[2].entropy is None and found[2].distinct is None and found[2].row()["common"] is None


def test_padding_is_not_read():
    row = torch.tensor([[1, 2, 3, 1, 2]])
    known = contexts([row[0]] * 30, torch.arange(4), size=5)
    padded = {"input_ids": torch.tensor([[1, 2, 3, 1, 2, 0, 0]]), "attention_mask": torch.tensor([[1] * 5 + [0] * 2])}
    (one,) = reading(Net(torch.ones(5, 5).tril()[None, None]), {"input_ids": row}, known)
    (other,) = reading(Net(torch.ones(7, 7).tril()[None, None]), padded, known)
    for name, value in one.row().items():
        assert other.row()[name] == pytest.approx(value)


def test_a_model_of_ours(tmp_path):
    texts = tuple(tiny.paragraphs(60))
    data = prepare(
        Corpus("documents", texts[:50], texts[50:55], texts[55:]), "language_modelling", 300, 32, cache=tmp_path
    )
    batch = data.collate([data.validation[index] for index in range(4)])
    rows = [data.train[index]["input_ids"] for index in range(len(data.train))]
    known = contexts(rows, next_tokens(batch), len(data.tokenizer))
    net = tiny.model(data, num_hidden_layers=2).train()
    found = reading(net, batch, known)
    assert [each.layer for each in found] == [1, 2] and net.training
    for each in found:
        assert each.distinct + each.common + each.own == pytest.approx(1, abs=1e-5)
        assert each.distinct == pytest.approx(each.even, abs=0.03), "at its initialisation it reads evenly"
        assert 0 < each.distinct_entropy < each.entropy
    assert json.dumps(found[0].row()) and found == reading(net, batch, known)
    assert reading(tiny.model(data, "delta"), batch, known) == []
