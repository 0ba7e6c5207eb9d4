"""Comparisons of classifiers of images: run, shown, stopped, started from, handed to students."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bareformers import assessment, inspection, run_folder
from bareformers import distillation as distilling
from bareformers import run as running
from bareformers.errors import InputError
from bareformers.models import BareForImageClassification
from bareformers.recipe import load, load_distillation
from bareformers.report.result import Comparison, RunResult
from tests.training import tiny

QUICK = ("evaluation.speed_rounds=1", "training.precision=fp32")


def carry_out(path, *overrides):
    """The comparison, and what was said on the way."""
    said = []
    return running.run(load(path, list(overrides)), "bareformers run tiny.yaml", log=said.append), said


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison that has ended: its recipe, what was returned, and the folder."""
    path = tiny.image_classification(tmp_path_factory.mktemp("images"))
    words = [*QUICK, "variants.token={classifier_pooling: first, mixer: {name: gaussian_2d, width: 3}}"]
    comparison, _ = carry_out(path, *words)
    return path, words, comparison, path.parent / "run"


def test_what_is_measured(compared):
    _, _, comparison, folder = compared
    assert comparison.headline == "accuracy"
    assert [variant.name for variant in comparison.variants] == [*tiny.VARIANTS, "token"]
    for variant in comparison.variants:
        assert (
            list(variant.quality) == ["accuracy", "f1", "matthews", "loss"]
            and variant.quality["loss"].unit == "nats/image"
        )
        assert set(variant.cost) == {"parameters", "parameters_without_embeddings", "multiply_adds", "peak_memory"}
        assert set(variant.speed) == {"train_tokens_per_second"}
        assert variant.speed["train_tokens_per_second"].unit == "images/s"
    assert comparison.variant("dot_product").cost["multiply_adds"].value > 9 * 16 * 16
    assert len({variant.budget["tokens"] for variant in comparison.variants}) == 1
    assert " images in 12 steps and " in (folder / "average" / "seed0" / "log.txt").read_text(encoding="utf-8")
    assert any("into 3 × 3 patches" in note for note in comparison.notes)
    assert Comparison.load(folder / "result.json") == comparison


def test_samples_are_shown(compared):
    _, _, _, folder = compared
    found = json.loads((folder / "token" / "seed0" / "samples.json").read_text(encoding="utf-8"))
    assert found["kind"] == "images" and len(found["samples"]) == 2
    for sample in found["samples"]:
        assert sample["source"].startswith("images.npz, x[") and {sample["reference"], sample["output"]} <= set("012")
        assert sample["image"].startswith("data:image/png;base64,")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('<img class="picture" src="data:image/png;base64,') == 2 and "was left out" not in page


def test_maps_name_rows_and_columns(compared):
    _, _, _, folder = compared
    for variant, first in (("dot_product", "r0c0"), ("token", "class")):
        with np.load(folder / variant / "seed0" / "maps.npz") as arrays:
            keys = arrays["encoder/keys"].tolist()
            assert keys[0] == first and keys[-1] == "r2c2" and arrays["encoder/0"].shape == (2, len(keys), len(keys))


def test_a_saved_model_scores_the_same(compared, capsys):
    _, _, _, folder = compared
    run = folder / "token" / "seed0"
    model, tokenizer = run_folder.load_model(run)
    assert isinstance(model, BareForImageClassification) and tokenizer is None
    assert model.config.id2label == {0: "0", 1: "1", 2: "2"} and model.config.max_position_embeddings == 10
    recorded = RunResult.load(run / "result.json").quality["accuracy"].value
    outcome = tiny.command(capsys, "evaluate", run)
    assert outcome.code == 0 and f"{recorded:.4f} %" in outcome.out
    assert "continues no text" in tiny.command(capsys, "generate", run, "--prompt", "a").sentence
    assert "does not translate" in tiny.command(capsys, "translate", run).sentence
    assert "reads images, and parings are of models that read text" in tiny.command(capsys, "pare", run).sentence


def test_images_of_another_size_are_refused(compared, tmp_path, capsys):
    other = tiny.write_images(tmp_path / "other.npz", size=16)
    sentence = tiny.command(capsys, "evaluate", compared[3] / "average" / "seed0", f"data.path={other}").sentence
    assert sentence.startswith("the model reads images of 12 × 12 pixels and 1 channel, so pixel_values of [batch, 1, ")


def test_other_images_are_normalised_as_the_model_learnt_it(compared, tmp_path):
    run = compared[3] / "dot_product" / "seed0"
    path = tmp_path / "bright.npz"
    with np.load(compared[0].parent / "images.npz") as arrays:
        np.savez(path, x=np.minimum(arrays["x"] + 5, 255), y=arrays["y"])
    model, data, settings = run_folder.reload(run, [f"data.path={path}"])
    assert data.images.image_mean != tuple(model.config.image_mean)
    assert assessment.evaluate(model, data, settings)[0]["loss"].value > 0


def test_given_again_nothing_is_trained(compared):
    path, words, comparison, _ = compared
    again, said = carry_out(path, *words)
    assert sum("finished before" in sentence for sentence in said) == 4
    assert again.model_copy(update={"created": comparison.created}) == comparison


def test_a_seed_gives_the_same_weights(compared, tmp_path):
    carry_out(tiny.image_classification(tmp_path, "average"), "evaluation.speed_rounds=0", "training.precision=fp32")
    one, other = (load_file(root / "average/seed0/model/model.safetensors") for root in (compared[3], tmp_path / "run"))
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_starts_from_another(compared, tmp_path):
    start = compared[3] / "dot_product" / "seed0"
    path = tiny.image_classification(tmp_path, "dot_product")
    words = ("training.learning_rate=1e-12", "training.budget.steps=1", f"start_from={start}")
    carry_out(path, *words)
    ours, theirs = (run_folder.load_model(run)[0] for run in (tmp_path / "run" / "dot_product" / "seed0", start))
    stacks = ours.stack.state_dict(), theirs.stack.state_dict()
    assert all(torch.allclose(stacks[0][name], stacks[1][name], atol=1e-8) for name in stacks[1])
    with pytest.raises(InputError, match="patch_size is 6 here, and 4 in .*dot_product/seed0, from which it starts"):
        carry_out(path, *words, "task.patch=6", f"output={tmp_path / 'other'}")
    with pytest.raises(InputError, match="only one of both has a class token; write classifier_pooling: mean"):
        carry_out(path, *words, "model={classifier_pooling: first}", f"output={tmp_path / 'other'}")


def test_students_take_over_parts(compared, tmp_path):
    recipe = {
        "name": "handed",
        "teacher": str(compared[3] / "dot_product" / "seed0"),
        "students": {"grid": {"encoder_mixer": {"name": "gaussian_2d", "width": 3}}},
        "training": {"budget": {"steps": 2}, "batch_tokens": 256, "evaluations": 1, "checkpoints": 1},
        "evaluation": {"speed_rounds": 0, "samples": 1},
        "output": str(tmp_path / "handed"),
    }
    path = tmp_path / "handed.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    comparison = distilling.distill(load_distillation(path, []), "bareformers distill", log=lambda sentence: None)
    assert comparison.variant("grid").quality["accuracy"].value >= 0
    assert "Pixels are normalised as the teacher does." in comparison.notes


def test_the_signal_of_a_run(compared):
    found = inspection.inspect(str(compared[3] / "token" / "seed0"))
    assert found.notes[0].endswith(" images of the validation side.") and len(next(iter(found.signal.values()))) == 2


MISTAKES = {
    "no_patch": ("task.patch=null", "image_classification needs patch, pixels on a side"),
    "patch": ("task.patch=5", r"12 pixels high, which task.patch 5 does not divide; write 1, 2, 3, 4, 6"),
    "vocabulary": ("task.vocab_size=300", "image_classification does not read vocab_size, so it would do"),
    "length": ("task.max_length=64", "image_classification does not read max_length, so it would do"),
    "patch_of_text": ("task.name=classification", "classification does not read patch, so it would do"),
    "shift": ("task.shift=12", "task.shift 12 moves images of 12 × 12 pixels out of sight; write 0 or a few"),
    "negative": ("task.shift=-1", "task.shift: .*greater than or equal to 0, not -1"),
    "decoder": ("model.decoder_mixer=average", "a classifier of images has no decoder, so decoder_mixer would do"),
    "scale": ("model.scale_embedding=false", "no token embeddings, so scale_embedding would do nothing"),
    "size": ("model.image_size=12", "image_size follows from the data and the task; leave it out"),
    "causal": ("model.classifier_causal=true", "classifier_causal is for task.name: classification"),
    "width": ("model.mixer={name: gaussian_2d, width: 4}", "width 4, and the images have 3 patches in a row; write w"),
    "source": ("data.labels=kind", "has the arrays x, y: name those with images and labels"),
}


@pytest.mark.parametrize("override, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(tmp_path, override, words):
    path = tiny.image_classification(tmp_path)
    with pytest.raises(InputError, match=words) as raised:
        carry_out(path, "variants={plain: {}}", override)
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()
