"""Comparisons of regressions and of several tasks at once: what they leave, and what other commands make of them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers as hf
import yaml

from bareformers import assessment, distillation, reduction, run_folder
from bareformers import run as running
from bareformers.errors import InputError
from bareformers.export import TOLERANCE, export
from bareformers.models import BareForSequenceClassification
from bareformers.recipe import load, load_distillation
from bareformers.report.result import Comparison
from tests.test_pretrained import tokenizer
from tests.training import tiny

QUIET = {"log": lambda sentence: None}
STUDENT = {
    "name": "students",
    "students": {"average": {"encoder_mixer": "average"}},
    "training": {"budget": {"steps": 2}, "batch_tokens": 256, "evaluations": 1, "checkpoints": 1},
    "evaluation": {"samples": 1, "speed_rounds": 0},
    "orders": [],
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def carry_out(path, *overrides):
    said = []
    return running.run(load(path, list(overrides)), "bareformers run tiny.yaml", log=said.append), said


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A comparison of regressions that has ended: its recipe, what was returned and what was said."""
    path = tiny.regression(tmp_path_factory.mktemp("scored"), "dot_product", "average")
    return path, *carry_out(path, "training.budget.steps=80", "training.learning_rate=0.01")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A comparison of encoders of three tasks that has ended."""
    path = tiny.multi_task(tmp_path_factory.mktemp("several"), "dot_product", "average")
    overrides = ["task.sampling={temperature: 2}", "evaluation.headline={same: f1}", "evaluation.samples=4"]
    return path, *carry_out(path, *overrides)


def run_of(path, variant="dot_product"):
    return path.parent / "run" / variant / "seed0"


def samples(run):
    return json.loads((run / "samples.json").read_text(encoding="utf-8"))


# Scores


def test_what_is_measured_of_regressions(scored):
    path, comparison, said = scored
    assert comparison.headline == "pearson"
    for variant in comparison.variants:
        assert list(variant.quality) == ["pearson", "spearman", "loss"]
    assert comparison.variant("dot_product").quality["loss"].value < 0.95, "no better than the mean of all scores"
    assert any("scores of the training texts go from 0.5 to 2.5" in sentence for sentence in said)
    found = samples(run_of(path))
    assert found["kind"] == "regression" and all(" ‖ " in each["source"] for each in found["samples"])
    assert all(-1 < float(each["output"]) < 4 for each in found["samples"])
    page = (path.parent / "run" / "report.html").read_text(encoding="utf-8")
    assert "Pearson" in page and "Spearman" in page and found["samples"][0]["source"] in page


def test_a_saved_regression_gives_scores_of_the_data(scored):
    model, data, settings = run_folder.reload(run_of(scored[0]), [])
    assert model.config.score_mean == pytest.approx(data.scale.score_mean) and model.config.num_labels == 1
    assert model.config.problem_type == "regression"
    recorded = scored[1].variant("dot_product").quality
    for name, measure in assessment.evaluate(model, data, settings)[0].items():
        assert measure.value == pytest.approx(recorded[name].value, rel=1e-4)


def test_a_constant_prediction_is_remarked(scored):
    model, data, settings = run_folder.reload(run_of(scored[0]), [])
    torch.nn.init.zeros_(model.classifier.weight)
    scores, _, _, remarks = assessment.evaluate(model, data, settings)
    assert scores["pearson"].value == scores["spearman"].value == 0
    assert remarks == ["what is told is the same for all texts, so that correlations are 0"]


def test_what_ranks_can_be_chosen_once_all_is_trained(tmp_path, capsys):
    path = tiny.classification(tmp_path, "none")
    before, _ = carry_out(path, "training.budget.steps=1")
    after, said = carry_out(path, "training.budget.steps=1", "evaluation.headline=matthews")
    assert (before.headline, after.headline) == ("accuracy", "matthews")
    assert next(iter(after.variants[0].quality)) == "matthews"
    assert before.variants[0].quality == after.variants[0].quality
    assert not any("trained on" in sentence for sentence in said)
    told = tiny.command(capsys, "evaluate", run_of(path, "none"), "evaluation.headline=f1").out
    assert [line.split()[0] for line in told.splitlines()] == ["f1", "accuracy", "matthews", "loss"]
    wrong = tiny.command(capsys, "evaluate", run_of(path, "none"), "evaluation.headline=pearson")
    assert wrong.code == 2 and "'pearson' is no score of classification that ranks; write accuracy or" in wrong.err


def test_folders_from_before_there_was_a_headline_are_finished(tmp_path):
    path = tiny.classification(tmp_path, "none")
    carry_out(path, "training.budget.steps=1")
    there = run_of(path, "none") / "recipe.yaml"
    own = yaml.safe_load(there.read_text())
    del own["evaluation"]["headline"]
    there.write_text(yaml.safe_dump(own))
    assert any("finished before" in sentence for sentence in carry_out(path, "training.budget.steps=1")[1])


# Several tasks at once


def test_what_is_measured_of_several_tasks(several):
    path, comparison, said = several
    assert comparison.headline == "mean"
    for variant in comparison.variants:
        assert list(variant.quality) == ["mean", "kinds_accuracy", "same_f1", "alike_pearson", "loss"]
        own = [variant.quality[name].value for name in ("kinds_accuracy", "same_f1", "alike_pearson")]
        assert variant.quality["mean"].value == pytest.approx(sum(own) / 3)
    assert any("An epoch reads" in sentence and "alike" in sentence for sentence in said)
    found = samples(run_of(path))
    assert found["kind"] == "multi_task"
    assert [(each["source"].partition(":")[0], each["kind"]) for each in found["samples"]] == [
        ("kinds", "classification"), ("kinds", "classification"), ("same", "classification"), ("alike", "regression")
    ]  # fmt: skip
    page = (path.parent / "run" / "report.html").read_text(encoding="utf-8")
    assert "mean over tasks" in page and "kinds accuracy" in page and "alike Pearson" in page


def test_each_of_several_tasks_is_measured_alone(several):
    """The part of the model that is one task's scores as the whole does."""
    path, comparison, _ = several
    model, data, settings = run_folder.reload(run_of(path), [])
    members = yaml.safe_load(path.read_text())["data"]["members"]
    recorded = comparison.variant("dot_product").quality
    for name, kind, metric in (("same", "classification", "f1"), ("alike", "regression", "pearson")):
        alone = run_folder.load_data(
            members[name], run_folder.Task(name=kind, max_length=tiny.MAX_LENGTH), data.tokenizer
        )
        scores = assessment.evaluate(model.for_member(name), alone, settings)[0]
        assert scores[metric].value == pytest.approx(recorded[f"{name}_{metric}"].value, rel=1e-4)


def test_validation_is_that_of_the_saved_model(several):
    model, data, _ = run_folder.reload(run_of(several[0]), [])
    *_, last = (row for row in tiny.metrics(run_of(several[0])) if "validation_loss" in row)
    assert last["validation_loss"] == pytest.approx(tiny.validation_loss(model, data), rel=1e-4)


# What other commands make of them


def test_inspect_and_export(several, tmp_path, capsys):
    run = shutil.copytree(run_of(several[0], "average"), tmp_path / "seed0")
    assert tiny.command(capsys, "inspect", run).code == 0 and (run / "inspect.html").exists()
    assert export(run, format="torch", rounds=0, **QUIET).difference <= TOLERANCE


def test_they_start_from_language_models(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    first = tiny.masked_language_modelling(texts, "average")
    carry_out(first, "training.budget.steps=1")
    path = tiny.multi_task(tmp_path, "average")
    recipe = yaml.safe_load(path.read_text())
    recipe |= {"model": {}, "variants": {"average": {}}, "start_from": str(run_of(first, "average"))}
    path.write_text(yaml.safe_dump(recipe))
    carry_out(path, "training.learning_rate=1e-12", "training.budget.steps=1")
    (began, _), (now, _) = (run_folder.load_model(run_of(each, "average")) for each in (first, path))
    assert isinstance(now, BareForSequenceClassification)
    for name, tensor in began.stack.state_dict().items():
        torch.testing.assert_close(now.stack.state_dict()[name], tensor)


def distil(path, tmp_path, share, **evaluation):
    """Students of a run, which are trained whole with a share of what it predicts."""
    finetune = {**STUDENT["training"], "logits": share}
    given = {**STUDENT, "teacher": str(run_of(path)), "output": str(tmp_path / "students"), "finetune": finetune}
    given["evaluation"] = {**given["evaluation"], **evaluation}
    (tmp_path / "students.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return distillation.distill(load_distillation(tmp_path / "students.yaml"), "bareformers distill", **QUIET)


def test_students(scored, several, tmp_path):
    assert distil(scored[0], tmp_path, 0.5, headline="spearman").headline == "spearman"
    with pytest.raises(InputError, match="finetune.logits is for one task at a time, and there are 3; write logits: 0"):
        distil(several[0], tmp_path, 0.5)


def test_a_regression_of_transformers_is_pared(tmp_path):
    """On pairs, whose segments its model reads."""
    folder, data = tmp_path / "model", {"name": "labelled_text", "format": "tsv", "text": 1, "second": 2, "label": 3}
    data |= {"scores": True, "path": str(tiny.write_like(tmp_path / "a.tsv", {**data, "scores": True}))}
    special = dict(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    words = tokenizer(**special, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    words.save_pretrained(folder)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    torch.manual_seed(0)
    config = hf.BertConfig(vocab_size=len(words), max_position_embeddings=40, num_labels=1, **sizes)
    hf.BertForSequenceClassification(config).save_pretrained(folder)
    training = {"budget": {"steps": 2}, "batch_tokens": 256, "warmup_steps": 1, "evaluations": 1, "checkpoints": 1}
    settings = {"candidates": ["average"], "target": "parameters", "max_drop": 200, "search": {"examples": 8}}
    settings |= {"training": training, "finetune": {**training, "learning_rate": 1e-4, "logits": 0.5}}
    settings |= {"evaluation": {"samples": 2, "speed_rounds": 1}}
    pared = reduction.pare(folder, data, output=tmp_path / "run", **QUIET, **settings)
    assert pared.study.metric == "pearson" and len(pared.study.alone) == 2
    comparison = Comparison.load(tmp_path / "run" / "result.json")
    assert [*comparison.variants[0].quality] == ["pearson", "spearman", "loss"]
    prepared = run_folder.load_data(data, run_folder.Task(name="regression", max_length=30), words, pared.model)
    assert prepared.collate([prepared.train[0]])["token_type_ids"].max() == 1


def test_what_paring_refuses(several, tmp_path):
    with pytest.raises(InputError, match=r"several tasks at once, and a paring bounds what one of them loses; save"):
        reduction.pare(run_of(several[0]), output=tmp_path / "run", **QUIET)
    with pytest.raises(InputError, match="what a paring bounds also ranks, so headline would do nothing; write metric"):
        reduction.pare(run_of(several[0]), output=tmp_path / "run", evaluation={"headline": "f1"}, **QUIET)


# What is refused


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        (
            "multi_task",
            "evaluation.headline={cola: matthews}",
            "unknown member in evaluation.headline 'cola'",
        ),
        (
            "multi_task",
            "evaluation.headline={alike: accuracy}",
            "evaluation.headline: alike has scores, and no accuracy; write pearson or spearman",
        ),
        (
            "multi_task",
            "evaluation.headline={same: pearson}",
            "evaluation.headline: same has classes, and no pearson; write accuracy or f1 or matthews",
        ),
        (
            "regression",
            "data.scores=false",
            "the source gives labelled texts: .* classification, or scores: true in the",
        ),
        ("regression", "training.label_smoothing=0.1", "training.label_smoothing is about classes, and scores have"),
        ("regression", "model.score_std=2", "score_std follows from the data and the task; leave it out"),
        ("regression", "task.name=classification", "classification needs labelled texts and the source gives scored"),
        ("multi_task", "model.members=[]", "members follows from the data and the task; leave it out"),
        ("multi_task", "data.members.same=null", "data.members.same is missing its source"),
        ("multi_task", "task.name=classification", "classification needs labelled texts and the source gives texts"),
        ("multi_task", "model.decoder_mixer=delta", "a classifier has no decoder, so decoder_mixer would do nothing"),
    ],
)
def test_mistakes_are_one_sentence(kind, override, message, tmp_path):
    path = getattr(tiny, kind)(tmp_path, "average")
    with pytest.raises(InputError, match=message) as raised:
        carry_out(path, override)
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_gradual_unfreezing_needs_epochs_of_one_length(tmp_path):
    path = tiny.multi_task(tmp_path, "average")
    with pytest.raises(InputError, match="unfreezing: gradual counts epochs of one length; write sampling: prop"):
        carry_out(path, "task.sampling={temperature: 2}", "training.unfreezing=gradual", "training.budget={epochs: 9}")


def test_models_are_evaluated_on_data_of_their_own(scored, several):
    regression, data, settings = run_folder.reload(run_of(scored[0]), [])
    whole, mixture, _ = run_folder.reload(run_of(several[0]), [])
    for model, other in ((regression, mixture), (whole, data), (whole, replace(mixture, members=mixture.members[:2]))):
        with pytest.raises(InputError, match="the tasks that the model knows at once are .* and those of the data"):
            assessment.evaluate(model, other, settings)
    with pytest.raises(InputError, match="the model tells 3 classes, and the data has scores; leave scores out"):
        assessment.evaluate(whole.for_member("kinds"), data, settings)
