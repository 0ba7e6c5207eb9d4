"""Where a mixer leaves no map, the norms of its Jacobian, against those of torch."""

import numpy as np
import pytest
import torch
from torch import nn

from bareformers.measure.maps import jacobian_norms, maps
from bareformers.mixers.masks import Mask
from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM
from tests.models.sizes import build, tokens

WITHOUT_MAPS = ["delta", "fast_weights", {"name": "linear", "normalize": False}]
SOURCE, TARGET = list("abcde"), list("uvwxyz")


def mixers_of(net):
    """Role, layer and module of every mixer of a model of ours."""
    found = []
    for role in ("encoder", "decoder"):
        for layer, block in enumerate(getattr(net, role).blocks if hasattr(net, role) else ()):
            found += [(role, layer, block.mixer)] if block.mixer is not None else []
            found += [("cross", layer, block.cross_mixer)] if block.cross_mixer is not None else []
    return found


def call_of(net, module, **inputs):
    """What a mixer is called with in a forward pass."""
    calls = []

    def note(_, args, kwargs):
        calls.append((args, kwargs))

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        net(**inputs)
    hook.remove()
    return calls[0]


def by_torch(module, args, kwargs):
    """||d y_t / d x_s|| from the whole Jacobian of the first row."""
    context = kwargs.get("context")

    def y(x):
        if context is None:
            return module(x, *args[1:], **kwargs)[0][0]
        return module(*args, **{**kwargs, "context": x})[0][0]

    full = torch.autograd.functional.jacobian(y, args[0] if context is None else context)  # [T, D, B, S, D]
    return full[:, :, 0].square().sum((1, 3)).sqrt()


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-4, atol=1e-6)


class Linear(nn.Module):
    """y = A x W, of itself or of a context."""

    def __init__(self, length, sources, width):
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Parameter(torch.randn(length, sources))
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x, mask=None, context=None):
        return self.map @ (x if context is None else context) @ self.weight, None


@pytest.mark.parametrize("at_once", [1, 60, 2**20])
@pytest.mark.parametrize("context", [None, 6], ids=["self", "cross"])
def test_of_a_linear_mixer(monkeypatch, context, at_once):
    monkeypatch.setattr("bareformers.measure.maps.AT_ONCE", at_once)
    mixer, x = Linear(4, context or 4, 3), torch.randn(2, 4, 3)
    kwargs = {"context": None if context is None else torch.randn(2, context, 3)}
    norms = jacobian_norms(mixer, (x, Mask(x.shape[1], x.shape[1], causal=False, device=x.device)), kwargs)
    close(norms, (mixer.map.abs() * mixer.weight.norm()).detach())
    assert not norms.requires_grad and mixer.map.grad is None


@pytest.mark.parametrize("mixer", WITHOUT_MAPS, ids=str)
def test_of_mixers_without_a_map(mixer):
    net, inputs = build(BareForCausalLM, mixer=mixer), {"input_ids": tokens(1, 5)}
    found = maps(net, inputs, {"decoder": SOURCE}, mixers_of(net))
    assert set(found) == {
        "decoder/0", "decoder/0/kind", "decoder/1", "decoder/1/kind", "decoder/queries", "decoder/keys"
    }  # fmt: skip
    for layer, block in enumerate(net.decoder.blocks):
        norms = found[f"decoder/{layer}"]
        assert norms.shape == (1, 5, 5) and norms.dtype == np.float32
        assert str(found[f"decoder/{layer}/kind"]) == "jacobian"
        close(norms[0], by_torch(block.mixer, *call_of(net, block.mixer, **inputs)))
        assert np.triu(norms[0], 1).max() < 1e-7 and (np.diag(norms[0]) > 1e-4).all()


@pytest.mark.parametrize("mixer", ["delta", "fast_weights"])
def test_of_an_encoder(mixer):
    net, inputs = build(BareForMaskedLM, mixer=mixer, num_hidden_layers=1), {"input_ids": tokens(1, 5)}
    found = maps(net, inputs, {"encoder": SOURCE}, mixers_of(net))
    (block,) = net.encoder.blocks
    close(found["encoder/0"][0], by_torch(block.mixer, *call_of(net, block.mixer, **inputs)))
    assert (np.triu(found["encoder/0"][0], 1) > 0).any()


def test_of_a_cross_mixer_and_beside_maps():
    net = build(
        BareForSeq2SeqLM, is_encoder_decoder=True, num_hidden_layers=1, mixer="dot_product", cross_mixer="delta"
    )
    inputs = {"input_ids": tokens(1, 5), "labels": tokens(1, 6)}
    words = {"encoder": SOURCE, "decoder": TARGET}
    found, plain = maps(net, inputs, words, mixers_of(net)), maps(net, inputs, words)
    assert set(found) - set(plain) == {"cross/0", "cross/0/kind", "cross/queries", "cross/keys"}
    assert all((found[name] == plain[name]).all() for name in plain)
    (block,) = net.decoder.blocks
    assert found["cross/0"].shape == (1, 6, 5)
    assert found["cross/queries"].tolist() == TARGET and found["cross/keys"].tolist() == SOURCE
    close(found["cross/0"][0], by_torch(block.cross_mixer, *call_of(net, block.cross_mixer, **inputs)))


def test_a_map_is_never_replaced():
    net, inputs = build(BareForCausalLM, mixer=["dot_product", "none"]), {"input_ids": tokens(1, 5)}
    found, plain = maps(net, inputs, {"decoder": SOURCE}, mixers_of(net)), maps(net, inputs, {"decoder": SOURCE})
    assert set(found) == set(plain) == {"decoder/0", "decoder/queries", "decoder/keys"}
    assert (found["decoder/0"] == plain["decoder/0"]).all()


def test_only_the_first_row():
    net, ids = build(BareForCausalLM, mixer="delta", num_hidden_layers=1), tokens(3, 5)
    one, many = (maps(net, {"input_ids": each}, {"decoder": SOURCE}, mixers_of(net)) for each in (ids[:1], ids))
    close(one["decoder/0"], many["decoder/0"])


def test_what_would_take_too_long_is_said(monkeypatch):
    monkeypatch.setattr("bareformers.measure.maps.LARGEST", 5 * 5 * 16**3 - 1)
    net, inputs = build(BareForCausalLM, mixer=["delta", "dot_product"]), {"input_ids": tokens(1, 5)}
    found = maps(net, inputs, {"decoder": SOURCE}, mixers_of(net))
    assert set(found) == {"decoder/0/note", "decoder/1", "decoder/queries", "decoder/keys"}
    assert str(found["decoder/0/note"]) == "no map, and 5 × 5 positions of width 16 are too many for an exact Jacobian"
    monkeypatch.setattr("bareformers.measure.maps.LARGEST", 5 * 5 * 16**3)
    assert "decoder/0" in maps(net, inputs, {"decoder": SOURCE}, mixers_of(net))


def test_nothing_is_left_behind():
    net = build(BareForCausalLM, mixer="delta")
    maps(net, {"input_ids": tokens(1, 5)}, {"decoder": SOURCE}, mixers_of(net))
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
