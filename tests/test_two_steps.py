"""Two recipes, one after the other: masked language models and classifiers, a teacher and its students."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bareformers import assessment, run_folder, variants
from bareformers import distillation as distilling
from bareformers import run as running
from bareformers.errors import InputError
from bareformers.mixers.feed_forward import Aslr, Size
from bareformers.models import BareForMaskedLM, BareForSequenceClassification
from bareformers.recipe import load, load_distillation
from bareformers.report.result import Comparison, RunResult
from tests.training import tiny

RECIPES = Path(__file__).parents[1] / "recipes"
RUN_FILES = {
    "recipe.yaml", "log.txt", "metrics.jsonl", "model", "samples.txt", "samples.json", "maps.npz", "environment.json",
    "result.json",
}  # fmt: skip
LABELS = ("animal", "plant", "stone")
FIRST = ("evaluation.speed_rounds=1", "evaluation.sample_tokens=32", "training.budget.steps=4", "task.mask_share=0.25")
STILL = "training.learning_rate=1e-12"  # weights stay where they begin


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def carry_out(path, *overrides):
    """The comparison, and what was said on the way."""
    said = []
    return running.run(load(path, list(overrides)), "bareformers run tiny.yaml", log=said.append), said


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def samples(run):
    return json.loads((run / "samples.json").read_text(encoding="utf-8"))


# The first step: masked language models


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A comparison of masked language models that has ended: its recipe and what was returned."""
    path = tiny.masked_language_modelling(tmp_path_factory.mktemp("masked"))
    comparison, _ = carry_out(path, *FIRST)
    return path, comparison


@pytest.fixture(scope="module")
def pretrained(masked):
    """The folder of that comparison."""
    return masked[0].parent / "run"


def test_what_is_measured_of_masked_language_models(masked, pretrained):
    _, comparison = masked
    assert comparison.headline == "loss" and [variant.floor for variant in comparison.variants] == [False, False, True]
    for variant in comparison.variants:
        assert list(variant.quality) == ["loss", "perplexity", "accuracy"]
        assert np.exp(variant.quality["loss"].value) == pytest.approx(variant.quality["perplexity"].value)
        assert 0 <= variant.quality["accuracy"].value <= 100 and variant.quality["accuracy"].better == "higher"
        assert set(variant.cost) == {"parameters", "parameters_without_embeddings", "multiply_adds", "peak_memory"}
        assert set(variant.speed) == {"train_tokens_per_second"}
        assert variant.speed["train_tokens_per_second"].unit == "masked tokens/s"
        assert variant.budget["tokens"] % 8 == 0, "a quarter of the tokens of each chunk"
        assert variant.description == f"{variant.name} in pre_ln"
    assert any("of which 25 % are masked and predicted" in note for note in comparison.notes)
    for variant in tiny.VARIANTS:
        run = pretrained / variant / "seed0"
        assert RUN_FILES <= {path.name for path in run.iterdir()}
        assert " masked tokens in 4 steps and " in (run / "log.txt").read_text(encoding="utf-8")
    assert len({variant.budget["tokens"] for variant in comparison.variants}) == 1
    page = (pretrained / "report.html").read_text(encoding="utf-8")
    assert all(variant in page for variant in tiny.VARIANTS) and "was left out" not in page


def test_samples_of_masked_language_models(pretrained):
    found = samples(pretrained / "gaussian" / "seed0")
    assert found["kind"] == "filling" and len(found["samples"]) == 2
    _, data, _ = run_folder.reload(pretrained / "gaussian" / "seed0", [])
    text = "".join(str(data.tokenizer.decode(row)) for row in (data.test.inputs[0], data.test.inputs[1]))
    first = found["samples"][0]
    assert (
        first["reference"] in text.replace("</s>", " ⏎ ") and "_" in first["source"] and "_" not in first["reference"]
    )
    assert first["output"] != first["reference"]
    assert all("<mask>" not in first[key] and "</s>" not in first[key] for key in first)


def test_maps_of_an_encoder(pretrained):
    with np.load(pretrained / "dot_product" / "seed0" / "maps.npz") as arrays:
        assert arrays["encoder/0"].shape == (2, 24, 24) and len(arrays["encoder/keys"]) == 24
        assert "<mask>" in arrays["encoder/keys"].tolist()
        assert np.triu(arrays["encoder/0"].astype(float), 1).sum() > 1, "it reads on both sides"


def test_a_saved_masked_language_model_scores_the_same(pretrained, capsys):
    run = pretrained / "average" / "seed0"
    model, tokenizer = run_folder.load_model(run)
    assert isinstance(model, BareForMaskedLM) and tokenizer.mask_token_id == 3
    recorded = RunResult.load(run / "result.json")
    scores, signature, *_ = assessment.evaluate(*run_folder.reload(run, []))
    assert signature is None and {name: each.value for name, each in scores.items()} == pytest.approx(
        {name: each.value for name, each in recorded.quality.items()}, rel=1e-5
    )
    outcome = tiny.command(capsys, "evaluate", run)
    assert outcome.code == 0 and f"{recorded.quality['loss'].value:.4f} nats/token" in outcome.out
    sentence = tiny.command(capsys, "generate", run, "--prompt", "the").sentence
    assert "continues no" in sentence or "continues nothing" in sentence


def test_given_again_nothing_is_trained(masked, pretrained):
    path, comparison = masked
    again, said = carry_out(path, *FIRST)
    assert sum("finished before" in sentence for sentence in said) == 3
    assert again.model_copy(update={"created": comparison.created}) == comparison


def test_a_folder_from_before_a_key_was_there_goes_on(masked, pretrained, tmp_path):
    path, _ = masked
    folder = shutil.copytree(pretrained, tmp_path / "run")
    for file in folder.rglob("recipe.yaml"):
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        del found["task"]["too_long"], found["training"]["gradient_checkpointing"], found["start_from"]
        file.write_text(yaml.safe_dump(found), encoding="utf-8")
    words = (*FIRST, f"output={folder}")
    assert sum("finished before" in sentence for sentence in carry_out(path, *words)[1]) == 3
    with pytest.raises(InputError, match="belongs to another recipe: task.mask_share differs"):
        carry_out(path, *words, "task.mask_share=0.2")


# The second step: classifiers


def tuned_recipe(folder, pretrained):
    """Classifiers with the sizes, tokenizer and, but for one variant, weights of the masked language models."""
    path = tiny.classification(folder, "dot_product", "average")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["model"] = {"dropout": 0.1, "classifier_pooling": "first"}
    recipe["variants"] = {
        "dot_product": {},
        "average": {},
        "scratch": {"start_from": {"run": f"{pretrained}/dot_product/seed{{seed}}", "weights": False}},
    }
    recipe["start_from"] = f"{pretrained}/{{variant}}/seed{{seed}}"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def recipe(pretrained, tmp_path_factory):
    return tuned_recipe(tmp_path_factory.mktemp("tuned"), pretrained)


@pytest.fixture(scope="module")
def tuned(recipe):
    """A comparison of classifiers whose weights hardly move."""
    comparison, said = carry_out(recipe, STILL, "evaluation.speed_rounds=1", "training.budget.steps=2")
    return recipe.parent / "run", comparison, said


def test_what_is_measured_of_classifiers(tuned):
    folder, comparison, said = tuned
    assert comparison.headline == "accuracy" and [variant.floor for variant in comparison.variants] == [
        False, True, False
    ]  # fmt: skip
    for variant in comparison.variants:
        assert list(variant.quality) == ["accuracy", "f1", "matthews", "loss"]
        assert all(0 <= variant.quality[key].value <= 100 for key in ("accuracy", "f1"))
        assert "state_bytes" not in variant.cost and set(variant.speed) == {"train_tokens_per_second"}
        assert variant.speed["train_tokens_per_second"].unit == "texts/s"
    assert any("Took " in note and "training texts for validation" in note for note in comparison.notes)
    assert any("of the training texts are animal " in note for note in comparison.notes)
    assert any("is that of the runs that this starts from; vocab_size is not read" in sentence for sentence in said)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "F1" in page and "was left out" not in page
    assert Comparison.load(folder / "result.json") == comparison


def test_samples_and_maps_of_classifiers(tuned):
    run = tuned[0] / "dot_product" / "seed0"
    found = samples(run)
    assert found["kind"] == "classification" and len(found["samples"]) == 2
    texts = {item.text: LABELS[int(item.label)] for item in tiny.labelled(40, seed=1)}
    for sample in found["samples"]:
        assert texts[sample["source"]] == sample["reference"] and sample["output"] in LABELS
    with np.load(run / "maps.npz") as arrays:
        length = len(arrays["encoder/keys"])
        assert arrays["encoder/0"].shape == (2, length, length) and arrays["encoder/keys"][0] == "</s>"


def test_a_saved_classifier_knows_its_classes(tuned, capsys):
    run = tuned[0] / "scratch" / "seed0"
    model, _ = run_folder.load_model(run)
    assert isinstance(model, BareForSequenceClassification) and model.config.classifier_pooling == "first"
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.label2id["stone"] == 2
    value = RunResult.load(run / "result.json").quality["accuracy"].value
    outcome = tiny.command(capsys, "evaluate", run)
    assert outcome.code == 0 and f"{value:.4f} %" in outcome.out and "f1" in outcome.out
    words = ("evaluate", run, "data.label_names=[plant, animal, stone]")
    sentence = tiny.command(capsys, *words).sentence
    assert sentence == (
        "the model knows the classes animal, plant, stone, in this order, and the data has plant, animal, stone; "
        "evaluate it on data with the same ones"
    )


def test_classifiers_start_from_the_weights_of_their_runs(tuned, pretrained):
    folder, _, _ = tuned
    for variant, source, kept in (
        ("dot_product", "dot_product", True),
        ("average", "average", True),
        ("scratch", "dot_product", False),
    ):
        runs = folder / variant / "seed0", pretrained / source / "seed0"
        (one, our_tokenizer), (other, their_tokenizer) = map(run_folder.load_model, runs)
        ours, theirs = one.encoder.state_dict(), other.encoder.state_dict()
        near = [torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-8) for name in theirs]
        assert set(ours) == set(theirs) and (all(near) if kept else not all(near))
        assert our_tokenizer.get_vocab() == their_tokenizer.get_vocab()
        log = (folder / variant / "seed0" / "log.txt").read_text(encoding="utf-8")
        assert (f"; weights of {runs[1]}" in log) is kept
    assert run_folder.load_model(folder / "average" / "seed0")[0].config.dropout == 0.1


def test_a_tuned_run_goes_on_and_keeps_to_its_start(tuned, recipe, pretrained):
    words = (STILL, "evaluation.speed_rounds=1", "training.budget.steps=2")
    assert sum("finished before" in sentence for sentence in carry_out(recipe, *words)[1]) == 3
    for override, key in (
        (f"start_from={pretrained}/average/seed0", "start_from.run"),
        ("variants.scratch.start_from.weights=true", "start_from.weights"),
    ):
        with pytest.raises(InputError, match=f"belongs to another recipe: {key} differs"):
            carry_out(recipe, *words, override)


def test_what_starts_learns_with_the_rest(recipe, pretrained, tmp_path):
    """At a rate that moves weights, those of the stack move too."""
    carry_out(recipe, "training.learning_rate=0.01", "training.budget.steps=4", f"output={tmp_path / 'run'}")
    runs = tmp_path / "run" / "dot_product" / "seed0", pretrained / "dot_product" / "seed0"
    ours, theirs = (dict(run_folder.load_model(run)[0].encoder.named_parameters()) for run in runs)
    moved = [not torch.equal(ours[name], theirs[name]) for name in ours]
    assert sum(moved) > len(moved) / 2


def test_masked_language_models_go_on_from_others(masked, pretrained, tmp_path):
    """With their heads; and on other text, with the tokenizer they have."""
    path = tiny.masked_language_modelling(tmp_path, "average")
    words = (STILL, "training.budget.steps=1", f"start_from={pretrained}/{{variant}}/seed0", "task.vocab_size=270")
    carry_out(path, *words)
    ours, theirs = weights(tmp_path / "run" / "average" / "seed0"), weights(pretrained / "average" / "seed0")
    assert set(ours) == set(theirs) and any(name.startswith("lm_head") for name in ours)
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-8) for name in ours)


def test_without_a_start_a_classifier_has_a_tokenizer_of_its_own(tmp_path):
    path = tiny.classification(tmp_path, "average")
    comparison, said = carry_out(path, "training.budget.steps=1", "model.classifier_pooling=last")
    assert not any("that this starts from" in sentence for sentence in said)
    model, tokenizer = run_folder.load_model(tmp_path / "run" / "average" / "seed0")
    assert len(tokenizer) == 300 and model.config.num_labels == 3


# What is wrong


@pytest.mark.parametrize(
    "override, words",
    [
        (
            "start_from=nowhere/{variant}",
            "'dot_product' starts from nowhere/dot_product, which is not there; carry out",
        ),
        ("model.hidden_size=32", "'dot_product': hidden_size is 32, and 16 in .*/dot_product/seed0, from which it"),
        ("model.block=post_ln", "'dot_product': block is 'post_ln', and 'pre_ln' in .* leave it out"),
        ("variants.average.mixer=gaussian", "'average': mixer is 'gaussian', and 'average' in .*/average/seed0"),
        ("model.hiden_size=16", "unknown model key 'hiden_size'; did you mean 'hidden_size'"),
        ("model.decoder_mixer=average", "a classifier has no decoder, so decoder_mixer would do nothing"),
        ("model.num_encoder_layers=1", "a classifier has no decoder, so num_encoder_layers would do nothing"),
        ("model.classifier_pooling=max", "unknown classifier_pooling 'max'"),
        ("task.max_length=33", "max_position_embeddings 32 of .* is less than task.max_length 33"),
        ("data.label_names=[animal, plant]", "the label '2' is no number of one of the 2 label_names"),
    ],
)
def test_a_start_that_cannot_be(recipe, tmp_path, override, words):
    with pytest.raises(InputError, match=words) as raised:
        carry_out(recipe, override, f"output={tmp_path / 'run'}")
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_what_agrees_may_be_said_again(recipe, tmp_path):
    words = ("model.hidden_size=16", "variants.average.mixer=average", "model.position_embedding=sinusoidal")
    loaded = load(recipe, [*words, f"output={tmp_path}"])
    data = run_folder.load_data(loaded.data, loaded.task, variants.common_tokenizer(loaded))
    assert len(running.expand(loaded, data)) == 3


def test_a_run_that_has_not_ended(recipe, pretrained, tmp_path):
    half = shutil.copytree(pretrained / "average" / "seed0", tmp_path / "half")
    (half / "model" / "ledger.json").unlink()
    with pytest.raises(InputError, match="'average' starts from .*/half, which holds no finished run; carry out its"):
        carry_out(recipe, f"variants.average.start_from={half}", f"output={tmp_path / 'run'}")


def test_tokenizers_that_differ(recipe, pretrained, tmp_path):
    other = shutil.copytree(pretrained / "average" / "seed0", tmp_path / "other")
    file = other / "model" / "tokenizer.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    found["model"]["merges"].pop()
    file.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(InputError, match="dot_product/seed0 and .*/other have different tokenizers, and all variants"):
        carry_out(recipe, f"variants.average.start_from={other}", f"output={tmp_path / 'run'}")


def test_a_model_of_another_kind(recipe, tmp_path):
    path = tiny.translation(tmp_path, "average")
    carry_out(path, "training.budget.steps=1")
    words = (
        "classification cannot start from .*, whose model is a BareForSeq2SeqLM; start from a run of masked_language"
    )
    run = tmp_path / "run" / "average" / "seed0"
    with pytest.raises(InputError, match=words):
        start = (f"start_from={run}", f"variants.scratch.start_from.run={run}")
        carry_out(recipe, *start, f"output={tmp_path / 'tuned'}")


def test_a_classifier_reads_as_the_language_model_that_it_starts_from(tmp_path):
    carry_out(tiny.language_modelling(tmp_path, "gaussian"), "training.budget.steps=1")
    run = tmp_path / "run" / "gaussian" / "seed0"
    path = tiny.classification(tmp_path, "gaussian")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe |= {"model": {"classifier_pooling": "concat"}, "variants": {"gaussian": {}}, "start_from": str(run)}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    with pytest.raises(InputError, match="classifier that reads causally has no encoder, so encoder_mixer would do"):
        carry_out(path, STILL, "model.encoder_mixer=gaussian", f"output={tmp_path / 'other'}")
    with pytest.raises(InputError, match="classifier_causal is False, and True in .*/gaussian/seed0, from which"):
        carry_out(path, STILL, "model.classifier_causal=false", f"output={tmp_path / 'other'}")
    carry_out(path, STILL, "training.budget.steps=1", f"output={tmp_path / 'tuned'}")
    ours, theirs = (run_folder.load_model(folder)[0] for folder in (tmp_path / "tuned" / "gaussian" / "seed0", run))
    assert ours.config.classifier_causal and variants.describe(ours.config) == "gaussian in pre_ln"
    stacks = ours.stack.state_dict(), theirs.stack.state_dict()
    assert all(torch.allclose(stacks[0][name], stacks[1][name], rtol=0, atol=1e-8) for name in stacks[1])
    with np.load(tmp_path / "tuned" / "gaussian" / "seed0" / "maps.npz") as arrays:
        assert "decoder/0" in arrays and "decoder/keys" in arrays
    again = tiny.masked_language_modelling(tmp_path, "gaussian")
    with pytest.raises(InputError, match="masked_language_modelling cannot start from .*, which reads causally; start"):
        carry_out(again, f"start_from={tmp_path / 'tuned' / 'gaussian' / 'seed0'}", f"output={tmp_path / 'back'}")


@pytest.mark.parametrize(
    "override, words",
    [
        (
            "model.classifier_pooling=last",
            "classifier_pooling is for task.name: classification or regression or multi_task or image",
        ),
        ("model.cross_mixer=average", "a masked language model has no decoder, so cross_mixer would do nothing"),
        ("task.mask_share=0", "task.mask_share: .*greater than 0, not 0"),
        ("task.mask_share=1", "task.mask_share: .*less than 1, not 1"),
        (
            "task.name=classification",
            "classification needs labelled texts and the source gives documents: .* or masked",
        ),
    ],
)
def test_what_is_wrong_with_masked_language_modelling(masked, tmp_path, override, words):
    with pytest.raises(InputError, match=words) as raised:
        carry_out(masked[0], override, f"output={tmp_path / 'run'}")
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


# What a recipe says


def recipe_with(folder, **sections):
    path = folder / "recipe.yaml"
    given = {
        "name": "plain",
        "data": {"name": "python_stdlib"},
        "variants": {
            "sas": {},
            "fresh": {"start_from": None},
            "own": {"start_from": {"run": "x/{seed}", "weights": False}},
        },
        "training": {"budget": {"steps": 1}},
        **sections,
    }
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path


def test_places_are_filled_in(tmp_path):
    loaded = load(recipe_with(tmp_path, start_from="runs/a/{variant}/seed{seed}"))
    assert loaded.start_for("sas", 3).model_dump() == {"run": "runs/a/sas/seed3", "weights": True}
    assert loaded.start_for("sas", 3).folder == Path("runs/a/sas/seed3")
    assert loaded.start_for("fresh", 3) is None
    assert loaded.start_for("own", 7).model_dump() == {"run": "x/7", "weights": False}
    assert loaded.model_for("own") == {}
    again = tmp_path / "again.yaml"
    again.write_text(loaded.dump(), encoding="utf-8")
    assert load(again) == loaded
    assert load(recipe_with(tmp_path)).start_for("sas", 0) is None


@pytest.mark.parametrize(
    "override, words",
    [
        (
            "start_from=runs/{varient}",
            r"start_from.run: {varient} stands for nothing; {variant} and {seed} are filled in",
        ),
        ("start_from=runs/{variant", "start_from.run: expected '}' before end of string"),
        ("start_from=5", "start_from: .*not 5"),
        (
            "start_from={run: a, wieghts: true}",
            "unknown key 'start_from.wieghts'; did you mean 'weights'.* run, weights",
        ),
        ("start_from={weights: true}", "start_from.run is missing"),
        ("variants.own.start_from.run=a/{b}", "variants.own.start_from: run: {b} stands for nothing"),
        ("variants.sas.start_from=[a]", "variants.sas.start_from: "),
    ],
)
def test_a_start_that_says_nothing(tmp_path, override, words):
    with pytest.raises(InputError, match=words) as raised:
        load(recipe_with(tmp_path), [override])
    assert "\n" not in str(raised.value)


# A teacher and its students: the recipes of the repository


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of the run that the distillations in the repository learn from."""
    folder = tmp_path_factory.mktemp("teacher")
    path = RECIPES / "attentionless" / "teacher.yaml"
    small = ["model.num_hidden_layers=1", "model.hidden_size=16", f"output={folder / 'run'}"]  # students are large
    running.run(load(path, [*tiny.two_steps(path, folder), *small]), "", log=lambda sentence: None)
    return folder / "run" / "teacher" / "seed0"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", filter(tiny.is_distillation, sorted(RECIPES.rglob("*.yaml"))), ids=lambda path: path.stem
)
def test_every_distillation_of_the_repository_runs(path, teacher, tmp_path, monkeypatch):
    for options in (Size, Aslr.Options):  # as they are they take gigabytes and minutes
        monkeypatch.setattr(options, "widths", {size: number for number, size in enumerate(options.widths, 2)})
    assert [tiny.name_of(other) for other in tiny.begun_by(path, RECIPES)] == ["attentionless_teacher"]
    assert load_distillation(path).teacher == "runs/attentionless_teacher/teacher/seed0"
    overrides = [*tiny.two_steps(path, tmp_path), f"teacher={teacher}", f"output={tmp_path / 'run'}"]
    recipe = load_distillation(path, overrides)
    studied = bool(recipe.orders) and len(recipe.students) < 5  # each layer of each student is a translation
    if not studied:
        recipe = load_distillation(path, [*overrides, "orders=[]"])
    comparison = distilling.distill(recipe, f"bareformers distill {path}", log=lambda sentence: None)
    assert comparison.baseline == "teacher"
    assert [variant.name for variant in comparison.variants] == ["teacher", *recipe.students]
    assert all(variant.status == "finished" for variant in comparison.variants)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ("Which layers can go?" in page) == studied and "was left out" not in page
