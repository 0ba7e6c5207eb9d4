"""Language models that become classifiers: stages, what they share, and how they go on."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bareformers import execution, run_folder
from bareformers import run as running
from bareformers import transfer as transferring
from bareformers.errors import InputError
from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSequenceClassification
from bareformers.recipe import Recipe, Transfer, load
from bareformers.report.result import Comparison, RunResult
from tests.training import tiny

RECIPES = Path(__file__).parents[1] / "recipes" / "ulmfit"
SHORT = {"budget": {"steps": 3}, "batch_tokens": 256, "evaluations": 1, "checkpoints": 1}
VARIANTS = {
    "full": {},
    "no_general": {"general": None},
    "scratch": {"general": None, "adaptation": None},
    "all_at_once": {"training": {"unfreezing": "none"}},
    "average": {"mixer": "average", "adaptation": None},
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def written(folder, **sections):
    """A recipe whose every stage takes a second, on made-up text."""
    given = {
        "kind": "transfer",
        "name": "tiny",
        "data": {
            "name": "labelled_text",
            "train": str(tiny.write_labelled(folder / "train.txt", 300, seed=0)),
            "test": str(tiny.write_labelled(folder / "test.txt", 30, seed=1)),
            "label_names": ["animal", "plant", "stone"],
            "labels_kept": 30,
        },
        "task": {"name": "classification", "vocab_size": 300, "max_length": tiny.MAX_LENGTH},
        "model": {**tiny.SIZES, "num_hidden_layers": 2, "classifier_pooling": "concat"},
        "general": {"data": {"name": "text", "path": str(tiny.write_text(folder / "text.txt"))}, "training": SHORT},
        "adaptation": {"training": {**SHORT, "layer_decay": 1.5}},
        "variants": VARIANTS,
        "training": {
            **SHORT,
            "budget": {"epochs": 5},
            "schedule": "slanted_triangular",
            "layer_decay": 2.6,
            "unfreezing": "gradual",
        },
        "evaluation": {"samples": 1, "sample_tokens": 4, "speed_rounds": 0},
        "output": str(folder / "run"),
        **sections,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path


def carry_out(path, *overrides):
    """The comparison, and what was said on the way."""
    said = []
    return transferring.run(load(path, list(overrides)), "bareformers run tiny.yaml", log=said.append), said


def only(recipe, folder, **variants):
    """The same recipe with other variants, in another folder."""
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    path = folder / "only.yaml"
    given |= {"variants": variants, "output": str(folder / "run")}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return written(tmp_path_factory.mktemp("transfer"))


@pytest.fixture(scope="module")
def finished(recipe):
    comparison, said = carry_out(recipe)
    return recipe.parent / "run", comparison, said


def stages(folder, variant, seed=0):
    """The run folders of a variant by stage, from where each says that it begins."""
    found = {"classifier": folder / variant / f"seed{seed}"}
    while start := run_folder.read_yaml(next(reversed(found.values())) / "recipe.yaml")["start_from"]:
        parts = Path(start["run"]).parts[-3:]
        found[parts[0]] = folder.joinpath(*parts)
    return found


def label(run):
    """What the log calls a stage before the classifier."""
    return f"{run.parts[-3]}/{run.parts[-2]}"


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def test_every_stage_is_a_run(finished):
    folder, comparison, _ = finished
    assert [variant.name for variant in comparison.variants] == list(VARIANTS)
    assert comparison.headline == "accuracy" and comparison.variant("average").floor
    runs = {variant: stages(folder, variant) for variant in VARIANTS}
    assert {path for path in folder.rglob("seed0")} == {run for each in runs.values() for run in each.values()}
    assert len(list((folder / "general").iterdir())) == len(list((folder / "adapted").iterdir())) == 2
    assert all((run / "result.json").exists() for each in runs.values() for run in each.values())
    classes = {
        "general": BareForCausalLM, "adapted": BareForCausalLM, "classifier": BareForSequenceClassification
    }  # fmt: skip
    for stage, cls in classes.items():
        model, _ = run_folder.load_model(runs["full"][stage])
        assert type(model) is cls and model.stack.role == "decoder"
    assert Comparison.load(folder / "result.json") == comparison
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(variant in page for variant in VARIANTS) and "was left out" not in page


def test_each_begins_with_the_one_before(finished):
    folder, _, _ = finished
    began = {variant: list(stages(folder, variant)) for variant in VARIANTS}
    assert began == {
        "full": ["classifier", "adapted", "general"],
        "no_general": ["classifier", "adapted"],
        "scratch": ["classifier"],
        "all_at_once": ["classifier", "adapted", "general"],
        "average": ["classifier", "general"],
    }
    for variant in VARIANTS:
        runs = list(stages(folder, variant).values())
        for run, before in zip(runs, runs[1:], strict=False):
            assert f"weights of {before}" in (run / "log.txt").read_text(encoding="utf-8")
    assert stages(folder, "full")["adapted"] == stages(folder, "all_at_once")["adapted"]
    assert "weights of" not in (folder / "scratch" / "seed0" / "log.txt").read_text(encoding="utf-8")


def test_weights_come_along(recipe, tmp_path):
    still = ("adaptation.training.learning_rate=1e-12", "training.learning_rate=1e-12")
    carry_out(only(recipe, tmp_path, full={}), *still)
    third, second, first = map(weights, stages(tmp_path / "run", "full").values())
    assert all(torch.allclose(first[name], second[name], rtol=0, atol=1e-8) for name in first)
    stack = [name for name in first if name.startswith("decoder")]
    assert len(stack) > 10 and all(torch.allclose(second[name], third[name], rtol=0, atol=1e-8) for name in stack)
    assert third["classifier.weight"].shape == (3, 3 * 16)


def test_what_is_told(finished):
    folder, comparison, said = finished
    notes = "\n".join(comparison.notes)
    for variant, spent in (
        ("full", r"\d+ tokens of general text in \d+ s, \d+ tokens of the task's text in \d+ s, "),
        ("no_general", r"\d+ tokens of the task's text in \d+ s, "),
        ("scratch", ""),
    ):
        words = rf"^{variant}, on average over its seeds: {spent}30 labelled texts, 5 times, in \d+ s\.$"
        assert len([note for note in comparison.notes if re.match(words, note)]) == 1, notes
    runs, alone = stages(folder, "full"), stages(folder, "no_general")
    for sentence in (
        f"{label(runs['general'])} is trained once for full, all_at_once.",
        f"{label(runs['adapted'])} is trained once for full, all_at_once.",
        f"{label(alone['adapted'])} is trained for no_general.",
    ):
        assert sentence in comparison.notes and sentence in said
    assert f"{label(runs['adapted'])}: bits per byte of the task's validation texts" in notes
    assert f"{label(alone['adapted'])}: bits per byte" not in notes, "it had nothing before"
    assert "are of the last stage alone" in notes and "out that of its training" not in notes
    found = RunResult.load(runs["adapted"] / "result.json").budget["validation"]
    assert 0 < found["after"] != found["before"] > 0
    assert "trained on the general and the task's training texts." in notes
    assert "30 keep their labels" in notes and "Labels are not read" in notes
    spellings = {(path / "tokenizer.json").read_text(encoding="utf-8") for path in folder.rglob("model")}
    assert len(spellings) == 1


def test_given_again_nothing_is_trained(recipe, finished, trained):
    again, said = carry_out(recipe)
    assert trained == [] and sum("finished before" in sentence for sentence in said) == 9
    assert again.model_copy(update={"created": finished[1].created}) == finished[1]


@pytest.mark.parametrize("killed", ["adapted", "full", "all_at_once"])
def test_what_was_killed_ends_with_the_same_numbers(killed, recipe, finished, tmp_path, monkeypatch, trained):
    """Killed in the middle of a stage, with dropout-free weights compared to the bit."""
    folder, _, _ = finished
    killed = f"{label(stages(folder, 'full')['adapted']) if killed == 'adapted' else killed} seed 0"
    path = only(recipe, tmp_path, full={}, all_at_once={"training": {"unfreezing": "none"}})
    noting = execution.BareTrainer

    class Killed(noting):
        def fit(self):
            if self.watch.label == killed:
                self.add_callback(tiny.Fall(2))
            super().fit()

    monkeypatch.setattr(execution, "BareTrainer", Killed)
    with pytest.raises(tiny.Fall.Killed):
        carry_out(path)
    monkeypatch.setattr(execution, "BareTrainer", noting)
    trained.clear()
    carry_out(path)
    assert trained[0] == killed
    for variant in ("full", "all_at_once"):
        for run in stages(folder, variant).values():
            ours, theirs = weights(tmp_path / "run" / run.relative_to(folder)), weights(run)
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs), run


def test_stages_are_evaluated_like_any_run(finished, capsys):
    folder, _, _ = finished
    runs = stages(folder, "full")
    for stage, metric in (("adapted", "bits_per_byte"), ("classifier", "accuracy")):
        value = RunResult.load(runs[stage] / "result.json").quality[metric].value
        outcome = tiny.command(capsys, "evaluate", runs[stage])
        assert outcome.code == 0 and f"{value:.4f}" in outcome.out


def test_a_changed_stage_is_refused(recipe, finished, tmp_path):
    copied = shutil.copytree(finished[0], tmp_path / "run")
    for override, words in (
        ("general.training.learning_rate=0.1", r"begun_by\.begun_by\.training\.learning_rate differs"),
        ("adaptation.training.learning_rate=0.1", r"begun_by\.training\.learning_rate differs"),
        ("general.seed=1", r"adapted/\w+/seed0 belongs to another recipe: begun_by\.seed differs"),
    ):
        with pytest.raises(InputError, match=words):
            carry_out(recipe, override, f"output={copied}")
    shutil.rmtree(copied / "general"), shutil.rmtree(copied / "adapted")
    with pytest.raises(InputError, match=r"full/seed0 belongs to another recipe: begun_by\.begun_by\.seed differs"):
        carry_out(recipe, "general.seed=1", f"output={copied}")


def test_the_order_of_variants_does_not_matter(recipe, finished, tmp_path, trained):
    """Nor does where the folder lies, nor that a variant came, or went that others have stages with."""
    moved = Path(shutil.copytree(finished[0], tmp_path / "run"))
    variants = {"new": {"training": {"layer_decay": 1.0}}, "average": VARIANTS["average"], "all_at_once": {
        "training": {"unfreezing": "none"}}}  # fmt: skip
    comparison, _ = carry_out(only(recipe, tmp_path, **variants))
    assert trained == ["new seed 0"] and [each.name for each in comparison.variants] == list(variants)
    assert stages(moved, "new")["adapted"] == moved / stages(finished[0], "full")["adapted"].relative_to(finished[0])


def test_what_nothing_begins_with_is_not_trained_again(recipe, finished, tmp_path, trained):
    folder = Path(shutil.copytree(finished[0], tmp_path / "run"))
    adapted = folder / stages(finished[0], "full")["adapted"].relative_to(finished[0])
    shutil.rmtree(adapted / "model")
    given = load(recipe, [f"output={folder}"])
    variants = given.variants | {"new": {"training": {"layer_decay": 1.0}}}
    with pytest.raises(InputError, match=rf"{adapted} has a result and no model; remove it to train it again$"):
        transferring.run(
            given.model_copy(update={"variants": variants}), "bareformers run tiny.yaml", log=lambda _: None
        )
    assert trained == [] and not (folder / "new").exists()
    for stage in ("general", "adapted"):
        shutil.rmtree(folder / stage)
    comparison, _ = carry_out(recipe, f"output={folder}")
    assert trained == [] and not (folder / "general").exists()
    assert comparison.variants == finished[1].variants


def test_what_ranks_classifiers_says_nothing_of_language_models(recipe):
    given = load(recipe, ["evaluation.headline=matthews"])
    found = {
        stage: step.run.recipe["evaluation"]["headline"]
        for each in transferring.expand(given, transferring.read(given))
        for stage, step in each.steps.items()
    }
    assert found == {"general": "", "adaptation": "", "classifier": "matthews"}


def test_a_share_is_that_of_the_tasks_texts(recipe):
    given = load(recipe, ["task.share=0.5"])
    whole, half = (transferring.read(each) for each in (load(recipe), given))
    said = "Of the training side, 50 % is read"
    sides = (half.general, half.adaptation, half.classifier)
    assert [any(said in note for note in side.notes) for side in sides] == [False, True, True]
    assert len(half.adaptation.train) < len(whole.adaptation.train)
    assert len(half.general.train) == len(whole.general.train)
    steps = transferring.expand(given, half)[0].steps
    assert [step.run.recipe["task"].get("share") for step in steps.values()] == [1.0, 0.5, 0.5]


def test_layers_may_be_named_by_numbers_and_by_words(recipe, tmp_path):
    words = ("variants.full.mixer={default: dot_product, layers: {0: average}}", "variants.full.mixer.layers.1=none")
    given = load(only(recipe, tmp_path, full={}), list(words))
    assert set(given.variants["full"]["mixer"]["layers"]) == {0, "1"}
    (chain,) = transferring.expand(given, transferring.read(given))
    assert list(chain.steps) == ["general", "adaptation", "classifier"]


def test_names_of_stages_follow_from_what_they_say():
    one, other = {"a": 1, "b": {"c": 2, 0: 3}}, {"b": {0: 3, "c": 2}, "a": 1}
    assert re.fullmatch("[0-9a-f]{8}", name := transferring.short_name([one]))
    assert transferring.short_name([other]) == name
    assert len({name, transferring.short_name([one, one]), transferring.short_name([{**one, "a": 2}])}) == 3


def test_scores_are_averaged_over_runs(recipe, tmp_path):
    """A run that several variants have counts once."""
    path = only(recipe, tmp_path, full={"seeds": [0, 1]}, all_at_once={"training": {"unfreezing": "none"}})
    given = load(path)
    sides = transferring.read(given)
    chains = transferring.expand(given, sides)
    assert [chain.classifier.label for chain in chains] == ["full seed 0", "full seed 1", "all_at_once seed 0"]
    for chain in chains:
        for name, step in chain.steps.items():
            budget = {"tokens": 60, "epochs": 1.0, "seconds": 3.0}
            if name == "adaptation":
                budget["validation"] = {"before": 4.0 - step.run.seed, "after": 2.0}
            step.run.folder.mkdir(parents=True, exist_ok=True)
            RunResult(variant=step.run.variant, seed=step.run.seed, budget=budget).save(step.run.result_file)
    notes = list(transferring.told(given, chains, sides))
    assert any("3.500 before adaptation, 2.000 after" in note for note in notes), notes
    assert any(note.endswith("30 labelled texts, once, in 3 s.") for note in notes)
    begun = chains[0].classifier.recipe["begun_by"]
    assert "mask_share" not in begun["task"] and "clip" not in begun["training"], "defaults may be added"


def test_a_folder_of_another_kind_is_refused(recipe, finished):
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    others = {key: given[key] for key in ("name", "data", "task", "model", "training", "output")}
    comparison = Recipe(**others, variants={"plain": {}})
    with pytest.raises(InputError, match="run belongs to another recipe: kind differs"):
        running.run(comparison, "bareformers run tiny.yaml", log=lambda _: None)


def test_masked_language_models_become_classifiers_that_read_both_sides(recipe, tmp_path):
    words = ("language_model=masked_language_modelling", "general.seed=3", "seeds=[0,1]")
    path = only(recipe, tmp_path, full={"adaptation": {"training": {"layer_decay": 1.0}}})
    comparison, _ = carry_out(path, *words)
    folder = tmp_path / "run"
    first = stages(folder, "full", seed=1)["general"]
    assert list((folder / "general").glob("*/*")) == [first] and first.name == "seed3", "one for all"
    model, _ = run_folder.load_model(first)
    assert isinstance(model, BareForMaskedLM)
    model, _ = run_folder.load_model(folder / "full" / "seed1")
    assert model.stack.role == "encoder" and comparison.variant("full").seeds == [0, 1]
    assert any("loss of the task's validation texts" in note for note in comparison.notes)
    assert any(re.search(r"\d tokens predicted of general text in", note) for note in comparison.notes)
    assert any(note.startswith("All seeds begin with one general model, of seed 3,") for note in comparison.notes)
    settings = run_folder.read_yaml(stages(folder, "full")["adapted"] / "recipe.yaml")["training"]
    assert settings["layer_decay"] == 1.0 and settings["budget"]["steps"] == 3


def test_what_begins_with_a_diverged_run_diverges(recipe, tmp_path):
    words = ("general.training.learning_rate=1e30", "general.training.clip=0", "general.training.budget.steps=6")
    path = only(recipe, tmp_path, scratch={"general": None, "adaptation": None}, full={})
    comparison, said = carry_out(path, *words)
    assert [variant.status for variant in comparison.variants] == ["finished", "diverged"]
    assert any(re.search(r"general/\w+ seed 0, which it begins with, diverged", sentence) for sentence in said)


MISTAKES = {
    "task": ("task.name=language_modelling", "a transfer ends in a classifier: write task.name: classification, not"),
    "start": ("start_from=runs/x", "a transfer begins with its own language models, so start_from has no place"),
    "own_start": ("variants.full.start_from=runs/x", "so start_from has no place"),
    "language_model": ("language_model=translation", "language_model: .*not 'translation'"),
    "stage_key": ("general.trainig=1", "unknown key 'general.trainig'; did you mean 'training'"),
    "stage_budget": (
        "variants.full.general={training: {budget: {steps: 9}}}",
        "variant 'full' changes general.training.budget; every variant has the same data and budget",
    ),
    "stage_change": (
        "variants.full.general={data: {name: text}}",
        "variants.full.general is null, or changes training",
    ),
    "stage_value": ("variants.full.adaptation=none", "variants.full.adaptation is null, or changes training"),
    "stage_lacking": (
        "{adaptation: null}",
        "variants.full.adaptation changes a stage that the recipe does not have; write adaptation: at its top",
    ),
    "no_stage": ("{adaptation: null, general: null}", "a transfer has a stage before the classifier: write general:"),
    "name": ("variants.general={}", "no variant is called 'general', for that folder holds language models"),
    "causal": ("model.classifier_causal=true", "classifier_causal follows from language_model; leave it out"),
    "schedule": (
        "training.warmup_steps=7",
        "slanted_triangular has its own rise and fall, so warmup_steps 7 would do nothing; leave it out, or at 100",
    ),
    "layer_decay": ("training.layer_decay=0.5", "training.layer_decay: .*greater than or equal to 1"),
    "endless_decay": ("training.layer_decay=.inf", "training.layer_decay: .*finite"),
}


@pytest.mark.parametrize("override, words", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_is_answered_in_one_sentence(override, words, recipe):
    overrides = [override]
    if override.startswith("{"):
        overrides = [f"{key}=null" for key in yaml.safe_load(override)]
        overrides.append("variants.full.adaptation={training: {clip: 2}}")
    with pytest.raises(InputError, match=words) as raised:
        load(recipe, overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "override, words",
    [
        ("data.label_names=[animal, plant, stone, water]", "no training text has the label 'water': give some that"),
        ("data.labels_kept=2", "labels_kept is 2, and there are 2[0-9]+ training texts of 3 classes"),
        ("data.test={test}", "the test side has the label '7', and the training side only 0, 1, 2"),
        ("data={name: text, path: '{text}'}", "a transfer ends in a classifier of texts, and data gives documents"),
        ("general.data={name: copy}", "general.data gives sequences, and a language model reads documents"),
        ("model.encoder_mixer=average", "a language model has no encoder, so encoder_mixer would do nothing"),
        ("variants.full.mixer=gausian", "variant 'full': .*did you mean 'gaussian'"),
        (
            "training.budget.epochs=2",
            "full seed 0: unfreezing: gradual takes an epoch for each of 4 depths, and a budget of 2 epochs ends "
            "before the lowest 2 learn; give more than 3 epochs, or write unfreezing: none",
        ),
    ],
)
def test_what_is_wrong_with_data_and_model(recipe, tmp_path, override, words):
    (tmp_path / "test.txt").write_text("7 some text\n", encoding="utf-8")
    override = override.replace("{test}", str(tmp_path / "test.txt"))
    override = override.replace("{text}", str(recipe.parent / "text.txt"))
    unnamed = ["data.label_names=null"] if "data.test" in override else []
    with pytest.raises(InputError, match=words) as raised:
        carry_out(recipe, override, *unnamed, f"output={tmp_path / 'run'}")
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_a_transfer_is_dumped_and_loaded_again(recipe, tmp_path):
    again = tmp_path / "again.yaml"
    again.write_text(load(recipe).dump(), encoding="utf-8")
    assert load(again) == load(recipe)


# The recipes of the repository

PATHS = sorted(RECIPES.glob("*.yaml"))


def shrunk(path, folder):
    """Overrides with which a recipe of the repository takes seconds, on made-up data."""
    return [
        *tiny.two_steps(path, folder),
        "model.num_hidden_layers=1",
        "training.budget.epochs=3",  # until all is unfrozen
        "data.labels_kept=60",
        f"general.data={{name: text, path: '{tiny.write_text(folder / 'general.txt')}'}}",
        *(f"{stage}.training.budget.steps=2" for stage in ("general", "adaptation")),
        f"output={folder / 'run'}",
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_recipes_of_the_repository(path):
    recipe = load(path)
    task, labels = path.stem.split("_")
    assert recipe.name == f"ulmfit_{path.stem}" and recipe.data["labels_kept"] == int(labels) and len(recipe.seeds) == 5
    assert {"ulmfit", "no_general", "no_adaptation", "scratch", "all_at_once", "flat_rates"} < set(recipe.variants)
    assert recipe.training.schedule == "slanted_triangular" and recipe.training.layer_decay == 2.6
    assert task in ("trec", "sst2") and recipe.general is not None and recipe.adaptation is not None


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS[::2], ids=lambda path: path.stem)
def test_they_run(path, tmp_path):
    recipe = load(path, shrunk(path, tmp_path))
    kept = {name: recipe.variants[name] for name in ("ulmfit", "scratch", "average")}
    recipe = recipe.model_copy(update={"variants": kept})
    comparison = transferring.run(recipe, f"bareformers run {path}", log=lambda sentence: None)
    assert [variant.name for variant in comparison.variants] == list(kept)
    assert any(variant.floor for variant in comparison.variants), "a comparison without a floor says nothing"


def test_every_key_is_documented():
    text = (RECIPES.parents[1] / "docs" / "transfer.md").read_text(encoding="utf-8")
    keys = {key for cell in re.findall(r"^\|([^|]*)\|", text, re.MULTILINE) for key in re.findall(r"`([\w.]+)`", cell)}
    assert set(Transfer.model_fields) - set(Recipe.model_fields) | {"general.seed", "general.data"} <= keys
