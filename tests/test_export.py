"""Models as graphs: they give what the model gives, and what cannot be written is a sentence that leaves no file."""

import json
from importlib.util import find_spec

import pytest
import torch

from bareformers import export as exporting
from bareformers import registry
from bareformers.bench import required_options
from bareformers.cli import app
from bareformers.errors import InputError
from bareformers.export import PACKAGES, TOLERANCE, export
from bareformers.models import BareConfig, BareForCausalLM, BareForSequenceClassification
from bareformers.paring.surgery import load, swap
from tests.paring.test_surgery import disturb, tiny
from tests.training.tiny import command

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES), reason="onnx, onnxscript and onnxruntime are not installed"
)
FAMILIES = {"encoder": "bert", "decoder": "llama"}
TOGETHER = 4  # mixers in a model, a layer each, since a graph takes its time however few layers there are


def groups():
    """Every mixer that needs no options, by the role it is tried in."""
    for role in FAMILIES:
        names = [
            name for name, cls in registry.mixers if role in cls.roles and not cls.absent and not required_options(name)
        ]
        yield from ((role, names[start : start + TOGETHER]) for start in range(0, len(names), TOGETHER))


def quietly(model, path, format="torch", rounds=0):
    return export(model, path, format, rounds, log=lambda sentence: None)


def swapped(name, mixer, role=None, **changes):
    model = tiny(name, **changes)
    swap(model, mixer, role=role)
    return disturb(model)


def ours(cls=BareForCausalLM, **changes):
    torch.manual_seed(0)
    sizes = dict(vocab_size=97, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return disturb(cls(BareConfig(**{**sizes, "max_position_embeddings": 40, **changes})).eval())


@pytest.mark.slow
@pytest.mark.parametrize(
    "role, mixers", groups(), ids=lambda given: given if isinstance(given, str) else "-".join(given)
)
def test_every_mixer_is_a_graph(role, mixers, tmp_path):
    """Longer than what small maps, chunks and blocks of queries are for."""
    model = tiny(FAMILIES[role], num_hidden_layers=len(mixers), max_position_embeddings=150)
    for layer, name in enumerate(mixers):
        swap(model, name, layers=[layer])
    found = quietly(disturb(model), tmp_path / "model.pt2")
    assert found.difference <= TOLERANCE
    assert (3, 150) in found.compared and (1, 1) in found.compared and len(found.compared) >= 6


@pytest.mark.parametrize(
    "family, mixer",
    [
        ("bert", {"name": "dot_product", "positions": "relative"}),
        ("bert", {"name": "dense", "max_offset": 3}),
        ("bert", {"name": "mixture", "of": ["factorized_dense", {"name": "random", "max_offset": 3}]}),
        ("llama", {"name": "aslr", "form": "factorised", "width": 12}),
        ("llama", {"name": "linear", "conv": 3}),
    ],
    ids=str,
)
def test_options_that_take_another_way(family, mixer, tmp_path):
    assert quietly(swapped(family, mixer, num_hidden_layers=1), tmp_path / "model.pt2").difference <= TOLERANCE


@pytest.mark.slow
def test_a_translator_has_two_lengths(tmp_path):
    model = swapped("marian", "alr", "cross", encoder_layers=1, decoder_layers=1)
    found = quietly(model, tmp_path / "model.pt2")
    assert (3, 40, 1) in found.compared
    program = torch.export.load(found.path).module()
    given = exporting.inputs(model, exporting.Shape(2, 9, 4), padding=True)
    shown = given["decoder_attention_mask"].bool()
    torch.testing.assert_close(program(**given)[shown], model(**given).logits[shown], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", ["pre_ln", "sas_p", "parallel"])
def test_our_own(block, tmp_path):
    model = ours(block=block, mixer="dot_product")
    assert quietly(model, tmp_path / "model.pt2").difference <= TOLERANCE


def test_our_own_with_other_heads(tmp_path):
    model = ours(BareForSequenceClassification, mixer="gaussian", num_labels=3)
    assert quietly(model, tmp_path / "model.pt2").difference <= TOLERANCE


def test_models_without_a_head_and_of_images(tmp_path):
    assert quietly(tiny("bert").bert, tmp_path / "base.pt2").difference <= TOLERANCE
    assert quietly(swapped("vit", "average"), tmp_path / "image.pt2").compared[0] == (1, 1, 8, 8)


def test_the_model_stays_as_it_is(tmp_path):
    model = swapped("llama", "gaussian", num_hidden_layers=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quietly(model, tmp_path / "model.pt2")
    assert model.training and model.config.use_cache
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: swapped("bert", "random", num_hidden_layers=1),
        lambda: swapped("llama", "linear", num_hidden_layers=1),
        lambda: swapped("marian", "gaussian", "cross", encoder_layers=1, decoder_layers=1),
        lambda: ours(mixer="average", num_hidden_layers=1),
    ],
    ids=["bert", "llama", "marian", "ours"],
)
def test_onnx_gives_what_the_model_gives(make, tmp_path):
    found = quietly(make(), tmp_path / "model.onnx", "onnx")
    assert found.difference <= TOLERANCE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]


@needs_onnx
@pytest.mark.slow
def test_delta_is_no_onnx(tmp_path):
    with pytest.raises(InputError, match="with delta cannot be exported: .*solve_triangular.*; --format torch may do"):
        quietly(swapped("llama", "delta", num_hidden_layers=1), tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_the_verb_writes_graph_and_numbers(tmp_path, capsys):
    swapped("bert", "gaussian", num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    assert load(tmp_path / "bert").config.bareformers
    out = command(capsys, "export", str(tmp_path / "bert"), "--format", "torch", "--rounds", "1").out
    path = tmp_path / "bert" / "model.pt2"
    assert f"Graph: {path}" in out and "batch 32" in out and "exported" in out
    told = json.loads((tmp_path / "bert" / "model.pt2.json").read_text())
    assert set(told["latencies"]) == {"torch", "exported"} and set(told["latencies"]["torch"]) == {"1", "32"}
    assert told["format"] == "torch" and told["difference"] <= TOLERANCE and told["machine"]["dtype"] == "fp32"


def test_mistakes_are_sentences(tmp_path, monkeypatch):
    model = tiny("bert")
    (tmp_path / "empty").mkdir()
    for given, said in {
        (model, tmp_path / "a.onnx", "tflite"): "unknown format 'tflite'",
        (tmp_path / "nowhere", None, "torch"): "there is no folder .*nowhere",
        (tmp_path / "empty", None, "torch"): "holds no trained model",
        (model, None, "torch"): "needs a path",
        (model, tmp_path / "a.onnx", "torch"): "a file of the format onnx, and the format is torch; write .*a.pt2",
        (model, tmp_path / "empty", "torch"): "is a folder",
        (tiny("bert-decoder"), tmp_path / "a.pt2", "torch"): "reads hidden states of another model",
        (torch.nn.Linear(2, 2), tmp_path / "a.pt2", "torch"): "not into Linear",
    }.items():
        with pytest.raises(InputError, match=said):
            quietly(*given)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r"needs onnxscript; pip install 'bareformers\[export\]'"):
        quietly(model, tmp_path / "a.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert "export" in {each.callback.__name__ for each in app.registered_commands}


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_text("an older one")
    squashing = swapped("llama", {"name": "fast_weights", "squash": True}, num_hidden_layers=1)
    with pytest.raises(InputError, match="fast_weights with squash .* write squash: false"):
        quietly(squashing, path)
    monkeypatch.setattr(exporting, "checked", lambda *given: (0.5, []))
    with pytest.raises(InputError, match="differs from the model by 5.0e-01 of the largest output"):
        quietly(swapped("bert", "average", num_hidden_layers=1), path)
    assert path.read_text() == "an older one" and [each.name for each in tmp_path.iterdir()] == ["model.pt2"]
