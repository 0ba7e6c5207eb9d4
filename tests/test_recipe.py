"""What a recipe accepts, and the sentence that it answers otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bareformers.errors import InputError
from bareformers.recipe import Evaluation, Recipe, Training, load, load_distillation, load_paring, validated
from tests.training import tiny

ROOT = Path(__file__).parents[1]
PLAIN = {
    "name": "plain",
    "data": {"name": "python_stdlib", "max_files": 12},
    "variants": {"dot_product": {"mixer": "dot_product"}, "none": {"mixer": "none", "training": {"clip": 0.5}}},
    "training": {"budget": {"tokens": "20M"}},
    "seeds": [0],
}


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, PLAIN)


def written(folder, recipe):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


MISTAKES = {
    "key": ("trainnig.budget=1", "unknown key 'trainnig'; did you mean 'training'"),
    "task_key": ("task.vocab_sise=300", "unknown key 'task.vocab_sise'; did you mean 'vocab_size'"),
    "training_key": ("training.learning_rat=1", "unknown key 'training.learning_rat'; did you mean 'learning_rate'"),
    "budget_key": ("training.budget.token=5", "unknown key 'training.budget.token'; did you mean 'tokens'"),
    "evaluation_key": ("evaluation.beam=5", "unknown key 'evaluation.beam'; did you mean 'beams'"),
    "hopeless_key": ("evaluation.xyzzy=5", "unknown key 'evaluation.xyzzy'; known are beams, "),
    "task_name": ("task.name=translate", "task.name: .*'language_modelling', 'translation', .*, not 'translate'"),
    "idle_masks": ("task.mask_share=0.3", "language_modelling does not read mask_share, so it would do nothing"),
    "schedule": ("training.schedule=linear", "training.schedule: .*'cosine'.*not 'linear'"),
    "precision": ("training.precision=fp16", "training.precision: .*not 'fp16'"),
    "too_long": ("task.too_long=keep", "task.too_long: .*not 'keep'"),
    "text_for_a_number": ("training.batch_tokens=many", "training.batch_tokens: .*integer.*not 'many'"),
    "suffix_alone": ("training.batch_tokens=M", "training.batch_tokens: .*not 'M'"),
    "half_a_token": ("training.batch_tokens=10.5", "training.batch_tokens: .*not 10.5"),
    "infinite": ("training.batch_tokens=infM", "training.batch_tokens: .*not 'infM'"),
    "negative": ("training.budget.steps=-5", "training.budget.steps: .*greater than 0, not -5"),
    "zero_minutes": ("training.budget.minutes=0", "training.budget.minutes: .*greater than 0"),
    "share": ("training.decay=1.5", "training.decay: .*less than or equal to 1"),
    "smoothing": ("training.label_smoothing=1", "training.label_smoothing: .*less than 1"),
    "length": ("task.max_length=1", "task.max_length: .*greater than or equal to 2"),
    "list_for_a_number": ("training.clip=[1,2]", "training.clip: "),
    "averaging": ("training.average_checkpoints=11", "training: average_checkpoints 11 is more than checkpoints 10"),
    "two_choices": ("training={average_checkpoints: 2, early_stopping: 2}", "both choose the final weights"),
    "betas": ("training.betas=[0.9]", "training.betas"),
    "negative_seed": ("seeds=[-1]", "seeds.0: .*not -1"),
    "seeds": ("seeds=[0,0]", "seeds: entries repeat"),
    "no_seed": ("seeds=[]", "seeds: .*at least 1 item"),
    "seed": ("seeds=3", "seeds: .*list, not 3"),
    "baseline": ("baseline=dot_prodct", "baseline 'dot_prodct' is no variant; did you mean 'dot_product'"),
    "variant_name": ("variants.a/b={mixer: none}", "variant 'a/b' names a folder"),
    "variant_file": ("variants={result.json: {mixer: none}}", "variant 'result.json' names a folder: use letters"),
    "variant": ("variants.gaussian=gaussian", "variants.gaussian: .*dictionary, not 'gaussian'"),
    "variant_training": ("variants.none.training=fast", "variants.none.training"),
    "variant_training_number": ("variants.none.training=5", "variants.none.training"),
    "variant_training_key": ("variants.none.training.clpi=1", "variants.none.training: .*did you mean 'clip'"),
    "variant_training_value": ("variants.none.training.clip=-1", "variants.none.training: clip: .*not -1"),
    "variant_budget": (
        "variants.none.training.budget.steps=5",
        "variant 'none' changes training.budget; every variant",
    ),
    "variant_batches": ("variants.none.training.batch_tokens=9", "variant 'none' changes training.batch_tokens"),
    "data": ("data=python_stdlib", "data: .*dictionary, not 'python_stdlib'"),
    "name": ("name=a b", "name: .*not 'a b'"),
    "name_of_a_folder_above": ("name=../x", "name: .*not '../x'"),
    "plugins": ("plugins=mine", "plugins: .*list, not 'mine'"),
    "no_value": ("training", "'training' is no override; write key=value"),
    "no_key": ("=5", "'=5' is no override; write key=value"),
    "not_yaml": ("training.clip=[1", r"training.clip=\[1"),
    "interpolation": ("training.clip=${nowhere}", "nowhere"),
    "index": ("seeds.first=1", "seeds.first"),
    "below_a_number": ("training.budget.tokens.x=1", "training.budget.tokens"),
}


@pytest.mark.parametrize("override, words", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_is_answered_in_one_sentence(path, override, words):
    with pytest.raises(InputError, match=words) as raised:
        load(path, [override])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["name", "data", "variants", "training"])
def test_what_is_missing_is_named(tmp_path, key):
    path = written(tmp_path, {name: value for name, value in PLAIN.items() if name != key})
    with pytest.raises(InputError, match=f"{path}: {key} is missing"):
        load(path)


@pytest.mark.parametrize(
    "budget, words",
    [
        ({}, "give exactly one of tokens, steps, minutes or epochs, not none"),
        ({"tokens": 5, "minutes": 1}, "give exactly one of .*, not tokens, minutes"),
        ({"tokens": None}, "not none"),
        (None, "training.budget: "),
        (5, "training.budget: .*not 5"),
    ],
)
def test_a_budget_is_one_thing(tmp_path, budget, words):
    with pytest.raises(InputError, match=words):
        load(written(tmp_path, {**PLAIN, "training": {"budget": budget}}))


def test_without_variants_there_is_nothing_to_compare(tmp_path):
    with pytest.raises(InputError, match="at least one variant"):
        load(written(tmp_path, {**PLAIN, "variants": {}}))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"name: [1, 2", "is not YAML"),
        (b"name: caf\xe9", r"is not UTF-8 \(byte 9\)"),
        (b"- 1\n- 2", "should hold a mapping"),
        (b"5", "recipe.yaml"),
        (b"", "is missing"),
        (b"just text", "just text|is missing"),
        (b"name: ${", "recipe.yaml"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, content, words):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_there_is_no_such_file(tmp_path):
    with pytest.raises(InputError, match="there is no recipe .*nowhere.yaml"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="there is no recipe"):
        load(tmp_path)


# What is accepted


@pytest.mark.parametrize(
    "text, tokens",
    [("20M", 20_000_000), ("300k", 300_000), ("1.5M", 1_500_000), ("2G", 2 * 10**9), (7, 7), ("7", 7)],
)
def test_numbers_may_have_suffixes(path, text, tokens):
    assert load(path, [f"training.budget.tokens={text}"]).training.budget.tokens == tokens


def test_overrides_reach_every_depth(path):
    recipe = load(
        path,
        [
            "name=other",
            "training.learning_rate=3e-4",
            "model.mixer={name: gaussian, offsets: [-2, 2]}",
            "model.hidden_size=64",
            "variants.none.training.clip=2",
            "variants.third.mixer=average",
            "seeds=[3,4]",
            "training.report_to=[tensorboard]",
            "data.max_files=null",
            "description=key=value",
        ],
    )
    assert (recipe.name, recipe.training.learning_rate, recipe.seeds) == ("other", 3e-4, [3, 4])
    assert recipe.model == {"mixer": {"name": "gaussian", "offsets": [-2, 2]}, "hidden_size": 64}
    assert recipe.training_for("none").clip == 2 and list(recipe.variants) == ["dot_product", "none", "third"]
    assert recipe.training.report_to == ["tensorboard"] and recipe.data["max_files"] is None
    assert recipe.description == "key=value"


@pytest.mark.parametrize("name, value", [("steps", 5), ("minutes", 0.5), ("epochs", 2), ("tokens", 9)])
def test_one_budget_takes_the_place_of_another(path, name, value):
    budget = load(path, [f"training.budget.{name}={value}"]).training.budget
    assert budget.model_dump(exclude_none=True) == {name: value}


def test_a_whole_budget_takes_the_place_of_another(path):
    assert load(path, ["training.budget={steps: 5}"]).training.budget.model_dump(exclude_none=True) == {"steps": 5}


def test_a_variant_changes_its_training(path):
    recipe = load(path, ["training.clip=3", "training.betas=[0.8,0.9]"])
    assert recipe.training_for("dot_product") == recipe.training
    changed = recipe.training_for("none")
    assert (changed.clip, changed.betas) == (0.5, (0.8, 0.9)) and changed.budget == recipe.training.budget
    assert recipe.model_for("none") == {"mixer": "none"}


def test_a_variant_has_seeds_of_its_own(tmp_path):
    variants = {"dot_product": {"mixer": "dot_product", "seeds": [3, 4]}, "none": {"mixer": "none"}}
    path = written(tmp_path, PLAIN | {"variants": variants})
    recipe = load(path)
    assert [recipe.seeds_for(variant) for variant in variants] == [[3, 4], [0]]
    assert recipe.model_for("dot_product") == {"mixer": "dot_product"}
    recipe = load(path, ["seeds=[5]"])
    assert [recipe.seeds_for(variant) for variant in variants] == [[5], [5]]
    for wrong, words in ((3, "list.*not 3"), ([], "at least 1 item"), ([1, 1], "entries repeat"), ([-1], "not .-1.")):
        variants["none"]["seeds"] = wrong
        with pytest.raises(InputError, match=f"variants.none.seeds: .*{words}"):
            load(written(tmp_path, PLAIN | {"variants": variants}))


def test_defaults(path):
    recipe = load(path)
    assert recipe.baseline_name == "dot_product" and str(recipe.folder) == "runs/plain" and recipe.seeds == [0]
    assert load(path, ["baseline=none", "output=/elsewhere"]).baseline_name == "none"
    assert str(load(path, ["output=/elsewhere"]).folder) == "/elsewhere"


def test_what_is_dumped_loads_the_same(path, tmp_path):
    recipe = load(path, ["seeds=[1,2]", "training.betas=[0.8,0.9]", "description=Äpfel, und ⏎"])
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump(), encoding="utf-8")
    assert load(again) == recipe and "Äpfel" in recipe.dump()


def test_sections_alone_are_held_to_the_same():
    assert validated(Evaluation, {"beams": "2"}, "evaluation").beams == 2
    with pytest.raises(InputError, match="evaluation: unknown key 'beem'; did you mean 'beams'"):
        validated(Evaluation, {"beem": 2}, "evaluation")
    with pytest.raises(InputError, match="here: budget is missing"):
        validated(Training, {}, "here")


def test_a_recipe_is_not_changed_behind_ones_back(path):
    with pytest.raises(Exception, match="frozen"):
        load(path).name = "other"


def test_no_torch_is_needed():
    code = (
        "import sys, bareformers.recipe, bareformers.registry, bareformers.report.html, bareformers.report.table; "
        "print({'torch', 'transformers', 'accelerate'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_key_of_the_recipe_is_known_to_editors():
    schema = Recipe.model_json_schema()
    assert {"name", "data", "variants", "training"} <= set(schema["required"])
    assert schema["additionalProperties"] is False


def test_a_recipe_says_its_kind(tmp_path):
    assert load(written(tmp_path, PLAIN)).kind == "comparison"
    with pytest.raises(InputError, match="unknown kind of recipe 'comparisons'; did you mean 'comparison'"):
        load(written(tmp_path, {**PLAIN, "kind": "comparisons"}))


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_recipes_of_results_are_recipes_still(path):
    """What made a result can be carried out again."""
    if tiny.is_distillation(path):
        load_distillation(path)
    elif tiny.is_paring(path):
        load_paring(path)
    else:
        load(path)
