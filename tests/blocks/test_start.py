"""What blocks are at the start: skipless ones the identity, others scaled as their paper says."""

import pytest
import torch
from torch import nn

from bareformers.blocks.base import Signals
from bareformers.mixers.masks import Mask
from bareformers.models import BareForMaskedLM, BareForSequenceClassification
from tests.laws.cases import PADDINGS, Case, cases, close, disturb, each_layout, fresh, keep_mask, noise
from tests.models.sizes import build
from tests.reference.blocks import deep_norm

FIXED = {"fixed_random", "gaussian", "gaussian_2d", "sliding_window"}
"""Mixers whose map cannot start uniform."""

skipless = pytest.mark.parametrize("block", ["v_skipinit", "sas", "sas_p"])
without_values = pytest.mark.parametrize("block", ["sas", "sas_p"])
with_maps = cases("encoder", "decoder", absent=False, maps=True)

FIXED_TERM = Case("mixture", "decoder", {"of": ["fixed_random", "dot_product"]})


def own_stack(net, case):
    return net.encoder if case.role == "encoder" else net.decoder


@cases("encoder", "decoder", absent=False, maps=True, also=(FIXED_TERM,))
@without_values
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
def test_attention_is_the_identity(block, case, dtype, tolerance):
    """A block whose feed-forward network gives nothing is then its norm."""
    stack = own_stack(fresh(case, block=block, norm="rms"), case).to(dtype)
    x = noise(3, 9, 16, seed=2).to(dtype)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    for layer in stack.blocks:
        nn.init.zeros_(layer.ffn.outer.weight)
        for padding in PADDINGS:
            keep = keep_mask(9, padding)
            y = layer(x, Signals(Mask(9, 9, causal=case.role == "decoder", device=x.device, keep=keep)))
            real = slice(None) if keep is None else keep
            close(y[real], expected[real], tolerance, padding)


@with_maps
@skipless
def test_gains_at_the_start(block, case):
    for layer in own_stack(fresh(case, block=block), case).blocks:
        alpha, beta, gamma = layer.mixer.shaping.gains
        shaped = 0.0 if case.name in FIXED else 1.0
        assert (alpha == 1).all() and (beta == shaped).all() and (gamma == shaped).all()
        assert layer.mixer.shaping.gain == 1 and layer.ffn.outer.gain.item() == pytest.approx(0.1)
        if block != "sas_p":
            assert layer.skip_gain.gain == 1


def test_a_mixture_with_a_fixed_map_cannot_start_uniform():
    for layer in fresh(FIXED_TERM, block="sas").decoder.blocks:
        assert layer.mixer.shaping.gains[:, 0, 0, 0].tolist() == [1, 0, 0]


def test_without_a_centre_the_map_starts_at_nothing():
    """Equation 4: alpha I + beta A, 1 and 0 at the start."""
    net = fresh(Case("dot_product", "decoder"), block={"name": "v_skipinit", "centred": False})
    for layer in net.decoder.blocks:
        assert layer.mixer.shaping.gains[:, 0, 0, 0].tolist() == [1, 0]


@skipless
def test_options_set_the_gain_of_the_feed_forward_network(block):
    net = fresh(Case("dot_product", "cross"), block={"name": block, "ffn_gain": 0.25})
    for layer in (*net.encoder.blocks, *net.decoder.blocks):
        assert layer.ffn.outer.gain == 0.25


@skipless
def test_queries_start_at_zero_and_keys_do_not(block):
    net = fresh(Case("dot_product", "cross"), block=block, hidden_size=64)
    for layer in (*net.encoder.blocks, *net.decoder.blocks):
        assert not layer.mixer.query.weight.any() and not layer.mixer.query.bias.any()
        for linear, size in ((layer.mixer.key, 64), (layer.ffn.inner, 64), (layer.ffn.outer, 24)):
            assert linear.weight.std().item() == pytest.approx(size**-0.5, rel=0.1)
    for layer in net.decoder.blocks:  # a query that is not among its keys has no identity to start from
        assert layer.cross_mixer.shaping is None and layer.cross_mixer.query.weight.all()


@without_values
def test_values_are_the_inputs_but_in_the_first_layer(block):
    first, *others = fresh(Case("dot_product", "decoder"), block=block, num_hidden_layers=3).decoder.blocks
    assert [parameter.numel() for parameter in first.mixer.value.parameters() if parameter.dim() == 2] == [16 * 16]
    assert not first.mixer.value.change.weight.any()
    assert first.mixer.value.skip_gain.gain == first.mixer.value.change_gain.gain == 1
    for layer in others:
        assert not [*layer.mixer.value.parameters()]
    for layer in (first, *others):
        assert not [*layer.mixer.output.parameters()]


def test_values_and_outputs_of_value_skipinit_start_orthogonal():
    net = fresh(Case("dot_product", "cross"), block="v_skipinit")
    for layer in (*net.encoder.blocks, *net.decoder.blocks):
        for linear in (layer.mixer.value, layer.mixer.output):
            close(linear.weight @ linear.weight.T, torch.eye(16), 1e-5)
            assert not linear.bias.any()


DEEP_NORM = [
    # role, layers, layers of the other stack, alpha, beta: the formulas of the paper, worked out by hand
    ("decoder", 18, 0, 2.4495, 0.2887),
    ("encoder", 12, 0, 2.2134, 0.3195),
    ("encoder", 6, 6, 1.4179, 0.4970),
    ("decoder", 6, 6, 2.0598, 0.3433),
    ("encoder", 12, 3, 1.6147, 0.4364),
    ("decoder", 3, 12, 1.7321, 0.4082),
]


@pytest.mark.parametrize("role, layers, others, alpha, beta", DEEP_NORM)
def test_deep_norm_scales_all_but_queries_and_keys(role, layers, others, alpha, beta):
    """What alpha does is in the laws of layouts, where the same function gives it."""
    assert deep_norm(role, layers, others) == pytest.approx((alpha, beta), abs=5e-5)
    blocks = deep_stack(role, layers, others).blocks
    assert len(blocks) == layers
    mixers = [mixer for layer in blocks for mixer in (layer.mixer, layer.cross_mixer) if mixer is not None]
    for name, factor in {"query": 1.0, "key": 1.0, "value": beta, "output": beta}.items():
        check_spread([getattr(mixer, name) for mixer in mixers], factor)
    for name in ("inner", "outer"):
        check_spread([getattr(layer.ffn, name) for layer in blocks], beta)


def deep_stack(role, layers, others):
    given = dict(hidden_size=64, block={"name": "post_ln", "deep_norm": True})
    if others:
        encoder, decoder = (layers, others) if role == "encoder" else (others, layers)
        net = fresh(Case("dot_product", "cross"), num_encoder_layers=encoder, num_hidden_layers=decoder, **given)
    elif role == "encoder":
        net = build(BareForMaskedLM, num_hidden_layers=layers, **given)
    else:
        net = fresh(Case("dot_product", "decoder"), num_hidden_layers=layers, **given)
    return getattr(net, role)


def check_spread(linears, factor):
    """Over 4,608 numbers, the fewest that there are, a standard deviation is good to 1 %."""
    spread = torch.cat([linear.weight.flatten() for linear in linears]).std().item()
    assert spread == pytest.approx(factor * linears[0].in_features ** -0.5, rel=0.05)


@each_layout
def test_another_head_on_loaded_weights_starts_nothing_again(layout, tmp_path):
    """As in fine-tuning: the classifier is new, and all else is what was learned."""
    trained = build(BareForMaskedLM, **layout)
    disturb(trained)
    trained.save_pretrained(tmp_path)
    net = BareForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    expected = trained.encoder.state_dict()
    found = net.encoder.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert net.classifier.weight.isfinite().all()
