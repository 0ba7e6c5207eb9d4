"""Whole distillations: what they leave, how they go on, and what they refuse."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bareformers import distillation, execution
from bareformers import run as running
from bareformers.errors import InputError, Interrupted
from bareformers.recipe import load, load_distillation
from bareformers.report.layers import LayerStudy
from bareformers.report.result import Comparison, RunResult
from tests.training import tiny

COMMAND = "bareformers distill tiny.yaml"
RUN_FILES = {
    "recipe.yaml", "log.txt", "model", "samples.txt", "samples.json", "maps.npz", "environment.json", "result.json",
}  # fmt: skip
STUDENTS = {
    "gaussian": {"encoder_mixer": "gaussian"},
    "networks": {"encoder_mixer": {"name": "elr", "size": "XS"}, "cross_mixer": {"name": "alr", "size": "XS"}},
    "cheap": {"encoder_mixer": "gaussian", "decoder_mixer": "average"},
}
TRAINING = {"budget": {"steps": 6}, "batch_tokens": 256, "warmup_steps": 2, "evaluations": 2, "checkpoints": 2}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def trained_teacher(path):
    """The folder of a run of two layers."""
    given = ["model.num_hidden_layers=2", "training.budget.steps=4", "evaluation.max_sentences=4"]
    running.run(load(path, given), "bareformers run tiny.yaml", log=lambda sentence: None)
    return path.parent / "run" / "dot_product" / "seed0"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of an encoder-decoder."""
    return trained_teacher(tiny.translation(tmp_path_factory.mktemp("teacher"), "dot_product"))


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """The folder of a language model."""
    return trained_teacher(tiny.language_modelling(tmp_path_factory.mktemp("speaker"), "dot_product"))


def written(folder, teacher, **changes):
    """A recipe."""
    recipe = {
        "name": "tiny",
        "teacher": str(teacher),
        "students": STUDENTS,
        "training": TRAINING,
        "evaluation": {"beams": 2, "samples": 2, "sample_tokens": 6, "max_sentences": 4, "speed_rounds": 0},
        "output": str(folder / "distilled"),
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def carry_out(path, *overrides):
    """The comparison, and what was said on the way."""
    said = []
    return distillation.distill(load_distillation(path, list(overrides)), COMMAND, log=said.append), said


@pytest.fixture(scope="module")
def recipe(teacher, tmp_path_factory):
    return written(tmp_path_factory.mktemp("distillation"), teacher, seeds=[0, 1])


@pytest.fixture(scope="module")
def finished(recipe):
    comparison, said = carry_out(recipe, "evaluation.speed_rounds=1")
    return recipe.parent / "distilled", comparison, said


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(first, second):
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


# What is left


def test_a_distillation_leaves_runs(finished, teacher):
    folder, comparison, _ = finished
    names = {"recipe.yaml", "result.json", "results.csv", "report.html", "layers.json", "lessons", "teacher", *STUDENTS}
    assert {path.name for path in folder.iterdir()} == names
    assert comparison == Comparison.load(folder / "result.json") and comparison.baseline == "teacher"
    assert [variant.name for variant in comparison.variants] == ["teacher", *STUDENTS]
    assert [len(variant.seeds) for variant in comparison.variants] == [1, 2, 2, 2]
    for run in (folder / "teacher/seed0", folder / "gaussian/seed0", folder / "networks/seed1"):
        assert {path.name for path in run.iterdir()} == RUN_FILES
    quality = RunResult.load(teacher / "result.json").quality
    assert comparison.reference.quality["loss"].value == pytest.approx(quality["loss"].value)
    assert comparison.reference.quality["bleu"].value == pytest.approx(quality["bleu"].value)
    assert same(weights(folder / "teacher/seed0"), weights(teacher))
    for variant in comparison.variants:
        assert {"parameters", "multiply_adds", "state_bytes", "peak_memory"} <= set(variant.cost)
        assert {"train_tokens_per_second", "decode_tokens_per_second"} == set(variant.speed)
        assert variant.budget["asked"] == {"steps": 4 if variant.name == "teacher" else 6}
    assert "elr (encoder), dot_product (decoder), alr (cross) in pre_ln" in (folder / "report.html").read_text("utf-8")


def test_students_are_the_teacher_but_for_what_they_learnt(finished, teacher):
    before, after = weights(teacher), weights(finished[0] / "gaussian" / "seed0")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"encoder.blocks.{layer}.mixer.value.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}


def test_students_decode_with_a_state(finished, teacher):
    """`Trainer` writes the contrary into the config of what it trains, which students inherit."""
    for folder in (teacher, finished[0] / "teacher" / "seed0", finished[0] / "networks" / "seed0"):
        for file in ("config.json", "generation_config.json"):
            assert json.loads((folder / "model" / file).read_text(encoding="utf-8"))["use_cache"] is True


def test_a_lesson_is_learnt_once(finished):
    folder, _, said = finished
    assert any("8 lessons for 3 students" in sentence for sentence in said)
    rows = json.loads((folder / "lessons/seed0/lessons.json").read_text(encoding="utf-8"))
    assert [(row["role"], row["layer"], row["mixer"]["name"]) for row in rows] == [
        ("encoder", 0, "gaussian"), ("encoder", 1, "gaussian"), ("encoder", 0, "elr"), ("encoder", 1, "elr"),
        ("cross", 0, "alr"), ("cross", 1, "alr"), ("decoder", 0, "average"), ("decoder", 1, "average"),
    ]  # fmt: skip
    assert all(0 < row["loss"] and 0 < row["relative"] and row["maps"] == 0 for row in rows)
    first, second = (weights(folder / name / "seed0") for name in ("gaussian", "cheap"))
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("encoder"))
    last = [row for row in tiny.metrics(folder / "lessons/seed0") if "validation_loss" in row][-1]
    assert last["validation_loss"] == pytest.approx(sum(row["loss"] for row in rows), rel=0.02)


def test_the_study_of_layers(finished):
    folder, comparison, _ = finished
    study = LayerStudy.load(folder / "layers.json")
    assert study.headline == "bleu" and study.depth == {"encoder": 2, "decoder": 2, "cross": 2}
    found = {(row.student, row.role, row.order): [] for row in study.rows}
    for row in study.rows:
        found[row.student, row.role, row.order].append(row.layers)
        assert set(row.quality) == {"bleu", "loss"} and row.quality["loss"].seeds == 2
    for roles, student in ((("encoder",), "gaussian"), (("encoder", "cross"), "networks")):
        for role in roles:
            assert found[student, role, "alone"] == [[0], [1]] and found[student, role, "bottom"] == [[0], [0, 1]]
            assert found[student, role, "top"] == [[0, 1], [1]] and found[student, role, "all"] == [[0, 1]]
    assert found["networks", "all", "all"] == [[0, 1]] and ("gaussian", "all", "all") not in found
    losses = {(row.student, row.role, row.order, len(row.layers)): row.quality["loss"].value for row in study.rows}
    assert losses["gaussian", "encoder", "all", 2] == losses["gaussian", "encoder", "top", 2]
    assert losses["gaussian", "encoder", "all", 2] == losses["cheap", "encoder", "all", 2]
    for student, role in (("gaussian", "encoder"), ("networks", "all")):
        whole = comparison.variant(student).quality["loss"].value
        assert losses[student, role, "all", 2] == pytest.approx(whole, rel=1e-4)
    assert study.teacher["loss"].value == pytest.approx(comparison.reference.quality["loss"].value, rel=1e-5)


def test_verbs_read_students(finished, capsys):
    run = finished[0] / "networks" / "seed0"
    words = tiny.vocabulary()
    outcome = tiny.command(capsys, "translate", run, stdin=f"{words[0]} {words[1]}\n\n".encode())
    assert outcome.code == 0 and len(outcome.out.split("\n")) == 3
    outcome = tiny.command(capsys, "evaluate", run)
    assert outcome.code == 0 and f"{RunResult.load(run / 'result.json').quality['loss'].value:.4f}" in outcome.out
    outcome = tiny.command(capsys, "inspect", run)
    assert outcome.code == 0 and "from which it was distilled" in outcome.err
    outcome = tiny.command(capsys, "inspect", finished[0] / "teacher" / "seed0")
    assert outcome.code == 0 and "It is a copy of" in outcome.err
    outcome = tiny.command(capsys, "report", finished[0])
    assert outcome.code == 0


# Going on


def test_given_again_nothing_is_trained(finished, recipe, trained):
    folder, comparison, _ = finished
    files = [path for path in folder.rglob("*.safetensors")] + [*folder.rglob("scores.json")]
    before = [path.stat().st_mtime_ns for path in files]
    again, said = carry_out(recipe, "evaluation.speed_rounds=1")
    assert not trained and sum("finished before" in sentence for sentence in said) == 1 + 2 * 4
    assert [path.stat().st_mtime_ns for path in files] == before
    assert again.model_copy(update={"created": comparison.created}) == comparison


def test_another_evaluation_trains_nothing(finished, recipe, trained, tmp_path):
    folder = tmp_path / "distilled"
    shutil.copytree(finished[0], folder)
    environments = list(folder.rglob("environment.json"))
    for file in environments:
        file.write_text('{"machine": "another"}')
    scores = (folder / "lessons/seed0/scores.json").read_text()
    overrides = ("evaluation.beams=1", "evaluation.sample_tokens=5", "seeds=[0]", f"output={folder}")
    carry_out(recipe, "orders=[top]", *overrides)
    assert {row.order for row in LayerStudy.load(folder / "layers.json").rows} == {"top", "all"}
    assert (folder / "lessons/seed0/scores.json").read_text() == scores, "beams and samples change no greedy score"
    carry_out(recipe, "orders=[]", *overrides)
    assert not trained and not (folder / "layers.json").exists()
    assert all(file.read_text() == '{"machine": "another"}' for file in environments)


@pytest.mark.parametrize(
    "override, key",
    [
        ("training.learning_rate=0.5", "training.learning_rate"),
        ("students.gaussian.encoder_mixer=random", "students.gaussian.encoder_mixer"),
        ("finetune.budget.steps=2", "finetune"),
    ],
)
def test_a_folder_of_another_recipe_is_left_alone(finished, recipe, trained, override, key):
    with pytest.raises(InputError, match=f"belongs to another recipe: {key} differs; write output="):
        carry_out(recipe, override)
    assert not trained


def test_another_teacher_in_the_same_place_is_seen(finished, recipe, trained, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "teacher")
    overrides = [f"teacher={tmp_path / 'teacher'}", f"output={tmp_path / 'distilled'}", "seeds=[0]"]
    overrides += ["orders=[]", "students={average: {encoder_mixer: average}}", "training.budget.steps=1"]
    carry_out(recipe, *overrides)
    trained.clear()
    file = tmp_path / "teacher/model/model.safetensors"
    retrained = {name: tensor + 0.01 for name, tensor in load_file(file).items()}
    save_file(retrained, file, {"format": "pt"})
    with pytest.raises(InputError, match="lessons.seed0 belongs to another recipe: teacher_weights differs"):
        carry_out(recipe, *overrides)
    assert not trained


def test_a_lesson_that_diverges_has_a_name(teacher, tmp_path):
    students = {"average": {"encoder_mixer": "average"}}
    training = {**TRAINING, "learning_rate": 1e38, "warmup_steps": 0}
    with pytest.raises(
        InputError, match=r"average \(encoder, layer [01]\).*; write a smaller .* or remove /"
    ) as raised:
        carry_out(written(tmp_path, teacher, students=students, training=training))
    assert "students" not in str(raised.value)


def test_what_differs_from_the_data_of_the_teacher(teacher, tmp_path):
    shutil.copytree(teacher.parents[2] / "pairs", tmp_path / "pairs")
    path = written(tmp_path, teacher, students={"average": {"encoder_mixer": "average"}}, orders=[])
    carry_out(path, "task.max_length=20", f"data.root={tmp_path / 'pairs'}", "training.budget.steps=1")
    own, found = (
        yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        for folder in (teacher, tmp_path / "distilled/average/seed0")
    )
    assert found["task"] == {**own["task"], "max_length": 20}
    assert found["data"] == {**own["data"], "root": str(tmp_path / "pairs")}


@pytest.mark.slow
def test_stopped_anywhere_it_ends_with_the_same_numbers(finished, recipe, tmp_path, monkeypatch):
    """Among the lessons, and between them and the students."""
    overrides = (f"output={tmp_path / 'distilled'}", "seeds=[0]")

    class Falling(execution.BareTrainer):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            self.add_callback(tiny.Fall(4))

    with monkeypatch.context() as patch:
        patch.setattr(execution, "BareTrainer", Falling)
        with pytest.raises(tiny.Fall.Killed):
            carry_out(recipe, *overrides)
    assert list((tmp_path / "distilled/lessons/seed0/checkpoints").iterdir())

    def stop(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distillation, "graduate", stop)
        with pytest.raises(Interrupted, match=f"stopped; resume with: {COMMAND}"):
            carry_out(recipe, *overrides)
    comparison, _ = carry_out(recipe, *overrides)
    for student in STUDENTS:
        paths = [folder / student / "seed0" for folder in (finished[0], tmp_path / "distilled")]
        assert same(*map(weights, paths))
        assert RunResult.load(paths[1] / "result.json").quality == RunResult.load(paths[0] / "result.json").quality
    assert not (tmp_path / "distilled/lessons/seed0/checkpoints").exists()


# Fine-tuning, other models


@pytest.mark.parametrize("only_replaced", [False, True])
def test_students_are_trained_whole(teacher, tmp_path, only_replaced):
    finetune = {**TRAINING, "budget": {"steps": 3}, "logits": 0.5, "temperature": 2.0, "only_replaced": only_replaced}
    students = {"gaussian": STUDENTS["gaussian"]}
    comparison, _ = carry_out(written(tmp_path, teacher, students=students, finetune=finetune, orders=[]))
    run = tmp_path / "distilled" / "gaussian" / "seed0"
    assert {path.name for path in run.iterdir()} == RUN_FILES | {"metrics.jsonl", "signal.jsonl"}
    found = comparison.variant("gaussian").budget
    assert found["steps"] == 6 and found["finetune"]["steps"] == 3
    before, after = weights(teacher), weights(run)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    values = {f"encoder.blocks.{layer}.mixer.value.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}
    assert changed == values if only_replaced else len(changed) > 20
    assert same(weights(tmp_path / "distilled/teacher/seed0"), before), "nobody trains the teacher"


def test_a_language_model_and_its_maps(speaker, tmp_path):
    students = {"random": {"decoder_mixer": ["random", {"name": "alr", "size": "XS"}]}}
    comparison, _ = carry_out(written(tmp_path, speaker, students=students, match_maps=0.5))
    assert comparison.headline == "bits_per_byte"
    rows = json.loads((tmp_path / "distilled/lessons/seed0/lessons.json").read_text(encoding="utf-8"))
    assert [row["mixer"]["name"] for row in rows] == ["random", "alr"]
    assert rows[0]["maps"] > 0 == rows[1]["maps"]


def test_a_model_folder_teaches_what_the_recipe_says(teacher, tmp_path):
    own = yaml.safe_load((teacher / "recipe.yaml").read_text(encoding="utf-8"))
    students = {"average": {"encoder_mixer": "average"}}
    path = written(tmp_path, teacher / "model", students=students, orders=[])
    with pytest.raises(
        InputError, match="has no recipe.yaml that says what it was trained on; write data: in the recipe"
    ):
        carry_out(path)
    path = written(tmp_path, teacher / "model", students=students, orders=[], data=own["data"], task=own["task"])
    comparison, _ = carry_out(path)
    assert comparison.reference.quality["loss"].value > 0 and not comparison.reference.budget


def test_distill(teacher, tmp_path, capsys):
    path = written(tmp_path, teacher, students={"average": {"encoder_mixer": "average"}})
    outcome = tiny.command(capsys, "distill", path, "training.budget.steps=2", "orders=[]")
    assert outcome.code == 0 and f"Report: {tmp_path / 'distilled' / 'report.html'}" in outcome.out
    assert "average" in outcome.out and "teacher" in outcome.out and "100%" in outcome.err
    comparison = Comparison.load(tmp_path / "distilled" / "result.json")
    assert [variant.floor for variant in comparison.variants] == [False, True]
    command = comparison.command
    assert command == f"bareformers distill {path} training.budget.steps=2 'orders=[]'"


# What is refused


@pytest.mark.parametrize(
    "override, words",
    [
        ("teacher=nowhere", "there is no run folder nowhere"),
        ("students.gaussian={mixer: gaussian}", "unknown key of student 'gaussian' 'mixer'; did you mean"),
        ("students.other={}", "student 'other' takes nothing over; write one of encoder_mixer, "),
        (
            "students.gaussian={encoder_mixer: gausian}",
            "student 'gaussian': unknown mixer 'gausian'; did you mean 'gaus",
        ),
        ("students.gaussian={encoder_mixer: none}", "student 'gaussian': nothing is learnt by none .*; write average"),
        ("students.gaussian={cross_mixer: elr}", "student 'gaussian': mixer 'elr' cannot be cross_mixer of layer 0"),
        ("students.gaussian={cross_mixer: {name: alr, size: XXL}}", "student 'gaussian': .*unknown size 'XXL'"),
        ("students.teacher={encoder_mixer: gaussian}", "no student is called 'teacher'"),
        ("students.a/b={encoder_mixer: gaussian}", "student 'a/b' names a folder: use letters"),
        ("students={result.json: {encoder_mixer: gaussian}}", "student 'result.json' names a folder: use letters"),
        ("training.clip=1", "training: clip would let students that share no weights change each other"),
        ("training.early_stopping=2", "training: early_stopping would let students"),
        ("training.label_smoothing=0.1", "training: label_smoothing would do nothing"),
        ("training.bugdet=1", "unknown key 'training.bugdet'; did you mean 'budget'"),
        ("finetune={budget: {steps: 1}, temperature: 2}", "finetune: temperature would do nothing"),
        ("orders=[sideways]", "orders"),
        ("orders=[top,top]", "orders: entries repeat"),
        ("match_maps=1", "match_maps would do nothing: no student learns a map where the teacher has one"),
        ("task={name: language_modelling}", "is a BareForSeq2SeqLM, which is no model for language_modelling"),
        ("task.max_lenght=20", "task: unknown key 'max_lenght'; did you mean 'max_length'"),
        ("task.max_length=99", "task.max_length 99 needs 99 positions, and the teacher has 32"),
        ("data.name=txet", "unknown source 'txet'"),
        ("plugins=[nowhere_at_all]", "plugin 'nowhere_at_all' cannot be imported"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(teacher, tmp_path, trained, override, words):
    students = {"gaussian": {"encoder_mixer": {"name": "alr", "size": "XS"}}}
    with pytest.raises(InputError, match=words) as raised:
        carry_out(written(tmp_path, teacher, students=students), override)
    assert "\n" not in str(raised.value) and not trained
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


def truncate(folder):
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def other_tokenizer(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.add_tokens(["<other>"])
    tokenizer.save_pretrained(folder / "model")


def half_written(folder):
    file = folder / "model" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "encoder.blocks.1" not in name}
    save_file(tensors, file, {"format": "pt"})


def another_config(**changes):
    def change(folder):
        file = folder / "model" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    "damage, words",
    [
        (
            lambda folder: shutil.rmtree(folder / "model"),
            "holds no trained model; it is written once a run has finished",
        ),
        (lambda folder: (folder / "model/config.json").unlink(), "holds no trained model"),
        (truncate, "is damaged or incomplete"),
        (half_written, "is damaged or incomplete: its tensors lack encoder.blocks.1.* and [0-9]+ more"),
        (another_config(num_hidden_layers=1), "is damaged or incomplete: its tensors lack decoder.blocks.0.final_norm"),
        (another_config(encoder_mixer="average"), "config.json has no place for encoder.blocks.0.mixer.* and "),
        (another_config(hidden_size=32), "is damaged or incomplete"),
        (another_config(hidden_size="wide"), "is damaged or incomplete"),
        (lambda folder: (folder / "model/ledger.json").write_text("{"), "ledger.json is damaged"),
        (lambda folder: (folder / "result.json").write_text("{"), "result.json is not a RunResult"),
        (lambda folder: (folder / "model/tokenizer.json").unlink(), "is damaged or incomplete"),
        (other_tokenizer, "has 300 tokens and its tokenizer 301"),
    ],
)
def test_a_teacher_that_is_not_whole(teacher, tmp_path, trained, damage, words):
    shutil.copytree(teacher, tmp_path / "teacher")
    damage(tmp_path / "teacher")
    with pytest.raises(InputError, match=words) as raised:
        carry_out(written(tmp_path, tmp_path / "teacher"))
    assert "\n" not in str(raised.value) and not trained and not (tmp_path / "distilled").exists()


def test_a_recipe_without_students(teacher, tmp_path):
    with pytest.raises(InputError, match="give at least one student"):
        carry_out(written(tmp_path, teacher, students={}))


def test_a_model_of_somebody_else(teacher, tmp_path, trained):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher / "model").save_pretrained(folder)
    with pytest.raises(InputError, match="is a GPT2LMHeadModel, and students take over parts of models of bareformers"):
        carry_out(written(tmp_path, folder))
    assert not trained and not (tmp_path / "distilled").exists()


@pytest.mark.parametrize(
    "block, students, words",
    [
        ("parallel", STUDENTS, "multiplies with one matrix for several parts"),
        ("resi_dual", STUDENTS, "student 'networks': 'elr' stands for the wiring of a layer too"),
        (
            "pre_ln",
            {"one": {"cross_mixer": "dot_product"}},
            "student 'one': it needs decoder.blocks.0.cross_norm.weight",
        ),
        ("pre_ln", {"one": {"decoder_mixer": "gaussian"}}, "layer 1 of the teacher has no decoder mixer"),
    ],
)
def test_a_teacher_that_lacks_what_a_student_needs(teacher, tmp_path, trained, block, students, words):
    own = yaml.safe_load((teacher / "recipe.yaml").read_text(encoding="utf-8"))
    given = dict(num_hidden_layers=2, cross_mixer="average", decoder_mixer=["dot_product", "none"])
    tiny.model(tiny.pair_data(tmp_path / "cache"), block=block, **given).save_pretrained(tmp_path / "teacher")
    for file in (teacher / "model").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "teacher")
    path = written(tmp_path, tmp_path / "teacher", students=students, data=own["data"], task=own["task"])
    with pytest.raises(InputError, match=words):
        carry_out(path)
    assert not trained and not (tmp_path / "distilled").exists()
