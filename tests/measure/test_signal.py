"""Signal: every number against the loop that defines it, and whole models, ours and those of others."""

import json
import math

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
)

from bareformers.measure.signal import (
    LayerSignal,
    attention_entropy,
    effective_rank,
    kurtosis,
    mean_cosine,
    real_rows,
    rms,
    signal,
)
from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM
from tests.models.sizes import build, right_padded, tokens


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def maps_of(*shape, seed=0):
    return noise(*shape, seed=seed).softmax(-1)


# The numbers

SHAPES = pytest.mark.parametrize("shape", [(7, 5), (5, 7), (2, 3)], ids=str)


@SHAPES
def test_rms(shape):
    rows = noise(*shape)
    squares = [float(entry) ** 2 for row in rows for entry in row]
    assert rms(rows) == pytest.approx(math.sqrt(sum(squares) / len(squares)))
    assert rms(3 * rows) == pytest.approx(3 * rms(rows))


@SHAPES
def test_mean_cosine(shape):
    rows = noise(*shape)
    cosines = [
        float(one @ other) / (math.sqrt(float(one @ one)) * math.sqrt(float(other @ other)))
        for i, one in enumerate(rows)
        for j, other in enumerate(rows)
        if i != j
    ]
    assert mean_cosine(rows) == pytest.approx(sum(cosines) / len(cosines))


def test_mean_cosine_of_what_is_special():
    collapsed = torch.outer(torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, -1.0]))
    assert mean_cosine(collapsed) == pytest.approx(1.0)
    assert mean_cosine(torch.eye(4)) == pytest.approx(0.0)
    assert mean_cosine(torch.tensor([[1.0, 1.0], [-2.0, -2.0]])) == pytest.approx(-1.0)
    assert mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])) == pytest.approx(1 / 3)
    assert mean_cosine(torch.ones(1, 3)) is None


@SHAPES
def test_effective_rank(shape):
    rows = noise(*shape)
    energies = [float(value) ** 2 for value in torch.linalg.svdvals(rows)]
    shares = [energy / sum(energies) for energy in energies]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(rows) == pytest.approx(expected)
    assert 1 < expected < min(shape)
    assert effective_rank(5 * rows) == pytest.approx(expected)


def test_effective_rank_of_what_is_special():
    assert effective_rank(torch.eye(5, dtype=torch.float64)) == pytest.approx(5.0)
    assert effective_rank(torch.outer(noise(6), noise(4))) == pytest.approx(1.0)
    assert math.isnan(effective_rank(torch.full((3, 2), math.nan)))
    assert math.isnan(effective_rank(torch.zeros(3, 2)))


@SHAPES
def test_kurtosis(shape):
    rows = noise(*shape)
    moments = [sum(float(entry) ** 2 for entry in column) / len(column) for column in rows.T]
    mean = sum(moments) / len(moments)
    assert kurtosis(rows) == pytest.approx(sum(moment**2 for moment in moments) / len(moments) / mean**2)
    # The code of the authors: the variance of the moments over their mean.
    variance = sum((moment / mean - 1) ** 2 for moment in moments) / len(moments)
    assert kurtosis(rows) - 1 == pytest.approx(variance)


def test_kurtosis_of_what_is_special():
    assert kurtosis(torch.ones(3, 6)) == pytest.approx(1.0)
    alone = torch.zeros(3, 6)
    alone[:, 2] = torch.tensor([1.0, -2.0, 3.0])
    assert kurtosis(alone) == pytest.approx(6.0)


def entropies(weights, real):
    """The entropy of every row that counts, by a loop."""
    found = []
    for row, heads in enumerate(weights.expand(len(real), -1, -1, -1)):
        for head in heads:
            for query, reads in enumerate(head):
                if real[row][query] and float(reads.sum()):
                    shares = [float(weight) / float(reads.sum()) for weight in reads]
                    found.append(-sum(share * math.log(share) for share in shares if share))
    return found


@pytest.mark.parametrize("rows", [3, 1], ids=["own", "shared"])
@pytest.mark.parametrize("scale", [1.0, 0.3], ids=["normalised", "not"])
def test_attention_entropy(rows, scale):
    weights, real = scale * maps_of(rows, 2, 4, 5), right_padded(4, 4, 2, 3).bool()
    weights[0, 1, 0] = 0
    found = entropies(weights, real)
    assert attention_entropy(weights, real) == pytest.approx(sum(found) / len(found))
    everything = entropies(weights, torch.ones(rows, 4))
    assert attention_entropy(weights) == pytest.approx(sum(everything) / len(everything))


def test_attention_entropy_of_what_is_special():
    assert attention_entropy(torch.full((1, 2, 3, 8), 1 / 8)) == pytest.approx(math.log(8))
    assert attention_entropy(torch.eye(4)[None, None]) == 0
    assert attention_entropy(torch.zeros(1, 1, 2, 2)) is None
    assert attention_entropy(torch.eye(4)[None, None], torch.zeros(1, 4, dtype=torch.bool)) is None
    shaped = torch.eye(4)[None, None] - 0.1
    assert attention_entropy(shaped) is None


# Models of ours


def padded(net):
    """Three rows of unequal length, with a label at every real token."""
    ids, keep = tokens(3, 8), right_padded(8, 8, 5, 2)
    batch = {"input_ids": ids, "attention_mask": keep}
    if not net.config.is_encoder_decoder:
        return {**batch, "labels": ids.masked_fill(keep == 0, -100)}
    target, real = tokens(3, 6, seed=1), right_padded(6, 3, 6, 4)
    return {**batch, "labels": target.masked_fill(real == 0, -100)}


def expected(states, weights, real):
    """What the signal of one layer should be, from a forward pass of our own."""
    rows = states.detach()[real].double()
    return {
        "rms": rms(rows),
        "cosine": mean_cosine(rows),
        "effective_rank": effective_rank(rows),
        "kurtosis": kurtosis(rows),
        "gradient_norm": float(states.grad[real].double().norm()),
        "attention_entropy": None if weights is None else attention_entropy(weights.detach(), real),
    }


def holds(net):
    """The signal of a model is that of its hidden states, maps and gradients at its real positions."""
    batch = padded(net)
    found = signal(net, batch)
    out = net(**batch, output_hidden_states=True, output_attentions=True, use_cache=False)
    keep = batch["attention_mask"].bool()
    if net.config.is_encoder_decoder:
        stacks = [
            ("encoder", out.encoder_hidden_states, out.encoder_attentions, keep),
            ("decoder", out.decoder_hidden_states, out.decoder_attentions, batch["labels"] != -100),
        ]
    else:
        stacks = [("", out.hidden_states, out.attentions, keep)]
    for _, hidden, *_ in stacks:
        for states in hidden:
            states.retain_grad()
    out.loss.backward()
    net.zero_grad()
    wanted = [
        (stack, layer, expected(states, weights[layer - 1] if layer else None, real))
        for stack, hidden, weights, real in stacks
        for layer, states in enumerate(hidden)
    ]
    assert [(each.stack, each.layer) for each in found] == [(stack, layer) for stack, layer, _ in wanted]
    for each, (_, _, measures) in zip(found, wanted, strict=True):
        for name, value in measures.items():
            assert getattr(each, name) == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-7)), name
    return found


@pytest.mark.parametrize("block", ["pre_ln", "post_ln"])
@pytest.mark.parametrize("cls", [BareForCausalLM, BareForMaskedLM])
def test_models_with_one_stack(cls, block):
    found = holds(build(cls, block=block))
    assert [each.layer for each in found] == [0, 1, 2]
    assert found[0].attention_entropy is None and found[1].attention_entropy > 0


def test_an_encoder_decoder():
    net = build(BareForSeq2SeqLM, is_encoder_decoder=True, num_encoder_layers=1, num_hidden_layers=2)
    found = holds(net)
    assert [(each.stack, each.layer) for each in found] == [
        ("encoder", 0), ("encoder", 1), ("decoder", 0), ("decoder", 1), ("decoder", 2)
    ]  # fmt: skip


@pytest.mark.parametrize("cls", [BareForCausalLM, BareForMaskedLM])
def test_padding_is_not_seen(cls):
    net = build(cls)
    batch = padded(net)
    other = tokens(3, 8, seed=9)
    changed = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], other)}
    for one, two in zip(signal(net, batch), signal(net, changed), strict=True):
        assert one.row().keys() == two.row().keys()
        for name, value in one.row().items():
            wanted = pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
            assert two.row()[name] == wanted, name


def test_nothing_is_left_behind():
    net = build(BareForCausalLM, dropout=0.4).train()
    net.decoder.blocks[0].eval()
    net.lm_head.weight.grad = torch.ones_like(net.lm_head.weight)
    modes = [module.training for module in net.modules()]
    first, again = signal(net, padded(net)), signal(net, padded(net))
    assert first == again, "dropout was on"
    assert [module.training for module in net.modules()] == modes and True in modes and False in modes
    for parameter in net.parameters():
        assert parameter.grad is None or (parameter.grad == 1).all()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    signal(net, padded(net))
    assert torch.equal(torch.get_rng_state(), state)


def test_it_measures_where_gradients_are_switched_off():
    net = build(BareForCausalLM)
    with torch.no_grad():
        found = signal(net, padded(net))
    assert all(each.gradient_norm > 0 for each in found)


def test_without_labels_there_is_no_gradient():
    net = build(BareForCausalLM)
    found = signal(net, {"input_ids": tokens(2, 5)})
    assert all(each.gradient_norm is None and each.rms > 0 for each in found)
    seq2seq = build(BareForSeq2SeqLM, is_encoder_decoder=True)
    inputs = {"input_ids": tokens(2, 5), "decoder_input_ids": tokens(2, 4)}
    every = signal(seq2seq, inputs)
    assert len(every) == 6 and all(each.gradient_norm is None for each in every)
    mask = right_padded(4, 4, 1)
    some = signal(seq2seq, {**inputs, "decoder_attention_mask": mask})
    assert some[-1].rms != every[-1].rms and some[0] == every[0]


def test_frozen_parts_have_no_gradient():
    net = build(BareForCausalLM, tie_word_embeddings=False)
    for parameter in [*net.decoder.embeddings.parameters(), *net.decoder.blocks[0].parameters()]:
        parameter.requires_grad_(False)
    found = signal(net, padded(net))
    assert [each.gradient_norm is None for each in found] == [True, True, False]
    net.requires_grad_(False)
    assert all(each.gradient_norm is None for each in signal(net, padded(net)))


def test_entropy_of_the_floor():
    net = build(BareForCausalLM, mixer="average")
    found = signal(net, {"input_ids": tokens(2, 5)})
    alike = sum(math.log(position) for position in range(1, 6)) / 5
    assert [each.attention_entropy for each in found] == [None, pytest.approx(alike), pytest.approx(alike)]


def test_entropy_only_where_there_is_a_map():
    net = build(BareForCausalLM, mixer=["none", "dot_product"])
    found = signal(net, {"input_ids": tokens(2, 5)})
    assert [each.attention_entropy is None for each in found] == [True, True, False]


def test_a_shaped_map_has_no_entropy():
    net = build(BareForCausalLM, block="sas")
    with torch.no_grad():
        for block in net.decoder.blocks:
            block.mixer.shaping.gains[2] = 2.0  # takes more away than attention gives
    assert all(each.attention_entropy is None for each in signal(net, {"input_ids": tokens(2, 5)}))


def test_what_is_no_number_is_null():
    net = build(BareForCausalLM)
    with torch.no_grad():
        net.lm_head.weight.fill_(math.nan)
    for each in signal(net, padded(net)):
        assert math.isnan(each.rms) and each.row()["rms"] is None
    row = LayerSignal("", 1, 1.23456789, math.inf, math.nan, None, 2.0, 1e-12).row()
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "stack": "", "layer": 1, "rms": 1.23457, "cosine": None, "effective_rank": None, "attention_entropy": None,
        "kurtosis": 2.0, "gradient_norm": 1e-12,
    }  # fmt: skip


def test_real_rows():
    states = noise(2, 3, 4)
    assert torch.equal(real_rows(states, None), states.reshape(6, 4))
    assert torch.equal(real_rows(states, torch.tensor([[1, 0, 0], [0, 1, 1]]).bool()), states.reshape(6, 4)[[0, 4, 5]])


# Models of others

SIZES = dict(vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=23, n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=24, bos_token_id=1, eos_token_id=2,
            attn_implementation="eager",
        )
    )  # fmt: skip


def llama():
    return LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=24, attn_implementation="eager"))


def bert():
    config = BertConfig(**SIZES, max_position_embeddings=24, pad_token_id=0, attn_implementation="eager")
    return BertForMaskedLM(config)


def marian():
    return MarianMTModel(
        MarianConfig(
            vocab_size=23, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=24,
            pad_token_id=0, decoder_start_token_id=1, forced_eos_token_id=None, attn_implementation="eager",
        )
    )  # fmt: skip


@pytest.mark.parametrize("make", [gpt2, llama, bert, marian], ids=lambda make: make.__name__)
def test_models_of_others(make):
    torch.manual_seed(0)
    found = holds(make().eval())
    assert len(found) == (7 if make is marian else 3)
    for each in found:
        assert each.rms > 0 and -1 <= each.cosine <= 1 and 1 <= each.effective_rank <= 16 and each.kurtosis >= 1
        assert each.gradient_norm > 0
        assert (each.attention_entropy is None) == (each.layer == 0)
        assert each.layer == 0 or 0 < each.attention_entropy < math.log(8)


def test_a_body_without_a_head():
    torch.manual_seed(0)
    net: nn.Module = BertModel(BertConfig(**SIZES, max_position_embeddings=24, attn_implementation="eager"))
    found = signal(net, {"input_ids": tokens(2, 6), "attention_mask": right_padded(6, 6, 3)})
    assert len(found) == 3 and all(each.gradient_norm is None and each.rms > 0 for each in found)
