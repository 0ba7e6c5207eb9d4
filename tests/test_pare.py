"""Whole parings of tiny models: what they leave, how they go on, and what they refuse."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

import bareformers
from bareformers import pretrained, reduction, registry
from bareformers import run as running
from bareformers.cli import app
from bareformers.errors import InputError, Interrupted
from bareformers.paring import savings
from bareformers.paring.teaching import named
from bareformers.recipe import Task, load, load_paring
from bareformers.report.paring import ParingStudy
from bareformers.report.result import Comparison
from bareformers.run_folder import load_data, load_model
from tests.training import tiny

RECIPES = Path(__file__).parent.parent / "recipes"
NAMES = ["animal", "plant", "stone"]
QUICK = {
    "training": {"budget": {"steps": 4}, "batch_tokens": 256, "warmup_steps": 1, "evaluations": 1, "checkpoints": 2},
    "finetune": {"budget": {"steps": 2}, "batch_tokens": 256, "warmup_steps": 1, "evaluations": 1, "checkpoints": 2},
    "evaluation": {"beams": 1, "samples": 2, "sample_tokens": 4, "max_sentences": 4, "speed_rounds": 1},
    "search": {"examples": 8},
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sentences of three classes, in files."""
    folder = tmp_path_factory.mktemp("data")
    for side, count in (("train", 160), ("validation", 24), ("test", 24)):
        items = tiny.labelled(count, seed=len(side))
        lines = [f"{NAMES[int(item.label)]} {item.text}\n" for item in items]
        (folder / f"{side}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a BERT that was never trained, with a tokenizer of words."""
    folder = tmp_path_factory.mktemp("bert")
    said = {word for item in tiny.labelled(500, seed=0) for word in item.text.split()}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(said)]
    inside = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=inside, **special)
    tokenizer.save_pretrained(folder)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    labels = dict(id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)})
    config = hf.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **sizes, **labels)
    torch.manual_seed(0)
    hf.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A run folder of ours."""
    path = tiny.translation(tmp_path_factory.mktemp("ours"), "dot_product")
    running.run(load(path, ["evaluation.max_sentences=4"]), "bareformers run tiny.yaml", log=lambda sentence: None)
    return path.parent / "run" / "dot_product" / "seed0"


def pare(model, data, output, **given):
    said = []
    settings = {**QUICK, "candidates": ["gaussian", "average"], "target": "parameters", **given}
    return reduction.pare(model, data, output=output, log=said.append, **settings), said


@pytest.fixture(scope="module")
def finished(classifier, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pared") / "run"
    found, said = pare(classifier, data, folder, max_drop=100)
    return found, said, folder


def test_a_classifier_of_transformers(finished, classifier):
    found, said, folder = finished
    files = {"recipe.yaml", "model", "original", "fine_tuned", "pared", "lessons", "tuned", "savings.json"}
    files |= {"scores.json", "trace.json", "result.json", "results.csv", "report.html"}
    assert files == {path.name for path in folder.iterdir()}
    study = ParingStudy.load(folder / "trace.json")
    assert study == found.study and study.metric == "accuracy"
    assert set(study.alone) == {"encoder layer 0", "encoder layer 1"} == set(study.final)
    assert all(set(drops) == {"gaussian", "average"} for drops in study.alone.values())
    assert all(value > 0 for savings in study.savings.values() for value in savings.values())
    assert [trial.steps for trial in study.trials] == [2] and "2 of 2 places are replaced" in study.remark
    assert all(0 < share < 1 for share in study.attention.values()) and len(study.attention) == 2
    comparison = Comparison.load(folder / "result.json")
    assert [variant.name for variant in comparison.variants] == ["original", "fine_tuned", "pared"]
    original, control, pared = comparison.variants
    assert control.cost["parameters"].value == original.cost["parameters"].value
    assert control.quality["loss"].value != original.quality["loss"].value
    assert pared.cost["parameters"].value == original.cost["parameters"].value - 4 * (16 * 16 + 16)
    assert pared.cost["multiply_adds"].value < original.cost["multiply_adds"].value
    assert {"latency_1", "latency_32"} <= set(pared.cost) and "state_bytes" not in pared.cost


def test_the_model_can_be_loaded(finished):
    found, _, folder = finished
    model = bareformers.load(folder / "model")
    assert model.config.bareformers["mixers"][0]["role"] == "encoder"
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids).logits, found.model.eval()(ids).logits)
    assert hf.AutoTokenizer.from_pretrained(folder / "model").cls_token == "[CLS]"


def test_the_report_shows_what_was_tried(finished):
    page = (finished[2] / "report.html").read_text(encoding="utf-8")
    assert "What was replaced" in page and "Each place alone" in page and "encoder layer 1" in page
    assert "2 of 2 places are replaced" in page and "along the way" in page
    assert "Where each variant looks" in page and "No maps" not in page and "On what verifies" in page


def test_texts_are_framed_by_the_tokens_of_the_model(classifier, data):
    model, tokenizer, _ = pretrained.opened(str(classifier))
    section = pretrained.section_for(pretrained.data_of(data), "classification")
    task = Task(name="classification", max_length=30)
    found = load_data(section, task, tokenizer, model)
    assert found.train[0]["input_ids"][0] == 2 and found.train[0]["input_ids"][-1] == 3
    assert found.labels == tuple(NAMES)


def test_given_again_nothing_is_done_twice(finished, classifier, data, monkeypatch, capsys):
    found, _, folder = finished

    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(reduction.BareTrainer, "fit", never)
    monkeypatch.setattr(savings, "measure", never)
    for name in ("evaluate", "scores_of"):
        monkeypatch.setattr(reduction, name, never)
    again, _ = pare(classifier, data, folder, max_drop=100)
    assert again.study == found.study


def test_equal_seeds_give_equal_models(finished, classifier, data, tmp_path):
    found, _, _ = finished
    again, _ = pare(classifier, data, tmp_path / "run", max_drop=100)
    assert again.study.alone == found.study.alone and again.study.trials == found.study.trials
    first, second = found.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_low_rank_fine_tuning(finished, classifier, data, tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="needs peft, of the extra of that name")
    given = {"max_drop": 100, "finetune": {**QUICK["finetune"], "learning_rate": 0.1, "low_rank": 2}}
    found, _ = pare(classifier, data, tmp_path / "run", **given)
    assert found.study.final == finished[0].study.final
    first, second = finished[0].model.state_dict(), found.model.state_dict()
    assert first.keys() == second.keys()
    query = "bert.encoder.layer.0.output.dense.weight"
    changed = second[query] - hf.BertForSequenceClassification.from_pretrained(classifier).state_dict()[query]
    assert torch.linalg.matrix_rank(changed, tol=1e-5) == 2
    step, calls = reduction.BareTrainer.training_step, []

    def steps(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(reduction.BareTrainer, "training_step", steps)
        with pytest.raises(Interrupted):
            pare(classifier, data, tmp_path / "killed", **given)
    again, _ = pare(classifier, data, tmp_path / "killed", **given)
    assert all(torch.equal(second[name], tensor) for name, tensor in again.model.state_dict().items())
    with pytest.raises(InputError, match="only_replaced is about weights that do not learn with low_rank"):
        pare(classifier, data, tmp_path / "both", finetune={**given["finetune"], "only_replaced": True})


def test_only_what_was_replaced_is_fine_tuned(classifier, data, tmp_path):
    settings = {**QUICK["finetune"], "learning_rate": 0.01, "only_replaced": True}
    found, _ = pare(classifier, data, tmp_path / "run", max_drop=100, finetune=settings)
    before = hf.BertForSequenceClassification.from_pretrained(classifier).state_dict()
    after = found.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() & after.keys())
    values = "bert.encoder.layer.0.attention.self.mixer.value.weight"
    assert not torch.equal(after[values], before[values.replace("mixer.", "")])


@pytest.mark.parametrize("stage", ["lessons", "search", "finetune", "end"])
def test_a_paring_that_was_killed_goes_on(finished, classifier, data, tmp_path, monkeypatch, stage):
    found, _, _ = finished
    with monkeypatch.context() as patch:
        calls = []
        if stage == "search":
            scores_of = reduction.scores_of

            def some(*args):
                calls.append(1)
                if len(calls) == 4:
                    raise KeyboardInterrupt
                return scores_of(*args)

            patch.setattr(reduction, "scores_of", some)
        elif stage in ("lessons", "finetune"):
            step = reduction.BareTrainer.training_step
            stop = 3 if stage == "lessons" else 6

            def steps(self, *args, **kwargs):
                calls.append(1)
                if len(calls) == stop:
                    raise KeyboardInterrupt
                return step(self, *args, **kwargs)

            patch.setattr(reduction.BareTrainer, "training_step", steps)
        else:

            def ended(*args):
                raise KeyboardInterrupt

            patch.setattr(reduction, "time_all", ended)
        with pytest.raises(Interrupted, match="resume with: bareformers pare"):
            pare(classifier, data, tmp_path / "run", max_drop=100)
    again = reduction.pare(tmp_path / "run" / "recipe.yaml", log=lambda sentence: None)
    assert again.study.final == found.study.final and again.study.trials == found.study.trials
    first, second = found.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_does_not_hold_on_what_verifies_is_undone(classifier, data, tmp_path, monkeypatch):
    def scored(self, model, data, **changes):
        """Good wherever the search looks; on what verifies bad with two layers replaced."""
        places = len(getattr(model.config, "bareformers", {}).get("mixers", []))
        return 60.0 if changes or places < 2 else 10.0

    monkeypatch.setattr(reduction.Subject, "score", scored)
    found, said = pare(classifier, data, tmp_path / "run", max_drop=5, finetune=None)
    assert [trial.steps for trial in found.study.trials] == [2, 1]
    assert len(found.study.final) == 1 == len(found.model.config.bareformers["mixers"])
    assert "the last is undone" in " ".join(said) and "fine-tuning" not in " ".join(said)
    assert found.study.remark.endswith("1 more step of the search did not hold.")
    made, make = [], reduction.tuned
    monkeypatch.setattr(reduction, "tuned", lambda *given: made.append(given[1]) or make(*given))
    again, _ = pare(classifier, data, tmp_path / "run", max_drop=5, finetune=None)
    assert again.study.trials == found.study.trials and made == [found.study.final]


def test_an_unreachable_budget_leaves_the_original(classifier, data, tmp_path, monkeypatch):
    def scored(self, model, data, **changes):
        return 60.0 - 10 * len(getattr(model.config, "bareformers", {}).get("mixers", []))

    monkeypatch.setattr(reduction.Subject, "score", scored)
    found, _ = pare(classifier, data, tmp_path / "run", max_drop=1)
    assert found.study.final == {} and found.study.trials == []
    assert found.study.remark.startswith("Nothing can be replaced for a drop of at most 1")
    before = hf.BertForSequenceClassification.from_pretrained(classifier).state_dict()
    after = bareformers.load(tmp_path / "run" / "model").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("target", ["parameters", "state", "latency"])
def test_a_run_of_ours(translator, tmp_path, target):
    given = {"candidates": ["gaussian", {"name": "average"}], "max_drop": 100}
    found, _ = pare(translator, None, tmp_path / "run", target=target, **given)
    places = {"encoder layer 0", "decoder layer 0", "cross layer 0"}
    assert set(found.study.alone) == (places - {"encoder layer 0"} if target == "state" else places)
    assert found.study.metric == "bleu" and found.comparison.headline == "bleu"
    if target == "state":
        assert found.study.savings["decoder layer 0"]["gaussian"] > 0
    model, _ = load_model(tmp_path / "run")
    for place, name in found.study.final.items():
        assert model.config.mixer_spec(place.split()[0], 0)["name"] == name
    assert "parallel" in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")


def test_a_language_model_is_held_by_its_perplexity(speaker, tmp_path):
    given = {"metric": "perplexity", "max_drop": 50, "candidates": ["gaussian"]}
    found, _ = pare(speaker, None, tmp_path / "pared", **given)
    first = json.loads((tmp_path / "pared" / "tuned" / "0" / "trial.json").read_text("utf-8"))["quality"]
    assert found.study.metric == "perplexity" and found.study.in_percent
    assert found.study.trials[0].drop == pytest.approx(100 * (found.study.trials[0].quality / first - 1))


@pytest.mark.parametrize("kind", ["gpt2", "marian"])
def test_models_of_transformers_that_decode(tmp_path, kind):
    words = [
        "</s>",
        "<pad>",
        "<unk>",
        *sorted({word.strip(".") for text in tiny.paragraphs() for word in text.split()}),
    ]
    words += sorted(set(tiny.vocabulary()) - set(words))
    inside = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    hf.PreTrainedTokenizerFast(tokenizer_object=inside, **special).save_pretrained(tmp_path / "model")
    ids = dict(vocab_size=len(words), eos_token_id=0, pad_token_id=1, bos_token_id=0)
    torch.manual_seed(0)
    if kind == "gpt2":
        model = hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=40, **ids))
        data = {"name": "text", "path": str(tiny.write_text(tmp_path / "text.txt"))}
        given = {"metric": "perplexity", "task": {"max_length": 16}}
    else:
        layers = dict(encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2)
        sizes = dict(d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40)
        config = hf.MarianConfig(decoder_start_token_id=1, forced_eos_token_id=0, **layers, **sizes, **ids)
        model = hf.MarianMTModel(config)
        data = {"name": "parallel", "root": str(tiny.write_parallel(tmp_path / "pairs")), "test": "test"}
        given = {"task": {"max_length": 16}}
    model.save_pretrained(tmp_path / "model")
    found, _ = pare(tmp_path / "model", data, tmp_path / "run", target="state", max_drop=1000, **given)
    places = {"decoder layer 0", "decoder layer 1"} | (
        {"cross layer 0", "cross layer 1"} if kind == "marian" else set()
    )
    assert places >= set(found.study.final) >= {"decoder layer 0", "decoder layer 1"}
    original, pared = (found.comparison.variant(name) for name in ("original", "pared"))
    assert pared.cost["state_bytes"].value < original.cost["state_bytes"].value
    assert {"decoding_step_behind_24_tokens"} <= {*pared.cost} & {*original.cost}
    assert bareformers.load(tmp_path / "run" / "model").config.use_cache is True


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A run folder of ours."""
    path = tiny.language_modelling(tmp_path_factory.mktemp("speaker"), "dot_product")
    running.run(load(path), "bareformers run tiny.yaml", log=lambda sentence: None)
    return path.parent / "run" / "dot_product" / "seed0"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("paring/*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_can_be_carried_out(path, request, tmp_path):
    name, given = {
        "minilm_sst2": ("classifier", "data"),
        "smollm2": ("speaker", None),
        "translation": ("translator", None),
    }[path.stem]
    recipe, model = load_paring(path), request.getfixturevalue(name)
    data = request.getfixturevalue(given) if given else yaml.safe_load((model / "recipe.yaml").read_text())["data"]
    overrides = [f"model={model}", "task.max_length=16", "training.budget={steps: 2}", "search.examples=8"]
    overrides += ["evaluation.speed_rounds=1", "evaluation.max_sentences=4", f"output={tmp_path / 'run'}"]
    if recipe.finetune is not None:
        overrides.append("finetune.budget={steps: 2}")
    found = reduction.pare(path, data, *overrides, "max_drop=100", log=lambda sentence: None)
    assert found.study.metric == recipe.metric and found.study.target == recipe.target
    assert {name for drops in found.study.alone.values() for name in drops} == set(map(named, recipe.candidates))
    assert (tmp_path / "run" / "report.html").exists()


def test_without_a_test_side_the_training_side_is_searched(classifier, data, tmp_path):
    for side in ("train", "validation"):
        (tmp_path / f"{side}.txt").write_text((data / f"{side}.txt").read_text("utf-8"), encoding="utf-8")
    found, _ = pare(classifier, tmp_path, tmp_path / "run", candidates=["average"], finetune=None, max_drop=100)
    assert found.study.settings.startswith("The search looks at 8 training examples, on which nothing is trained")
    assert found.comparison.notes[-1].endswith("the validation side verifies, and tells how it went.")


def mistaken(words, capsys):
    with pytest.raises(SystemExit) as ended:
        app(words, standalone_mode=False)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("bareformers: ")
    return said


def test_mistakes_are_one_sentence(classifier, data, tmp_path, capsys):
    base = ["pare", str(classifier), "--output", str(tmp_path / "run")]
    full = [*base, "--data", str(data)]
    assert "write --data" in mistaken(base, capsys)
    assert "unknown metric for classification 'bleu'" in mistaken([*full, "--metric", "bleu"], capsys)
    assert "unknown mixer 'gausian'; did you mean 'gaussian'" in mistaken([*full, "--candidates", "gausian"], capsys)
    assert "nothing in the place of an attention" in mistaken([*full, "--candidates", "none"], capsys)
    assert "target" in mistaken([*full, "--for", "size"], capsys)
    assert "unknown key 'max_dropp'" in mistaken([*full, "max_dropp=3"], capsys)
    assert "has no state to save" in mistaken([*full, "--for", "state"], capsys)
    assert "latency is not known without timings" in mistaken([*full, "evaluation.speed_rounds=0"], capsys)
    (tmp_path / "empty").mkdir()
    assert "has no training data" in mistaken([*base, "--data", str(tmp_path / "empty")], capsys)
    assert "there is no folder" in mistaken([*base, "--data", str(tmp_path / "nowhere")], capsys)
    for side in ("train", "validation"):
        text = (data / f"{side}.txt").read_text("utf-8").replace("stone", "cloud")
        (tmp_path / f"{side}.txt").write_text(text, encoding="utf-8")
    said = mistaken([*base, "--data", str(tmp_path)], capsys)
    assert "knows the classes animal, plant, stone, and the data has animal, cloud, plant" in said
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_paring_is_refused(finished, data, classifier, capsys):
    folder = finished[2]
    words = ["pare", str(classifier), "--data", str(data), "--output", str(folder), "--max-drop", "2"]
    assert re.search(r"belongs to another recipe: [\w.]+ differs; write --output", mistaken(words, capsys))


def test_a_model_in_memory_is_refused():
    with pytest.raises(InputError, match="reads a folder, not a BertModel; save the model there"):
        reduction.pare(hf.BertModel(hf.BertConfig(num_hidden_layers=1, hidden_size=24)))


def test_a_model_without_attention(tmp_path, capsys):
    path = tiny.classification(tmp_path, "none")
    running.run(load(path), "bareformers run tiny.yaml", log=lambda sentence: None)
    run = tmp_path / "run" / "none" / "seed0"
    assert "has no attention" in mistaken(["pare", str(run)], capsys)


def test_the_command_line(classifier, data, tmp_path, capsys):
    words = ["pare", str(classifier), "--data", str(data), "--for", "parameters", "--max-drop", "100"]
    words += ["--candidates", "average", "--output", str(tmp_path / "run"), "finetune=null", "search.examples=8"]
    words += ["training.budget.steps=1", "training.batch_tokens=256", "evaluation.speed_rounds=1"]
    app(words, standalone_mode=False)
    said = capsys.readouterr().out
    assert "Report: " in said and "Model:  " in said and "2 of 2 places are replaced" in said
    recipe = load_paring(tmp_path / "run" / "recipe.yaml")
    assert recipe.max_drop == 100 and recipe.target == "parameters" and recipe.finetune is None
    assert recipe.data["name"] == "labelled_text"


def test_what_a_recipe_leaves_out(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "model": "y", "target": "state"}), encoding="utf-8")
    recipe = load_paring(path)
    assert recipe.target == "state" and recipe.finetune.logits == 0.5 and recipe.training.budget.epochs == 2
    assert load_paring(path, ["finetune.learning_rate=0.1"]).finetune.budget.epochs == 1
    assert json.loads(recipe.model_dump_json())["target"] == "state"
    with pytest.raises(InputError, match="seeds: one model comes out of a paring"):
        load_paring(path, ["seeds=[0,1]"])


def test_what_a_notebook_imports():
    from bareformers import distill, load, pare, swap

    assert all(map(callable, (distill, load, pare, swap)))
    assert {"distill", "load", "pare", "swap"} <= set(dir(bareformers))
    with pytest.raises(AttributeError):
        bareformers.nothing  # noqa: B018
    assert registry.mixers.names()
