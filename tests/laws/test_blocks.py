"""Any mixer runs in any block that can hold it."""

import pytest
import torch

from bareformers import registry
from tests.laws.cases import Case, cases_in_blocks, close, model, token_batch

blocks = pytest.mark.parametrize("block", registry.blocks.names())
normed = pytest.mark.parametrize(
    "block, norm",
    [
        (name, norm)
        for name, cls in registry.blocks
        for norm in ("layer", "rms", "none")
        if norm != "none" or cls.norm_free
    ],
)


@cases_in_blocks()
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


@normed
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
    for states in (out.encoder_hidden_states, out.decoder_hidden_states):
        assert [each.shape[2] for each in states] == [16] * 3
    for maps, stack, slot in (
        (out.encoder_attentions, net.encoder, "mixer"),
        (out.decoder_attentions, net.decoder, "mixer"),
        (out.cross_attentions, net.decoder, "cross_mixer"),
    ):
        assert len(maps) == 2
        for weights, layer in zip(maps, stack.blocks, strict=True):
            close(weights.sum(-1), sums_of_rows(getattr(layer, slot), weights), 1e-5)


def sums_of_rows(mixer, weights):
    """[B, H, T]: 1 for a softmax, and alpha + beta - gamma where it is shaped."""
    sums = torch.ones(weights.shape[:-1])
    if mixer.shaping is None:
        return sums
    alpha, beta, *gamma = mixer.shaping.gain * mixer.shaping.gains[..., 0]
    return sums * (alpha + beta - sum(gamma))
