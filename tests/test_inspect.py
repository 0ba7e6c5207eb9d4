"""`bareformers inspect`: on runs of ours, and on models of others that are built here."""

import json
import re
import shutil
from itertools import pairwise

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from bareformers import inspection
from bareformers import run as running
from bareformers.recipe import load
from tests.training import tiny

SIZES = dict(vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """No table is cut."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """The folder of a finished comparison of language models."""
    path = tiny.language_modelling(tmp_path_factory.mktemp("documents"), "dot_product", "delta")
    running.run(load(path, ["training.precision=fp32"]), "bareformers run", log=lambda sentence: None)
    return path.parent / "run"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The folder of a finished comparison of translations."""
    path = tiny.translation(tmp_path_factory.mktemp("pairs"), "gaussian")
    running.run(load(path, ["training.budget.steps=2"]), "bareformers run", log=lambda sentence: None)
    return path.parent / "run"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt")


def found_in(folder):
    return json.loads((folder / "inspect.json").read_text(encoding="utf-8"))


def close(found, wanted):
    """Layers that are the same but for rounding."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value), name


# Runs of ours


def test_a_run_before_and_after(documents, capsys):
    run = documents / "dot_product" / "seed0"
    outcome = tiny.command(capsys, "inspect", run)
    assert outcome.code == 0, outcome
    assert outcome.out.index("at initialisation") < outcome.out.index("as trained")
    assert outcome.out.count("embeddings") == 2 and f"Report: {run / 'inspect.html'}" in outcome.out
    for title in ("row norm", "mean cosine", "effective rank", "attention entropy", "kurtosis", "gradient norm"):
        assert outcome.out.count(title) == 2
    assert "of the validation side" in outcome.err
    found = found_in(run)
    assert found["target"] == str(run) and found["description"].startswith("dot_product in pre_ln; ")
    assert set(found["signal"]) == {"at initialisation", "as trained"}
    for layers in found["signal"].values():
        assert [(layer["stack"], layer["layer"]) for layer in layers] == [("", 0), ("", 1)]
    page = (run / "inspect.html").read_text(encoding="utf-8")
    assert "Signal through the layers" in page and "<h3>decoder</h3>" in page and "Jacobian" not in page


@pytest.mark.parametrize("variant", ["dot_product", "delta"])
def test_a_run_is_inspected_as_it_was_recorded(documents, variant, tmp_path, capsys):
    """The weights that it began with are made again from the seed, and the batch is the same."""
    run = documents / variant / "seed0"
    assert tiny.command(capsys, "inspect", run, "--output", tmp_path / "deep").code == 0
    rows = [json.loads(line) for line in (run / "signal.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["step"] == 0 and rows[-1]["step"] == 12
    found = found_in(tmp_path / "deep")["signal"]
    close(found["at initialisation"], rows[0]["layers"])
    close(found["as trained"], rows[-1]["layers"])
    assert found["at initialisation"] != found["as trained"]


def test_a_mixer_without_a_map_has_a_jacobian(documents, tmp_path, capsys):
    assert tiny.command(capsys, "inspect", documents / "delta" / "seed0", "--output", tmp_path).code == 0
    page = (tmp_path / "inspect.html").read_text(encoding="utf-8")
    assert page.count('<small class="missing">Jacobian norm</small>') == 4, "a mean and a layer, before and after"
    report = (documents / "report.html").read_text(encoding="utf-8")
    assert "Jacobian norm" in report and "Signal through the layers" in report


def test_what_kind_of_token_is_read(documents, tmp_path, capsys):
    outcome = tiny.command(capsys, "inspect", documents / "dot_product" / "seed0", "--output", tmp_path)
    assert outcome.out.count("what maps read, ") == 2 and "read evenly" in outcome.out
    found = found_in(tmp_path)["reading"]
    assert set(found) == {"at initialisation", "as trained"}
    for (layer,) in found.values():
        assert layer["distinct"] + layer["common"] + layer["own"] == pytest.approx(1, abs=1e-4)
    before = found["at initialisation"][0]
    assert 0.02 < before["even"] < 0.9 and before["distinct"] == pytest.approx(before["even"], abs=0.02)
    assert found["as trained"][0]["even"] == before["even"] and found["as trained"] != found["at initialisation"]
    assert "What kind of token is read" in (tmp_path / "inspect.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("length, most", [(1, 3), (3, 3), (5, 3), (5999, 2000), (4000, 2000)])
def test_rows_that_are_counted_are_of_all_the_data(length, most):
    places = inspection.evenly(length, most)
    assert len(set(places)) == len(places) == min(length, most)
    assert places[0] == 0 and places[-1] == length - 1
    steps = [after - before for before, after in pairwise(places)]
    assert not steps or max(steps) - min(steps) <= 1


def test_where_nothing_is_said_of_what_is_read(documents, pairs, tmp_path, capsys):
    for run in (documents / "delta" / "seed0", pairs / "gaussian" / "seed0"):  # no map; no language model
        assert "what maps read" not in tiny.command(capsys, "inspect", run, "--output", tmp_path).out
        assert "reading" not in found_in(tmp_path)
        assert "What kind of token" not in (tmp_path / "inspect.html").read_text(encoding="utf-8")


def test_an_encoder_decoder(pairs, tmp_path, capsys):
    outcome = tiny.command(capsys, "inspect", pairs / "gaussian" / "seed0", "--output", tmp_path)
    assert outcome.code == 0 and "encoder embeddings" in outcome.out and "decoder 1" in outcome.out
    page = (tmp_path / "inspect.html").read_text(encoding="utf-8")
    assert all(f"<h3>{role}</h3>" in page for role in ("encoder", "decoder", "cross"))


def test_a_run_that_started_from_another(documents, tmp_path, capsys):
    earlier, path = documents / "dot_product" / "seed0", tiny.language_modelling(tmp_path, "dot_product")
    overrides = [f"start_from={earlier}", "training.budget.steps=2", "training.precision=fp32"]
    running.run(load(path, overrides), "bareformers run", log=lambda sentence: None)
    run = tmp_path / "run" / "dot_product" / "seed0"
    outcome = tiny.command(capsys, "inspect", run)
    assert outcome.code == 0 and f"It began with the weights of {earlier}." in outcome.err
    before = found_in(run)["signal"]["at initialisation"]
    close(before, json.loads((run / "signal.jsonl").read_text(encoding="utf-8").splitlines()[0])["layers"])
    close(before, json.loads((earlier / "signal.jsonl").read_text(encoding="utf-8").splitlines()[-1])["layers"])


@pytest.mark.parametrize("task", ["masked_language_modelling", "classification"])
def test_tasks_of_encoders(tmp_path, capsys, task):
    path = getattr(tiny, task)(tmp_path, "dot_product")
    running.run(load(path, ["training.budget.steps=2"]), "bareformers run", log=lambda sentence: None)
    run = tmp_path / "run" / "dot_product" / "seed0"
    assert tiny.command(capsys, "inspect", run).code == 0
    found = found_in(run)["signal"]
    close(found["at initialisation"], json.loads((run / "signal.jsonl").read_text().splitlines()[0])["layers"])
    assert all(layer["gradient_norm"] > 0 for layers in found.values() for layer in layers)
    assert "<h3>encoder</h3>" in (run / "inspect.html").read_text(encoding="utf-8")


def test_the_folder_of_the_whole_comparison(documents, capsys):
    sentence = tiny.command(capsys, "inspect", documents).sentence
    assert f"{documents} holds 2 runs; name one of them, such as {documents / 'delta' / 'seed0'}" in sentence


def test_a_run_brings_its_own_text(documents, text, capsys):
    sentence = tiny.command(capsys, "inspect", documents / "delta" / "seed0", "--text", text).sentence
    assert "is a run folder, which brings its own data; leave --text out" in sentence


def test_the_model_alone_reads_a_text(documents, text, tmp_path, capsys):
    model = shutil.copytree(documents / "dot_product" / "seed0" / "model", tmp_path / "model")
    outcome = tiny.command(capsys, "inspect", model, "--text", text, "--output", tmp_path)
    assert outcome.code == 0 and "at initialisation" not in outcome.out
    assert found_in(tmp_path)["description"].startswith("BareForCausalLM; ")


# Models of others


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny.text_data(tmp_path_factory.mktemp("tokenizer")).tokenizer


@pytest.fixture
def saved(tokenizer, tmp_path):
    """Saves a model as others do, with a tokenizer beside it."""

    def save(model):
        model.save_pretrained(tmp_path / "theirs")
        tokenizer.save_pretrained(tmp_path / "theirs")
        return tmp_path / "theirs"

    torch.manual_seed(0)
    return save


def gpt2():
    config = GPT2Config(
        vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config)


def bert(cls=BertForMaskedLM):
    return cls(BertConfig(**SIZES, max_position_embeddings=64, pad_token_id=0))


def bart():
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
        )
    )  # fmt: skip


@pytest.mark.parametrize("make, role", [(gpt2, "decoder"), (bert, "encoder")], ids=["gpt2", "bert"])
def test_a_model_of_others(saved, text, tmp_path, capsys, make, role):
    outcome = tiny.command(capsys, "inspect", saved(make()), "--text", text, "--output", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert "as trained" in outcome.out and "at initialisation" not in outcome.out
    assert f"rows of {text}" in outcome.err and "No gradient norms" not in outcome.err
    found = found_in(tmp_path / "out")["signal"]
    assert list(found) == ["as trained"] and [layer["layer"] for layer in found["as trained"]] == [0, 1, 2]
    for layer in found["as trained"]:
        assert layer["gradient_norm"] > 0 and layer["rms"] > 0
        assert (layer["attention_entropy"] is None) == (layer["layer"] == 0)
    page = (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")
    assert f"<h3>{role}</h3>" in page and re.search(r'<svg class="map".*?data:image/png', page, re.DOTALL)


def test_an_encoder_decoder_of_others(saved, tmp_path, capsys):
    lines = [f"{source}\t{target}" for source, target in tiny.reversals(20, seed=3)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    outcome = tiny.command(
        capsys, "inspect", saved(bart()), "--text", tmp_path / "pairs.tsv", "--output", tmp_path / "out"
    )
    assert outcome.code == 0, outcome
    assert "in 8 rows" in outcome.err
    layers = found_in(tmp_path / "out")["signal"]["as trained"]
    assert [(layer["stack"], layer["layer"]) for layer in layers] == [
        ("encoder", 0), ("encoder", 1), ("decoder", 0), ("decoder", 1), ("decoder", 2)
    ]  # fmt: skip
    assert all(layer["gradient_norm"] > 0 for layer in layers)
    page = (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")
    assert all(f"<h3>{role}</h3>" in page for role in ("encoder", "decoder", "cross"))


@pytest.mark.parametrize("cls", [BertModel, BertForSequenceClassification])
def test_what_is_no_language_model_has_no_loss(saved, text, tmp_path, capsys, cls):
    outcome = tiny.command(capsys, "inspect", saved(bert(cls)), "--text", text, "--output", tmp_path / "out")
    assert outcome.code == 0 and f"No gradient norms: {cls.__name__} has no loss of a language model" in outcome.err
    layers = found_in(tmp_path / "out")["signal"]["as trained"]
    assert all(layer["gradient_norm"] is None and layer["rms"] > 0 for layer in layers)


def test_where_it_is_written_by_default(saved, text, tmp_path, monkeypatch, capsys):
    folder = saved(gpt2())
    monkeypatch.chdir(tmp_path)
    assert tiny.command(capsys, "inspect", folder, "--text", text).code == 0
    assert (tmp_path / "runs" / "inspect" / "theirs" / "inspect.html").exists()


# What is wrong


def test_a_model_of_others_needs_a_text(saved, capsys):
    sentence = tiny.command(capsys, "inspect", saved(gpt2())).sentence
    assert "is a model without data of its own; write --text <a file that it is to read>" in sentence


def test_a_text_that_is_not_there_or_empty(saved, tmp_path, capsys):
    folder = saved(gpt2())
    assert "cannot read nowhere.txt" in tiny.command(capsys, "inspect", folder, "--text", "nowhere.txt").sentence
    (tmp_path / "empty.txt").write_text(" \n")
    assert "is empty" in tiny.command(capsys, "inspect", folder, "--text", tmp_path / "empty.txt").sentence


def test_an_encoder_decoder_needs_pairs(saved, tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("ein Haus\ta house\n\nein Hund\n", encoding="utf-8")
    sentence = tiny.command(capsys, "inspect", saved(bart()), "--text", tmp_path / "pairs.tsv").sentence
    assert "line 3 is no pair" in sentence and "write a source, a tab and its target" in sentence


def test_no_model_of_that_name(text, tmp_path, capsys):
    sentence = tiny.command(capsys, "inspect", "runs/nowhere/seed0", "--text", text).sentence
    assert "runs/nowhere/seed0 is neither a run folder nor a model that transformers can load: " in sentence
    assert "holds no trained model" in tiny.command(capsys, "inspect", tmp_path).sentence
