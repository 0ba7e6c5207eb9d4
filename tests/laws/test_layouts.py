"""Every block computes its equations, and in any of them nobody sees the future or padding, and steps are the whole."""

import copy

import pytest
import torch

from bareformers import registry
from bareformers.blocks.base import Signals
from bareformers.mixers.masks import Mask
from tests.laws.cases import PADDINGS, Case, close, each_layout, keep_mask, layouts, model, noise, paddings, token_batch
from tests.laws.test_visibility import SCALES
from tests.reference.blocks import naive, normed, shaped_map

MIXERS = [
    ("dot_product", {}),
    ("dot_product", {"positions": "rotary"}),
    ("dot_product", {"positions": "relative"}),
    ("random", {}),
    ("dense", {}),
    ("gaussian", {}),
    ("average", {}),
    ("random+dot_product", {}),
]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
BARE = dict(scale_embedding=False, position_embedding="none")
"""With these the embeddings that a model is given enter the first block as they are."""


def combinations(*roles):
    """Every layout with dot product, and with mixers of all kinds those that look inside of their mixer."""
    found = []
    for layout in [*layouts(), {"block": "sas_p", "hidden_act": "geglu"}]:
        name = layout["block"] if isinstance(layout["block"], str) else layout["block"]["name"]
        looks_inside = registry.blocks.get(name).needs_map or name == "parallel"
        for mixer, options in MIXERS if looks_inside else MIXERS[:1]:
            found += [Case(mixer, role, options, layout) for role in roles]
    return pytest.mark.parametrize("case", found, ids=str)


@combinations("encoder", "decoder")
def test_a_stack_computes_its_equations(case):
    check(case, "ragged", 7)


@each_layout
@pytest.mark.parametrize("role", ["encoder", "decoder"])
@pytest.mark.parametrize("length, padding", [(7, "none"), (7, "left"), (7, "right"), (1, "none")])
def test_a_stack_computes_its_equations_under_any_padding(layout, role, length, padding):
    check(Case("dot_product", role, config=layout), padding, length)


@each_layout
@pytest.mark.parametrize("padding", ["none", "ragged"])
def test_a_stack_with_a_context_computes_its_equations(layout, padding):
    check(Case("dot_product", "cross", config=layout), padding, 7, 5)


@pytest.mark.parametrize("block", ["sas", "sas_p"])
@pytest.mark.parametrize("role", ["encoder", "decoder"])
@pytest.mark.parametrize("padding", ["none", "ragged"])
def test_a_long_stack_computes_its_equations(block, role, padding):
    """Where dot product takes its fused form, and in the precision that is used."""
    check(Case("dot_product", role, config={"block": block}), padding, 131, dtype=torch.float32)


@combinations("encoder", "decoder")
def test_the_map_that_is_shown_is_shaped(case):
    net, real = model(case).double(), keep_mask(7, "ragged")
    layer = (net.encoder if case.role == "encoder" else net.decoder).blocks[0]
    x, signals = noise(3, 7, 16, seed=2).double(), []
    for want_weights in (False, True):
        mask = Mask(7, 7, causal=case.role == "decoder", device=x.device, keep=real)
        signals.append(Signals(mask, want_weights=want_weights))
    without, shown = (layer.hidden(layer(layer.open(x), each)) for each in signals)
    close(shown[real], without[real], 1e-9, "y with and without weights")
    weights = signals[1].weights["self"].expand(3, -1, -1, -1)
    z = input_of_mixer(layer, x)
    for row in range(3):
        found = weights[row][:, real[row]]
        close(found[..., real[row]], shaped_map(layer.mixer, z[row, real[row]]), 1e-6, "map")
        assert not found[..., ~real[row]].any()


def input_of_mixer(layer, x):
    """What the mixer of the first layer reads."""
    if layer.name in ("post_ln", "resi_dual"):
        return x
    return normed(layer.mixer_norm if hasattr(layer, "mixer_norm") else layer.norm, x)


def check(case, padding, length, context_length=0, dtype=torch.float64):
    """Outputs and gradients of a stack in `dtype` against the matrices in float64."""
    net = model(case, **BARE)
    stack = (net.encoder if case.role == "encoder" else net.decoder).to(dtype)
    exact = copy.deepcopy(stack).double()
    inputs, keeps = {"x": noise(3, length, 16, seed=2)}, [keep_mask(length, padding), None]
    if context_length:
        inputs["context"], keeps[1] = noise(3, context_length, 16, seed=3), keep_mask(context_length, padding)
    keep, context_keep = keeps

    def fast(x, context=None):
        return stack(inputs_embeds=x, attention_mask=keep, context=context, context_mask=context_keep).last_hidden_state

    def slow(x, context=None):
        return naive(exact.blocks, x, keep, context, context_keep)

    found = outputs_and_gradients(stack, fast, {name: each.to(dtype) for name, each in inputs.items()}, keep)
    expected = outputs_and_gradients(exact, slow, {name: each.double() for name, each in inputs.items()}, keep)
    assert found.keys() == expected.keys()
    for name in found:
        close(found[name], expected[name], TOLERANCE[dtype], name)


def outputs_and_gradients(stack, function, inputs, keep):
    """The real outputs, and the gradients of a loss over them."""
    leaves = {name: each.clone().requires_grad_() for name, each in inputs.items()}
    y = function(**leaves)
    y = y.flatten(0, 1) if keep is None else y[keep]
    (y * torch.linspace(0, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)).sum().backward()
    leaves |= dict(stack.named_parameters())
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return {"y": y, **{f"gradient of {name}": gradient for name, gradient in gradients.items()}}


def encoder_decoder(layout):
    """A model that reads [B, S, D] and [B, T, D]."""
    return model(Case("dot_product", "cross", config=layout), **BARE)


@torch.no_grad()
def run(net, source, target, source_keep, target_keep):
    """What encoder and decoder make of embeddings, at their real positions."""
    context = net.encoder(inputs_embeds=source, attention_mask=source_keep).last_hidden_state
    y = net.decoder(
        inputs_embeds=target, attention_mask=target_keep, context=context, context_mask=source_keep
    ).last_hidden_state
    return [y.flatten(0, 1)] if target_keep is None else [context[source_keep], y[target_keep]]


@each_layout
@paddings
@SCALES
def test_the_future_changes_nothing(layout, padding, scale):
    net, keep = encoder_decoder(layout), keep_mask(12, padding)
    x, context = noise(3, 12, 16, seed=2), noise(3, 9, 16, seed=3)

    def decoded(target):
        return net.decoder(inputs_embeds=target, attention_mask=keep, context=context).last_hidden_state

    with torch.no_grad():
        before = decoded(x)
        for cut in (1, 6, 11):
            changed = x.clone()
            changed[:, cut:] = scale * noise(3, 12 - cut, 16, seed=7)
            real = slice(None) if keep is None else keep[:, :cut]
            assert torch.equal(decoded(changed)[:, :cut][real], before[:, :cut][real])


@each_layout
@pytest.mark.parametrize("padding", PADDINGS[1:])
@SCALES
def test_padding_is_not_read(layout, padding, scale):
    net = encoder_decoder(layout)
    inputs = [noise(3, 11, 16, seed=2), noise(3, 12, 16, seed=3)]
    keeps = [keep_mask(11, padding), keep_mask(12, padding)]
    before = run(net, *inputs, *keeps)
    for each, keep in zip(inputs, keeps, strict=True):
        each[~keep] = scale * noise(int((~keep).sum()), 16, seed=8)
    for found, expected in zip(run(net, *inputs, *keeps), before, strict=True):
        assert torch.equal(found, expected)


@each_layout
@pytest.mark.parametrize("padding", ["left", "ragged"])
def test_padding_may_stand_on_either_side(layout, padding):
    net = encoder_decoder(layout)
    moved = [noise(3, 11, 16, seed=2), noise(3, 12, 16, seed=3)]
    moved_keeps = [keep_mask(11, padding), keep_mask(12, padding)]
    right, right_keeps = [], []
    for each, keep in zip(moved, moved_keeps, strict=True):
        behind = torch.arange(keep.shape[1]) < keep.sum(1, keepdim=True)
        right.append(torch.zeros_like(each))
        right[-1][behind] = each[keep]
        right_keeps.append(behind)
    for found, expected in zip(run(net, *moved, *moved_keeps), run(net, *right, *right_keeps), strict=True):
        close(found, expected, 1e-5)


@combinations("decoder")
@pytest.mark.parametrize("padding", ["none", "ragged"])
def test_steps_equal_the_whole(case, padding):
    net = model(case)
    inputs = token_batch(net, 17, padding)
    ids, keep = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        whole = net(ids, keep).logits
        for chunks in ([1, 2, 3, 3, 3, 5], [11, 1, 1, 1, 1, 1, 1]):
            state, steps, start = net.new_state(), [], 0
            for size in chunks:
                stop = start + size
                steps.append(net(ids[:, start:stop], keep[:, :stop], past_key_values=state).logits)
                start = stop
            close(torch.cat(steps, 1)[keep.bool()], whole[keep.bool()], 1e-5, str(chunks))


@each_layout
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_of_padding_is_finite(layout, length, dtype):
    net = model(Case("dot_product", "cross", config=layout)).to(dtype)
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(3, 23, (3, length), generator=generator)
    source_keep, target_keep = torch.ones_like(ids), torch.ones_like(ids)
    source_keep[1] = target_keep[2] = 0
    logits = net(ids, source_keep, ids, target_keep).logits
    assert logits.dtype == dtype and logits.isfinite().all()
    logits.float().square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name


@each_layout
def test_autocast_is_near_float32(layout):
    """The precision that training has where a processor multiplies bfloat16."""
    net = model(Case("dot_product", "cross", config=layout))
    inputs = token_batch(net, padding="left")
    exact = net(**inputs).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(**inputs).logits
    close(logits, exact, 0.1)
    logits.float().square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_a_block_without_equations_says_where_to_write_them():
    class Unwritten(torch.nn.Module):
        name = "unwritten"

    with pytest.raises(LookupError, match="write its equations in tests/reference/blocks.py"):
        naive([Unwritten()], torch.zeros(1, 1, 4), None)
