"""Any mixer runs in any block."""

import pytest
import torch

from bareformers import registry
from tests.laws.cases import Case, cases, close, model, token_batch

blocks = pytest.mark.parametrize("block", registry.blocks.names())


@blocks
@cases(variants=False)
def test_every_parameter_learns(block, case):
    net = model(case, block=block).train()
    inputs = token_batch(net, padding="right")
    labels = inputs.pop("decoder_input_ids", inputs["input_ids"]).clone()
    net(**inputs, labels=labels).loss.backward()
    for name, parameter in net.named_parameters():
        if case == Case("none", "cross") and name.startswith("encoder."):
            continue  # nothing reads the encoder
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"


@blocks
@pytest.mark.parametrize("role", registry.ROLES)
def test_none_leaves_the_sublayer_out(block, role):
    whole, bare = model(Case("average", role), block=block), model(Case("none", role), block=block)
    stack = bare.encoder if role == "encoder" else bare.decoder
    for layer in stack.blocks:
        assert getattr(layer, "cross_mixer" if role == "cross" else "mixer") is None
    gone = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in bare.parameters())
    assert gone > 0
    assert bare(**token_batch(bare)).logits.isfinite().all()


@blocks
def test_without_any_mixer_positions_stand_alone(block):
    net = model(Case("none", "decoder"), block=block)
    inputs = token_batch(net)
    before = net(**inputs).logits
    inputs["input_ids"][:, 4] = 3
    after = net(**inputs).logits
    assert torch.equal(before[:, :4], after[:, :4]) and torch.equal(before[:, 5:], after[:, 5:])


@blocks
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_norms_and_biases(block, norm, use_bias):
    net = model(Case("dot_product", "cross"), block=block, norm=norm, use_bias=use_bias)
    linear = [module for module in net.modules() if isinstance(module, torch.nn.Linear)]
    assert use_bias or all(module.bias is None for module in linear)
    assert net(**token_batch(net)).logits.isfinite().all()


@blocks
def test_layers_are_reported_in_order(block):
    net = model(Case("dot_product", "cross"), block=block)
    out = net(**token_batch(net), output_attentions=True, output_hidden_states=True)
    assert len(out.encoder_hidden_states) == len(out.decoder_hidden_states) == 3
    for maps in (out.encoder_attentions, out.decoder_attentions, out.cross_attentions):
        assert len(maps) == 2
        for weights in maps:
            close(weights.sum(-1), torch.ones(weights.shape[:-1]), 1e-5)
