"""Mixers that stand for more than themselves, and cross mixers that mix what asks: layers written out."""

import pytest
import torch

from bareformers import registry
from bareformers.errors import InputError
from bareformers.models import BareForSeq2SeqLM
from tests.laws.cases import Case, close, keep_mask, model, noise, token_batch
from tests.models.sizes import small
from tests.reference.attentionless import elr as network

REPLACEABLE = [{"block": "pre_ln"}, {"block": "post_ln"}, {"block": {"name": "post_ln", "deep_norm": True}}]
replaceable = pytest.mark.parametrize("layout", REPLACEABLE, ids=str)
each_replacement = pytest.mark.parametrize("name", ["alrr", "elr"])
BARE = dict(scale_embedding=False, position_embedding="none", num_hidden_layers=1)


@replaceable
@each_replacement
def test_its_output_is_the_stream(layout, name):
    encoder = model(Case(name, "encoder"), **layout, **BARE).encoder.double()
    block, keep = encoder.blocks[0], keep_mask(7, "ragged")
    x = noise(3, 7, 16, seed=2).double()
    y = encoder(inputs_embeds=x, attention_mask=keep).last_hidden_state
    for row, tokens in enumerate(x):
        stream = network(block.mixer, tokens[keep[row]], tokens[keep[row]])
        if name == "alrr" and block.name == "pre_ln":
            stream = stream + block.ffn(block.ffn_norm(stream))
        elif name == "alrr":
            alpha = 0.81 if isinstance(layout["block"], dict) else 1.0  # of one layer and one decoder layer
            stream = block.ffn_norm(alpha * stream + block.ffn(stream))
        close(y[row, keep[row]], stream if block.name == "post_ln" else block.final_norm(stream), 1e-9)


@replaceable
@each_replacement
def test_what_is_replaced_is_not_there(layout, name):
    block = model(Case(name, "encoder"), **layout).encoder.blocks[0]
    assert block.mixer_norm is None and block.mixer.output is None
    assert (block.ffn is None) == (block.ffn_norm is None) == (name == "elr")


@replaceable
def test_nothing_is_dropped_from_a_stream_that_is_written(layout):
    encoder = model(Case("elr", "encoder"), **layout, dropout=0.9).encoder.train()
    x, mask = noise(3, 7, 16, seed=2), torch.ones(3, 7)
    encoder.embeddings.dropout.p = 0.0
    assert torch.equal(*(encoder(inputs_embeds=x, attention_mask=mask).last_hidden_state for _ in range(2)))


@each_replacement
@pytest.mark.parametrize("block", [name for name, cls in registry.blocks if not cls.replaceable])
def test_a_wiring_of_its_own_is_not_replaced(block, name):
    words = f"'{name}' .*|block '{block}' shapes the map of its mixer, and '{name}' has none"
    with pytest.raises(InputError, match=words) as raised:
        small(is_encoder_decoder=True, block=block, encoder_mixer=["dot_product", name])
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)


def test_two_blocks_can_be_replaced():
    assert [name for name, cls in registry.blocks if cls.replaceable] == ["post_ln", "pre_ln"]
    with pytest.raises(InputError, match="'elr' stands for the wiring .* 'resi_dual' .*write block: post_ln or pre_ln"):
        small(is_encoder_decoder=True, block="resi_dual", encoder_mixer="elr")


@replaceable
@pytest.mark.parametrize("encoder_mixer", ["alr", "aslr", "alrr", "elr"])
def test_a_model_without_attention_learns(layout, encoder_mixer):
    decoder_mixer = "aslr" if encoder_mixer == "aslr" else "alr"
    mixers = dict(encoder_mixer=encoder_mixer, decoder_mixer=decoder_mixer, cross_mixer="alr")
    torch.manual_seed(0)
    net = BareForSeq2SeqLM(small(is_encoder_decoder=True, **mixers, **layout)).train()
    inputs = token_batch(net, padding="right")
    labels, losses = inputs.pop("decoder_input_ids"), []
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(3):
        loss = net(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("sees_future", [False, True])
@pytest.mark.parametrize("padding", ["right", "left", "ragged"])
def test_padding_of_the_target_is_not_read(padding, sees_future):
    net, keep = model(Case("alr", "cross", {"sees_future": sees_future})), keep_mask(9, padding)
    x, context = noise(3, 9, 16, seed=2), noise(3, 6, 16, seed=3)
    found = []
    for value in (0.0, 3.0):
        x[~keep] = value
        decoder = net.decoder(inputs_embeds=x, attention_mask=keep, context=context)
        found.append(decoder.last_hidden_state[keep])
    assert torch.equal(*found)
    alone = net.decoder(inputs_embeds=x[2:, keep[2]], context=context[2:]).last_hidden_state[0]
    close(found[0][-len(alone) :], alone, 1e-5)
