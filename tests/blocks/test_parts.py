"""Norms that are kept, gated feed-forward networks, and matrices that are never made."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bareformers import registry
from bareformers.blocks.layers import FeedForward, GainedLinear
from bareformers.mixers.masks import Mask
from bareformers.mixers.shaping import Shaping
from tests.laws.cases import Case, close, fresh, model, noise

norm_free = pytest.mark.parametrize("block", [name for name, cls in registry.blocks if cls.norm_free])


def test_the_skipless_blocks_can_do_without_norms():
    assert {"sas", "sas_p"} <= {name for name, cls in registry.blocks if cls.norm_free}


@norm_free
@pytest.mark.parametrize("mixer", ["dot_product", "none"])
def test_without_norms_the_first_and_the_last_are_left(block, mixer):
    net = fresh(
        Case("dot_product", "cross"),
        block=block,
        norm="none",
        mixer=[mixer, "dot_product"],
        num_hidden_layers=3,
        num_encoder_layers=4,
    )
    for stack in (net.encoder, net.decoder):
        norms = {name: part for name, part in stack.named_modules() if isinstance(part, nn.LayerNorm | nn.RMSNorm)}
        assert all(isinstance(part, nn.LayerNorm) for part in norms.values())
        first, last = norms
        assert first.startswith("blocks.0.") and last == f"blocks.{len(stack.blocks) - 1}.final_norm"


@norm_free
def test_the_norm_that_is_left_comes_first(block):
    """Nothing behind it knows how large the inputs were."""
    decoder = model(Case("dot_product", "decoder"), block=block, norm="none", position_embedding="none").decoder
    x = noise(2, 5, 16, seed=1)
    small, large = (decoder(inputs_embeds=scale * x).last_hidden_state for scale in (10.0, 1000.0))
    close(large, small, 1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gained_linear_map(bias):
    """Its gradients are written out; in half precision the weights keep theirs in float32."""
    linear = GainedLinear(5, 3, bias).double()
    nn.init.constant_(linear.gain, -0.3)
    x = noise(2, 4, 5, seed=1).double().requires_grad_()
    close(linear(x), -0.3 * F.linear(x, linear.weight, linear.bias), 1e-12)
    names, parameters = zip(*linear.named_parameters(), strict=True)

    def product(x, *given):
        return torch.func.functional_call(linear, dict(zip(names, given, strict=True)), (x,))

    assert torch.autograd.gradcheck(product, (x, *parameters))
    with torch.no_grad():
        close(linear(x), product(x, *parameters), 1e-12)
    linear = linear.float()
    with torch.autocast("cpu", torch.bfloat16):
        linear(noise(2, 4, 5, seed=1)).float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in linear.parameters())


def test_geglu():
    """Shazeer 2020, equation 6: W2 (gelu(a) b), where a and b are the halves of W1 x."""
    torch.manual_seed(0)
    ffn, x = FeedForward(16, 24, "geglu", 0.0, True).double(), noise(3, 5, 16, seed=1).double()
    assert ffn.inner.weight.shape == (24, 16) and ffn.outer.weight.shape == (16, 12)
    a, b = (F.linear(x, ffn.inner.weight[rows], ffn.inner.bias[rows]) for rows in (slice(12), slice(12, 24)))
    close(ffn(x), F.linear(F.gelu(a) * b, ffn.outer.weight, ffn.outer.bias), 1e-12)


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.seen += [tuple(each.shape) for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        return made

    def matrices(self, length):
        """Those with an entry for each pair of positions."""
        return [shape for shape in self.seen if shape.count(length) > 1]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_shaping_makes_no_matrix(causal, padded):
    shaping = Shaping(2, centred=True)
    nn.init.normal_(shaping.gains)
    keep = torch.arange(37)[None] >= torch.tensor([[0], [5], [30]]) if padded else None
    mask = Mask(37, 37, causal=causal, device=torch.device("cpu"), keep=keep)
    mixed, values = noise(3, 2, 37, 8, seed=1), noise(3, 2, 37, 8, seed=2)
    with Shapes() as shapes:
        shaped, _ = shaping(mixed, values.requires_grad_(), None, mask, None)
        shaped.sum().backward()
    assert shapes.seen and not shapes.matrices(37)


@pytest.mark.parametrize("block", ["sas", "sas_p"])
def test_a_long_sequence_makes_no_matrix(block):
    decoder = model(Case("dot_product", "decoder"), block=block).decoder
    with torch.no_grad(), Shapes() as shapes:
        decoder(inputs_embeds=noise(2, 150, 16, seed=1))
    assert shapes.seen and not shapes.matrices(150)
