"""Fast weights: the claim of 1991, who shows a map, and what writing twice under one key leaves there."""

import pytest
import torch
from torch import nn

from bareformers import registry
from tests.laws.cases import Batch, Case, batch, close, paddings
from tests.laws.test_step import decode

EVERY_ROLE = pytest.mark.parametrize("role", registry.ROLES)
PLAIN = {"feature_map": "identity", "normalize": False}


@EVERY_ROLE
@paddings
def test_linear_attention_is_the_fast_weight_programmer_of_1991(role, padding):
    """Schlag et al. 2021, section 2: the sum rule without softmax and normaliser, read with the input itself."""
    linear = Case("linear", role, PLAIN).build(torch.float64)
    programmer = Case("fast_weights", role).build(torch.float64)
    with torch.no_grad():
        linear.query.weight.copy_(torch.eye(16))
        linear.query.bias.zero_()
    programmer.load_state_dict({name: t for name, t in linear.state_dict().items() if not name.startswith("query.")})
    given = batch(Case("linear", role), 130, 66, padding, torch.float64)
    close(given.real(given.run(programmer)[0]), given.real(given.run(linear)[0]), 1e-12)


@EVERY_ROLE
@pytest.mark.parametrize(
    "name, options, shown",
    [
        ("linear", {}, True),
        ("linear", {"conv": 3}, True),
        ("performer", {}, True),
        ("linear", PLAIN, False),
        ("fast_weights", {}, False),
        ("delta", {}, False),
    ],
)
def test_a_map_is_shown_where_weights_sum_to_one(role, name, options, shown):
    case = Case(name, role, options)
    _, weights = batch(case, 5, 6, "none").run(case.build(), want_weights=True)
    assert (weights is not None) == shown


def test_a_query_that_matches_no_key_reads_nothing():
    """DPFP of q and -q have no feature in common; 0 / 0 is taken as 0, in the gradient too."""
    case = Case("linear", "decoder", {"feature_map": "dpfp"})
    mixer, given = case.build(), batch(case, 1, 1, "none")
    with torch.no_grad():
        mixer.query.weight.copy_(-mixer.key.weight)
        mixer.query.bias.copy_(-mixer.key.bias)
    given.x.requires_grad_()
    y, _ = given.run(mixer)
    close(y, mixer.output.bias.expand_as(y), 1e-6)
    (1e3 * y).sum().backward()  # as large as gradients are where losses are scaled for half precision
    for leaf in (given.x, *mixer.parameters()):
        assert leaf.grad is None or leaf.grad.isfinite().all()


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_an_extreme_key_leaves_earlier_outputs_alone(scale):
    """A maximum over all keys, a common way to keep exponentials small, would tell earlier queries of it."""
    case = Case("performer", "decoder")
    mixer, given = case.build(), batch(case, 80, 1, "none")
    before, _ = given.run(mixer)
    given.x[:, -1] *= scale
    after, _ = given.run(mixer)
    assert torch.equal(after[:, :-1], before[:, :-1]) and after.isfinite().all()
    assert not torch.equal(after[:, -1], before[:, -1])


def test_directions_stay_while_decoding():
    case = Case("performer", "decoder")
    mixer, given = case.build().train(), batch(case, 9, 1, "left")
    before = mixer.feature_map.directions.clone()
    whole, _ = given.run(mixer)
    steps = torch.cat([y for y, _ in decode(mixer, given, [1] * 9)], 1)
    assert torch.equal(mixer.feature_map.directions, before)
    close(given.real(steps), given.real(whole), 2e-6)


def memory(name, rate=None, **options):
    """A mixer in the cross role with one head: a token is a key and behind it a value, of 4 numbers each.

    Args:
        rate: what the delta rule writes with; None for the sum rule.
    """
    mixer = Case(name, "cross", options).build(torch.float64, hidden_size=8, num_heads=1)
    with torch.no_grad():
        for linear in mixer.modules():
            if isinstance(linear, nn.Linear):
                linear.weight.zero_()
                linear.bias.zero_()
        for part in (mixer.query, mixer.key):
            part.weight[:4, :4] = torch.eye(4)
        mixer.value.weight[:4, 4:] = torch.eye(4)
        mixer.output.weight.copy_(torch.eye(8))
        if rate is not None:
            mixer.rate.bias.fill_(torch.logit(torch.tensor(rate, dtype=torch.float64), eps=1e-15))
    return mixer


def recalled(mixer, keys, values, queries):
    """What [Q, 4] queries find after [S, 4] keys and values were written in this order: [Q, 4]."""
    context = torch.cat([keys, values], -1)[None]
    x = torch.cat([queries, torch.zeros_like(queries)], -1)[None]
    return Batch("cross", x, None, context).run(mixer)[0][0, :, :4]


VALUES = torch.tensor([[1, 2, 3, 4], [-5, 0, 1, 2], [3, -3, 3, -3]], dtype=torch.float64)
FIRST, SECOND = torch.tensor([[0.6, 0.8, 0, 0], [-0.8, 0.6, 0, 0]], dtype=torch.float64)
DELTA = {"conv": 0, "output_norm": False}


def test_delta_overwrites_where_the_sum_adds_up():
    """Schlag et al. 2021, section 4.2: a key written twice recalls its second value, and other keys keep theirs."""
    keys, queries = torch.stack([FIRST, SECOND, FIRST]), torch.stack([FIRST, SECOND])
    found = recalled(memory("delta", rate=1.0, **DELTA), keys, VALUES, queries)
    close(found, VALUES[[2, 1]], 1e-5)
    found = recalled(memory("linear", **PLAIN), keys, VALUES, queries)
    close(found, torch.stack([VALUES[0] + VALUES[2], VALUES[1]]), 1e-9)


def test_delta_writes_beside_keys_that_are_not_orthogonal():
    near = torch.tensor([[1, 0, 0, 0]], dtype=torch.float64)
    keys = torch.stack([FIRST, near[0]])
    found = recalled(memory("delta", rate=1.0, **DELTA), keys, VALUES[:2], near)
    close(found, VALUES[1:2], 1e-5)
    found = recalled(memory("linear", **PLAIN), keys, VALUES[:2], near)
    close(found, VALUES[1:2] + 0.6 * VALUES[:1], 1e-9)


def test_half_the_rate_moves_half_the_way():
    keys = torch.stack([FIRST, FIRST])
    found = recalled(memory("delta", rate=0.5, **DELTA), keys, VALUES[:2], FIRST[None])
    close(found, 0.25 * VALUES[:1] + 0.5 * VALUES[1:2], 1e-5)
