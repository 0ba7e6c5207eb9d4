"""Whole comparisons: what they leave, how they go on, and every recipe of the repository."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bareformers import assessment, registry, run_folder
from bareformers import run as running
from bareformers.data.examples import chunks
from bareformers.errors import InputError
from bareformers.recipe import Evaluation, Task, load
from bareformers.report.result import Comparison, Measure, RunResult
from tests.training import tiny

RECIPES = Path(__file__).parents[1] / "recipes"
RUN_FILES = {
    "recipe.yaml", "log.txt", "metrics.jsonl", "model", "samples.txt", "samples.json", "maps.npz", "environment.json",
    "result.json", "signal.jsonl",
}  # fmt: skip
COMMAND = "bareformers run tiny.yaml"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def carry_out(path, *overrides):
    """The comparison, and what was said on the way."""
    said = []
    return running.run(load(path, list(overrides)), COMMAND, log=said.append), said


# A comparison of language models

OVERRIDES = (
    "task.max_length=48",
    "seeds=[0,1]",
    "training.precision=fp32",
    "training.label_smoothing=0.1",
    "evaluation.speed_rounds=1",
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return tiny.language_modelling(tmp_path_factory.mktemp("language_modelling"))


@pytest.fixture(scope="module")
def finished(recipe):
    """A comparison that has ended: the folder, what was returned, what was said."""
    comparison, said = carry_out(recipe, *OVERRIDES)
    return recipe.parent / "run", comparison, said


@pytest.fixture
def copied(finished, tmp_path):
    """The folder of the same comparison, for a test that changes it."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("seed*/**/*") if path.is_file()}


def test_a_comparison_leaves_everything(finished):
    folder, comparison, _ = finished
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "recipe.yaml", "result.json", "results.csv", "report.html"
    }  # fmt: skip
    for variant in tiny.VARIANTS:
        for seed in (0, 1):
            run = folder / variant / f"seed{seed}"
            assert {path.name for path in run.iterdir()} == RUN_FILES
            assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in run.glob("model/*")}
            assert yaml.safe_load((run / "recipe.yaml").read_text())["seed"] == seed
            assert "trained on" in (run / "log.txt").read_text() and "bits_per_byte" in (run / "log.txt").read_text()
            assert json.loads((run / "environment.json").read_text())["torch"]
    assert load(folder / "recipe.yaml") == load(folder.parent / "recipe.yaml", list(OVERRIDES))


def test_results_have_what_the_design_asks_for(finished):
    folder, comparison, _ = finished
    assert Comparison.load(folder / "result.json") == comparison
    assert [variant.name for variant in comparison.variants] == list(tiny.VARIANTS)
    assert (comparison.baseline, comparison.headline, comparison.seeds) == ("dot_product", "bits_per_byte", 2)
    assert [variant.floor for variant in comparison.variants] == [False, False, True]
    assert comparison.command == COMMAND and comparison.environment["torch"] and comparison.notes
    for variant in comparison.variants:
        assert {"bits_per_byte", "loss", "perplexity"} == set(variant.quality)
        assert {"parameters", "state_bytes", "peak_memory"} <= set(variant.cost)
        assert {"train_tokens_per_second", "decode_tokens_per_second"} == set(variant.speed)
        assert {"asked", "tokens", "steps", "seconds", "epochs"} <= set(variant.budget)
        assert all(isinstance(measure, Measure) and measure.value > 0 for _, measure in variant.measures())
        assert variant.quality["loss"].seeds == 2 and variant.quality["loss"].spread > 0
        assert variant.budget["asked"] == {"steps": 12} and variant.budget["steps"] == 12
    assert len({variant.budget["tokens"] for variant in comparison.variants}) == 1


def test_costs_are_those_of_the_mixers(finished):
    _, comparison, _ = finished
    width, length, float32 = 16, 48, 4
    state = {variant.name: variant.cost["state_bytes"].value for variant in comparison.variants}
    assert state["dot_product"] == 2 * length * width * float32 and state["average"] == width * float32
    parameters = {variant.name: variant.cost["parameters"].value for variant in comparison.variants}
    assert parameters["dot_product"] - parameters["average"] == 2 * (width * width + width)
    bare = comparison.variant("average").cost["parameters_without_embeddings"].value
    assert parameters["average"] - bare == 300 * width


def test_the_table_for_spreadsheets(finished):
    rows = list(csv.DictReader((finished[0] / "results.csv").open(encoding="utf-8")))
    assert [row["variant"] for row in rows] == list(tiny.VARIANTS) and [row["seeds"] for row in rows] == ["2"] * 3
    assert float(rows[0]["bits_per_byte"]) == finished[1].variant("dot_product").quality["bits_per_byte"].value


def test_the_report_names_every_variant(finished):
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert all(variant in page for variant in tiny.VARIANTS) and COMMAND in page
    assert "was left out" not in page


def test_maps_and_samples(finished):
    run = finished[0] / "gaussian" / "seed0"
    with np.load(run / "maps.npz") as arrays:
        assert arrays["decoder/0"].shape == (2, 24, 24) and len(arrays["decoder/keys"]) == 24
    found = json.loads((run / "samples.json").read_text(encoding="utf-8"))
    assert found["kind"] == "generation" and len(found["samples"]) == 2
    for sample in found["samples"]:
        assert sample["source"].strip() and sample["source"] in (run / "samples.txt").read_text(encoding="utf-8")


def test_maps_are_not_of_the_scrap_that_ends_a_side(tmp_path):
    data = tiny.text_data(tmp_path)
    scraps = chunks([np.resize(np.arange(4, 300), 300)], 2, 100, np.ones(300, np.int64))
    assert scraps.lengths.tolist() == [100, 100, 100, 5]
    arrays = assessment.draw(tiny.model(data, max_position_embeddings=100), replace(data, validation=scraps))
    assert arrays["decoder/0"].shape == (2, 24, 24)


def test_what_is_said(finished):
    folder, _, said = finished
    assert any("Packed into chunks of 48 tokens" in sentence for sentence in said)
    assert sum("trained on" in sentence for sentence in said) == 6
    assert "timing 3 variants in turns" in said


def test_validation_is_not_smoothed(finished):
    """The last row was recorded with the final weights."""
    folder = finished[0] / "average" / "seed1"
    model, data, _ = run_folder.reload(folder, [])
    *_, last = (row for row in tiny.metrics(folder) if "validation_loss" in row)
    assert last["step"] == 12
    assert last["validation_loss"] == pytest.approx(tiny.validation_loss(model, data), rel=1e-5)


def test_scores_are_those_of_the_saved_model(tmp_path):
    """Whatever precision it was trained in; and so is what it remembers, in the precision of its weights."""
    path = tiny.language_modelling(tmp_path, "dot_product")
    carry_out(path, "training.precision=bf16", "training.budget.steps=4")
    folder = tmp_path / "run" / "dot_product" / "seed0"
    scores, signature, *_ = assessment.evaluate(*run_folder.reload(folder, []))
    recorded = RunResult.load(folder / "result.json")
    assert signature is None and set(scores) == set(recorded.quality)
    for name, measure in scores.items():
        assert measure.value == pytest.approx(recorded.quality[name].value, rel=1e-5)
    assert recorded.cost["state_bytes"].value == 2 * tiny.MAX_LENGTH * 16 * 4


def test_given_again_nothing_is_trained(finished, recipe, trained):
    folder, comparison, _ = finished
    before = times(folder)
    again, said = carry_out(recipe, *OVERRIDES)
    assert not trained and sum("finished before" in sentence for sentence in said) == 6
    kept = {path for path, time in times(folder).items() if time == before[path]}
    assert kept >= {path for path in before if path.name != "recipe.yaml"} and set(times(folder)) == set(before)
    assert again.model_copy(update={"created": comparison.created}) == comparison


def test_another_seed_is_trained_alone(copied, recipe, trained):
    before = times(copied)
    comparison, _ = carry_out(recipe, *OVERRIDES, "seeds=[0,1,2]", f"output={copied}")
    assert trained == [f"{variant} seed 2" for variant in tiny.VARIANTS]
    assert [variant.seeds for variant in comparison.variants] == [[0, 1, 2]] * 3
    assert all(time == before[path] for path, time in times(copied).items() if path in before and "model" in path.parts)


def test_another_variant_is_trained_alone(copied, recipe, trained):
    comparison, _ = carry_out(recipe, *OVERRIDES, "variants.none.mixer=none", "seeds=[0]", f"output={copied}")
    assert trained == ["none seed 0"]
    assert comparison.variant("none").speed["train_tokens_per_second"].value > 0


def test_a_lost_result_is_made_again_from_the_model(finished, copied, recipe, trained):
    (copied / "average" / "seed1" / "result.json").unlink()
    comparison, _ = carry_out(recipe, *OVERRIDES, f"output={copied}")
    assert not trained and comparison.variant("average").quality == finished[1].variant("average").quality


def test_a_lost_run_is_trained_again_to_the_same_numbers(finished, copied, recipe, trained):
    shutil.rmtree(copied / "average" / "seed1")
    comparison, _ = carry_out(recipe, *OVERRIDES, f"output={copied}")
    assert trained == ["average seed 1"]
    assert comparison.variant("average").quality == finished[1].variant("average").quality


def test_another_evaluation_trains_nothing(finished, copied, recipe, trained):
    comparison, _ = carry_out(recipe, *OVERRIDES, "evaluation.samples=1", "seeds=[0]", f"output={copied}")
    assert not trained and comparison.variant("average").speed["train_tokens_per_second"].value > 0
    found = json.loads((copied / "average" / "seed0" / "samples.json").read_text(encoding="utf-8"))
    assert len(found["samples"]) == 1


@pytest.mark.parametrize(
    "override, key",
    [
        ("training.learning_rate=0.5", "training.learning_rate"),
        ("training.budget.steps=13", "training.budget.steps"),
        ("model.hidden_size=32", "model.hidden_size"),
        ("variants.average.mixer=none", "model.mixer"),
        ("task.max_length=40", "task.max_length"),
        ("data.validation_share=0.1", "data.validation_share"),
    ],
)
def test_a_folder_of_another_recipe_is_left_alone(finished, recipe, trained, override, key):
    before = times(finished[0])
    with pytest.raises(InputError, match=f"belongs to another recipe: {key} differs; write output=") as raised:
        carry_out(recipe, *OVERRIDES, override)
    assert "\n" not in str(raised.value)
    assert not trained and times(finished[0]) == before


def test_a_folder_of_something_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "average" / "seed0").mkdir(parents=True)
    (tmp_path / "average" / "seed0" / "thesis.txt").write_text("six months of work")
    with pytest.raises(InputError, match="seed0 holds files of something else; write output="):
        carry_out(recipe, f"output={tmp_path}")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["thesis.txt"]


def test_a_disk_that_is_too_small(recipe, tmp_path, monkeypatch, trained):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="has 0 MB free and this comparison may need .* MB; free some"):
        carry_out(recipe, f"output={tmp_path / 'run'}")
    assert not trained


@pytest.mark.parametrize(
    "override, words",
    [
        ("variants.average.mixer=averge", "variant 'average': unknown mixer 'averge'; did you mean 'average'"),
        ("variants.average.block=pre-ln", "variant 'average': unknown block 'pre-ln'; did you mean 'pre_ln'"),
        (
            "variants.gaussian.mixer={name: gaussian, sdt: 1}",
            "variant 'gaussian': .* no option 'sdt'; did you mean 'std'",
        ),
        ("model.hiden_size=32", "variant 'dot_product': unknown model key 'hiden_size'; did you mean 'hidden_size'"),
        ("model.hidden_size=33", "variant 'dot_product': hidden_size 33 is not a multiple"),
        ("model.hidden_size=wide", "variant 'dot_product': .*hidden_size"),
        ("model.vocab_size=99", "variant 'dot_product': vocab_size follows from the data and the task"),
        ("model.cross_mixer=dot_product", "a language model has no encoder, so cross_mixer would do nothing"),
        ("model.max_position_embeddings=16", "max_position_embeddings 16 is less than task.max_length"),
        ("variants.average.training.clpi=1", "variants.average.training: unknown key 'clpi'; did you mean 'clip'"),
        ("data.name=txet", "unknown source 'txet'; did you mean 'text'"),
        ("data.pth=x", r"source 'text' \(data\) has no option 'pth'; did you mean 'path'"),
        ("data.path=nowhere.txt", "cannot read nowhere.txt: No such file"),
        ("data.validation_share=much", r"source 'text' \(data\): validation_share: .*not 'much'"),
        ("data.validation_share=0.99", "write shares whose sum is below 1"),
        ("task.vocab_size=259", "vocab_size 259 is too small"),
        ("task.vocab_size=60k", "vocab_size 60000 is more than the training text can give"),
        ("task.max_length=90000", "less than one chunk"),
        ("task.name=translation", "translation needs pairs and the source gives documents"),
        ("task.name=recall", "recall does not read vocab_size, so it would do nothing; leave it out"),
        ("plugins=[nowhere_at_all]", "plugin 'nowhere_at_all' cannot be imported"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(recipe, tmp_path, trained, override, words):
    with pytest.raises(InputError, match=words) as raised:
        carry_out(recipe, override, f"output={tmp_path / 'run'}")
    assert "\n" not in str(raised.value) and not trained
    assert not (tmp_path / "run").exists()


def test_data_needs_a_name():
    with pytest.raises(InputError, match="data: a source is a name, or a mapping as in"):
        run_folder.load_data({"path": "x"}, Task())


def test_a_variant_that_diverges_stops_no_other(tmp_path):
    path = tiny.language_modelling(tmp_path, "dot_product", "average")
    comparison, said = carry_out(path, "variants.average.training.learning_rate=1e30", "training.precision=fp32")
    assert [variant.status for variant in comparison.variants] == ["finished", "diverged"]
    assert any("average seed 0: the loss is" in sentence and "others go on" in sentence for sentence in said)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "diverged" in page and Comparison.load(tmp_path / "run" / "result.json").variant("average").floor


def test_a_chunk_as_short_as_the_timed_prompt(tmp_path):
    comparison, _ = carry_out(
        tiny.language_modelling(tmp_path, "average"), "evaluation.speed_rounds=1", "training.budget.steps=1"
    )
    assert comparison.variant("average").speed["decode_tokens_per_second"].value > 0


def test_a_source_without_a_test_side_is_scored_on_validation(tmp_path):
    path = tiny.language_modelling(tmp_path, "dot_product")
    comparison, _ = carry_out(path, "data.test_share=0", "training.budget.steps=1")
    assert comparison.variant("dot_product").quality["bits_per_byte"].value > 0
    assert "There is no test side: all scores are of the validation side." in comparison.notes


# A comparison of translations


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    path = tiny.translation(tmp_path_factory.mktemp("translation"))
    comparison, _ = carry_out(path, "evaluation.speed_rounds=1", "training.budget.steps=6")
    return path.parent / "run", comparison


def test_the_length_ratio_of_the_data_is_in_the_config(translated):
    folder, _ = translated
    model, _ = run_folder.load_model(folder / tiny.VARIANTS[0] / "seed0")
    said = (folder / tiny.VARIANTS[0] / "seed0" / "recipe.yaml").read_text(encoding="utf-8")
    data = run_folder.load_data(yaml.safe_load(said)["data"], Task(**yaml.safe_load(said)["task"]))
    assert model.config.length_ratio == data.length_ratio != 1


def test_translations_are_scored(translated):
    folder, comparison = translated
    assert comparison.headline == "bleu" and [variant.floor for variant in comparison.variants] == [False, False, True]
    for variant in comparison.variants:
        assert {"bleu", "chrf", "loss", "perplexity"} == set(variant.quality)
        assert 0 <= variant.quality["bleu"].value <= 100 and variant.quality["bleu"].better == "higher"
        assert variant.signature.startswith("nrefs:1|case:mixed") and "version" in variant.signature
        assert variant.speed["decode_tokens_per_second"].value > 0
    assert "gaussian (encoder, decoder), dot_product (cross) in pre_ln" in (folder / "report.html").read_text("utf-8")


def test_samples_stand_beside_their_references(translated):
    folder, _ = translated
    found = json.loads((folder / "dot_product" / "seed0" / "samples.json").read_text(encoding="utf-8"))
    assert found["kind"] == "translation" and len(found["samples"]) == 2
    pairs = tiny.reversals(16, seed=2)
    assert [(sample["source"], sample["reference"]) for sample in found["samples"]] == pairs[:2]


def test_maps_have_three_roles(translated):
    folder, _ = translated
    with np.load(folder / "gaussian" / "seed0" / "maps.npz") as arrays:
        shapes = {role: arrays[f"{role}/0"].shape for role in ("encoder", "decoder", "cross")}
        keys = {role: len(arrays[f"{role}/keys"]) for role in shapes}
        queries = {role: len(arrays[f"{role}/queries"]) for role in shapes}
    assert shapes == {role: (2, queries[role], keys[role]) for role in shapes}
    assert keys["cross"] == keys["encoder"] and queries["cross"] == queries["decoder"]


# A comparison on made-up sequences

RETRIEVAL = {"pairs": 4, "queries": 2, "train": 64, "validation": 16, "test": 16}


def retrieval(folder):
    """The recipe of a comparison whose sequences have 15 tokens, of which two are predicted."""
    path = tiny.language_modelling(folder, "dot_product", "average")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["data"] = {"name": "associative_retrieval", **RETRIEVAL}
    recipe["task"] = {"name": "recall", "max_length": 15}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    path = retrieval(tmp_path_factory.mktemp("recall"))
    comparison, _ = carry_out(path, "evaluation.speed_rounds=1", "training.budget.steps=2")
    return path.parent / "run", comparison


def test_answers_are_scored(answered):
    folder, comparison = answered
    assert comparison.headline == "accuracy" and [variant.floor for variant in comparison.variants] == [False, True]
    assert "The vocabulary has 14 words, special tokens included." in comparison.notes
    for variant in comparison.variants:
        assert {"accuracy", "exact", "loss"} == set(variant.quality)
        accuracy, exact = variant.quality["accuracy"], variant.quality["exact"]
        assert (accuracy.unit, accuracy.better) == ("%", "higher")
        assert 0 <= exact.value <= accuracy.value <= 100 and variant.quality["loss"].value > 0
        assert variant.budget["steps"] == 2 and variant.budget["tokens"] in (60, 68)
        assert variant.speed["decode_tokens_per_second"].value > 0
    assert {path.name for path in (folder / "average" / "seed0").iterdir()} == RUN_FILES
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "exact sequences" in page and "right answers" in page and "was left out" not in page


def test_answers_stand_beside_the_right_ones(answered):
    run = answered[0] / "dot_product" / "seed0"
    found = json.loads((run / "samples.json").read_text(encoding="utf-8"))
    assert found["kind"] == "recall" and len(found["samples"]) == 2
    corpus = registry.sources.get("associative_retrieval")(**RETRIEVAL).load()
    for sample, sequence in zip(found["samples"], corpus.test, strict=False):
        blanked = ["_" if place in sequence.answers else word for place, word in enumerate(sequence.words)]
        assert sample["source"] == " ".join(blanked)
        assert sample["reference"] == " ".join(sequence.words[position] for position in sequence.answers)
        assert len(sample["output"].split()) == 2
    with np.load(run / "maps.npz") as arrays:
        assert arrays["decoder/0"].shape == (2, 15, 15)
        assert arrays["decoder/keys"].tolist() == ["</s>", *corpus.validation[0].words]


def test_one_answer_a_sequence_is_exact_where_it_is_right():
    given = {"name": "associative_retrieval", **RETRIEVAL, "queries": 1}
    data = run_folder.load_data(given, Task(name="recall"))
    scores, signature, outputs, remarks = assessment.evaluate(tiny.model(data), data, Evaluation().model_dump())
    assert set(scores) == {"accuracy", "loss"} and signature is None and not remarks
    assert len(outputs) == 6 and all(output.source.split().count("_") == 1 for output in outputs)


@pytest.mark.parametrize(
    "override, words",
    [
        ("task.max_length=14", "sequences of 15 tokens, .* task.max_length is 14: write 15 or more"),
        ("task.name=language_modelling", "needs documents and the source gives sequences: write task.name: recall"),
        ("data.queries=5", "5 queries are more than the 4 keys"),
        ("data.keys=once", "keys: .*'unique' or 'repeated', not 'once'"),
        ("model.cross_mixer=dot_product", "has no encoder, so cross_mixer would do nothing"),
    ],
)
def test_what_is_wrong_with_made_up_data_is_said_first(tmp_path, trained, override, words):
    with pytest.raises(InputError, match=words) as raised:
        carry_out(retrieval(tmp_path), override)
    assert "\n" not in str(raised.value) and not trained and not (tmp_path / "run").exists()


# The verbs, on what was trained


def test_evaluate(finished, translated, capsys):
    run = finished[0] / "gaussian" / "seed1"
    outcome = tiny.command(capsys, "evaluate", run)
    value = RunResult.load(run / "result.json").quality["bits_per_byte"].value
    assert outcome.code == 0 and f"{value:.4f}" in outcome.out and "bits/byte" in outcome.out

    outcome = tiny.command(
        capsys, "evaluate", translated[0] / "gaussian" / "seed0", "evaluation.beams=1", "data.test=val"
    )
    assert outcome.code == 0 and {"bleu", "chrf", "signature"} <= set(outcome.out.split())


def test_evaluate_takes_only_what_it_can_change(finished, capsys):
    run = finished[0] / "gaussian" / "seed0"
    for words, sentence in {
        ("training.clip=1",): "changes nothing that is evaluated",
        ("data.path",): "changes nothing that is evaluated",
        ("evaluation.beem=1",): "did you mean 'beams'",
        ("evaluation.beams=[",): "evaluation.beams=[",
        ("data.pth=x",): "did you mean 'path'",
    }.items():
        assert sentence in tiny.command(capsys, "evaluate", run, *words).sentence


def test_translate(translated, capsys):
    run = translated[0] / "dot_product" / "seed0"
    words = tiny.vocabulary()
    lines = [f"{words[0]} {words[1]}", "", f"{words[2]} </s> Äpfel 日本"]
    outcome = tiny.command(capsys, "translate", run, "--beams", 2, stdin="\n".join(lines).encode())
    assert outcome.code == 0 and len(outcome.out.split("\n")) == 4 and outcome.out.split("\n")[1] == ""
    assert tiny.command(capsys, "translate", run, stdin=b"").out == ""


def test_generate(finished, capsys):
    run = finished[0] / "average" / "seed0"
    first, again = (tiny.command(capsys, "generate", run, "--prompt", "the ", "--tokens", 6, "--seed", 3) for _ in "ab")
    assert first.code == 0 and first.out == again.out and first.out.startswith("the ")
    greedy = tiny.command(capsys, "generate", run, "--tokens", 6, "--temperature", 0, stdin=b"the ")
    assert greedy.code == 0 and greedy.out.startswith("the ")


def test_verbs_on_made_up_words(answered, capsys):
    run = answered[0] / "dot_product" / "seed0"
    outcome = tiny.command(capsys, "evaluate", run)
    value = RunResult.load(run / "result.json").quality["accuracy"].value
    assert outcome.code == 0 and f"{value:.4f} %" in outcome.out and "exact" in outcome.out
    outcome = tiny.command(capsys, "evaluate", run, "data.keys=repeated")
    assert outcome.code == 0 and "accuracy" in outcome.out
    assert "sequences of 18 tokens" in tiny.command(capsys, "evaluate", run, "data.queries=3").sentence
    assert "side has the word '" in tiny.command(capsys, "evaluate", run, "data.key_symbols=9").sentence

    prompt = ("generate", run, "--tokens", 2, "--temperature", 0, "--prompt")
    outcome = tiny.command(capsys, *prompt, "k0  v1 ? k0")
    assert outcome.code == 0 and outcome.out.startswith("k0 v1 ? k0")
    sentence = tiny.command(capsys, *prompt, "k0 hello ? k0").sentence
    assert sentence.startswith("the prompt has the word 'hello', which this model does not know; write words of its ")
    assert sentence.endswith("such as v3 ?")


def test_report(copied, capsys):
    (copied / "report.html").unlink()
    outcome = tiny.command(capsys, "report", copied)
    assert outcome.code == 0 and str(copied / "report.html") in outcome.out and (copied / "report.html").exists()


def test_run(recipe, tmp_path, capsys):
    outcome = tiny.command(capsys, "run", recipe, "training.budget.steps=2", f"output={tmp_path / 'run'}")
    assert outcome.code == 0 and f"Report: {tmp_path / 'run' / 'report.html'}" in outcome.out
    assert all(variant in outcome.out for variant in tiny.VARIANTS)
    assert "tokens/s" in outcome.err and "100%" in outcome.err
    command = Comparison.load(tmp_path / "run" / "result.json").command
    assert command == f"bareformers run {recipe} training.budget.steps=2 output={tmp_path / 'run'}"


# The recipes of the repository


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    # Distillations are in test_two_steps.py, parings in test_pare.py, other kinds in files of their own.
    [path for path in sorted(RECIPES.rglob("*.yaml")) if tiny.is_comparison(path)],
    ids=lambda path: path.stem,
)
def test_every_recipe_runs(path, tmp_path, monkeypatch):
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    data, overrides = given["data"], tiny.two_steps(path, tmp_path)
    if data["name"] == "hub":
        pytest.skip("needs the Hugging Face hub")
    if data["name"] == "libreoffice_help":
        monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path / "cache"))
        tiny.write_help(tmp_path / "cache", (data["source"], data["target"]))
    if given.get("task", {}).get("name") == "recall":
        overrides += ["data.train=64", "data.validation=16", "data.test=16"]
    monkeypatch.chdir(tmp_path)  # a recipe may start from the runs of another, which lie in runs/
    for other in tiny.begun_by(path, RECIPES):
        running.run(load(other, tiny.two_steps(other, tmp_path)), f"bareformers run {other}", log=lambda sentence: None)
    recipe = load(path, [*overrides, f"output={tmp_path / 'run'}"])
    comparison = running.run(recipe, f"bareformers run {path}", log=lambda sentence: None)
    assert [variant.name for variant in comparison.variants] == list(recipe.variants)
    assert (tmp_path / "run" / "report.html").exists()
    assert any(variant.floor for variant in comparison.variants), "a comparison without a floor says nothing"
