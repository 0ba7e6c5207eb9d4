"""Discriminative learning rates and gradual unfreezing (Howard & Ruder, ACL 2018, arXiv:1801.06146)."""

import json

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from bareformers.errors import InputError
from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM
from bareformers.training.depth import depths
from bareformers.training.signal_recorder import SignalRecorder, fixed_batch
from bareformers.training.trainer import Watch
from tests.models.sizes import build
from tests.training import tiny
from tests.training.test_trainer import run_and_fall, same, weights

DEEP = {"num_hidden_layers": 2}
LEVELS = 4  # embeddings, two layers, head
FEW = {"batch_tokens": 1024, "budget": {"epochs": 5}}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return tiny.labelled_data(tmp_path_factory.mktemp("cache"))


def depth_of(net):
    return depths(name for name, _ in net.named_parameters())


@pytest.mark.parametrize("cls", [BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM])
def test_depths_of_ours(cls):
    net = build(cls, is_encoder_decoder=cls is BareForSeq2SeqLM, position_embedding="learned", embedding_norm=True)
    found = depth_of(net)
    assert set(found.values()) - {3} == {0, 1, 2}
    for name, depth in found.items():
        assert (".embeddings." in name) == (depth == 0), name
        assert (".blocks.0." in name) == (depth == 1) and (".blocks.1." in name) == (depth == 2), name
    assert not any("lm_head" in name and name.endswith("decoder.weight") for name in found), "tied to the embeddings"


def test_depths_of_others():
    sizes = dict(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    found = depth_of(BertForSequenceClassification(BertConfig(**sizes)))
    assert found["bert.embeddings.word_embeddings.weight"] == 0 and found["bert.encoder.layer.1.output.dense.bias"] == 2
    assert found["bert.pooler.dense.weight"] == found["classifier.weight"] == 3
    found = depth_of(GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=8)))
    assert found["transformer.wpe.weight"] == 0 and found["transformer.h.0.attn.c_attn.weight"] == 1
    assert found["transformer.ln_f.weight"] == 3
    assert list(depths(["gpt_neox.embed_in.weight", "gpt_neox.layers.0.x", "embed_out.weight"]).values()) == [0, 1, 2]
    pairs = {key: sizes[key] for key in ("vocab_size", "num_hidden_layers")} | dict(d_model=8, pad_token_id=1)
    for side in ("encoder", "decoder"):
        pairs |= {f"{side}_layers": 2, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 8}
    found = depth_of(MarianMTModel(MarianConfig(**pairs)))
    assert found["model.shared.weight"] == found["model.encoder.embed_positions.weight"] == 0
    assert found["model.decoder.layers.0.fc1.weight"] == 1 and set(found.values()) == {0, 1, 2}
    found = depth_of(BartForConditionalGeneration(BartConfig(**pairs)))
    assert found["model.shared.weight"] == found["model.encoder.layernorm_embedding.weight"] == 0
    t5 = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2, decoder_start_token_id=0)
    found = depth_of(T5ForConditionalGeneration(t5))
    assert found["shared.weight"] == 0 and found["encoder.block.1.layer.0.SelfAttention.q.weight"] == 2
    with pytest.raises(InputError, match="no layers that are known by their names"):
        depth_of(torch.nn.Linear(2, 2))


def test_rates_of_layers(labelled, tmp_path):
    trainer = tiny.trainer(labelled, tmp_path, layer_decay=2.6, learning_rate=0.01, config=DEEP, weight_decay=0.1)
    plain = tiny.trainer(labelled, tmp_path, learning_rate=0.01, config=DEEP, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    depth = depth_of(trainer.model)
    seen = {True: set(), False: set()}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == pytest.approx(0.01 / 2.6 ** (3 - depth[name])), name
            seen[bool(group["weight_decay"])].add(name)
    names = {id(parameter): name for name, parameter in plain.model.named_parameters()}
    for group in plain.create_optimizer().param_groups:
        assert {names[id(parameter)] for parameter in group["params"]} == seen[bool(group["weight_decay"])]


def test_the_topmost_that_learns_has_the_whole_rate(labelled, tmp_path):
    trainer = tiny.trainer(labelled, tmp_path, layer_decay=2.6, learning_rate=0.01, config=DEEP)
    depth = depth_of(trainer.model)
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(depth[name] in (1, 2))
    rates = [group["lr"] for group in trainer.create_optimizer().param_groups]
    assert max(rates) == 0.01 and min(rates) == pytest.approx(0.01 / 2.6)


def test_rates_of_layers_follow_the_schedule(labelled, tmp_path):
    settings = dict(layer_decay=2.0, schedule="slanted_triangular", learning_rate=0.01, warmup_steps=100, config=DEEP)
    trainer = tiny.trainer(labelled, tmp_path, budget={"steps": 10}, **settings)
    trainer.fit()
    rates = [row["learning_rate"] for row in tiny.metrics(tmp_path) if "learning_rate" in row]
    assert rates[1] == pytest.approx(0.01) and rates[0] == pytest.approx(0.01 / 32), "those of the head"
    last = {round(0.01 / group["lr"], 3) for group in trainer.optimizer.param_groups}
    assert len(last) == LEVELS and max(last) / min(last) == pytest.approx(8)


class Looking(TrainerCallback):
    """The weights at the beginning of every epoch, and what has gradients at every step."""

    def __init__(self, net, each):
        self.net, self.each = net, each
        self.weights, self.free = [], []

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step % self.each == 0:
            self.weights.append(weights(self.net))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.free.append({name for name, p in self.net.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_unfreezing(labelled, tmp_path, checkpointing):
    trainer = tiny.trainer(
        labelled, tmp_path, unfreezing="gradual", config=DEEP, gradient_checkpointing=checkpointing, **FEW
    )
    each = trainer.plan.batches_per_epoch
    looking = Looking(trainer.model, each)
    trainer.add_callback(looking)
    inner = []
    trainer.model.encoder.blocks[0].register_forward_hook(
        lambda module, inputs, output: inner.append(output.requires_grad) if module.training else None
    )
    trainer.fit()
    depth = depth_of(trainer.model)
    assert each > 1 and len(looking.weights) == 5 and trainer.num_frozen == 0
    for epoch, (before, after) in enumerate(zip(looking.weights, looking.weights[1:], strict=False)):
        lowest = max(0, LEVELS - 1 - epoch)
        for name, level in depth.items():
            assert torch.equal(before[name], after[name]) == (level < lowest), (epoch, name)
        for free in looking.free[each * epoch : each * (epoch + 1)]:
            assert free == {name for name, level in depth.items() if level >= lowest}
    assert inner[: 2 * each] == [False] * (2 * each), "no graph below what learns"
    assert all(inner[-each:]) and all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_what_is_frozen_has_no_moments(labelled, tmp_path):
    trainer = tiny.trainer(
        labelled, tmp_path, unfreezing="gradual", config=DEEP, batch_tokens=1024, budget={"steps": 2}
    )
    trainer.fit()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    assert {names[id(parameter)] for parameter in trainer.optimizer.state} == {"classifier.weight", "classifier.bias"}
    assert trainer.num_frozen == 3


def test_a_short_budget_says_what_never_learnt(labelled, tmp_path):
    from bareformers.execution import learn

    said = []
    learn(
        tiny.trainer(labelled, tmp_path, unfreezing="gradual", config=DEEP, budget={"steps": 1}), labelled, said.append
    )
    assert said[1] == "the lowest 3 depths never learnt: unfreezing takes an epoch for each, so give more epochs"


def test_the_signal_before_the_first_step_is_of_all_layers(labelled, tmp_path):
    trainer = tiny.trainer(labelled, tmp_path, unfreezing="gradual", config=DEEP, budget={"steps": 1})
    trainer.add_callback(SignalRecorder(trainer, fixed_batch(labelled.validation, labelled.collate), tmp_path))
    trainer.fit()
    row = json.loads((tmp_path / SignalRecorder.FILE).read_text(encoding="utf-8").splitlines()[0])
    assert row["step"] == 0 and all(layer["gradient_norm"] is not None for layer in row["layers"])


def test_tied_embeddings_thaw_last(text, tmp_path):
    """The head of a language model is the tensor of the embeddings, and lies with them."""
    trainer = tiny.trainer(text, tmp_path, unfreezing="gradual", batch_tokens=2048, budget={"steps": 1}, config=DEEP)
    depth = depth_of(trainer.model)
    assert "lm_head.weight" not in depth and depth["decoder.embeddings.tokens.weight"] == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_was_killed_ends_with_the_same_numbers(labelled, tmp_path, monkeypatch, accumulate):
    monkeypatch.setattr(Watch, "LOGS", 10)
    settings = dict(
        unfreezing="gradual",
        layer_decay=2.0,
        schedule="slanted_triangular",
        warmup_steps=100,
        checkpoints=4,
        accumulate=accumulate,
        config={**DEEP, "dropout": 0.1},
        batch_tokens=1024 // accumulate,
        budget={"epochs": 5},
    )
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    uninterrupted = tiny.trainer(labelled, whole, **settings)
    uninterrupted.fit()
    steps = uninterrupted.ledger.spent.steps
    run_and_fall(labelled, resumed, round(0.6 * steps), **settings)
    trainer = tiny.trainer(labelled, resumed, **settings)
    trainer.fit()
    assert same(weights(trainer.model), weights(uninterrupted.model))
    assert tiny.metrics(resumed) == tiny.metrics(whole)
