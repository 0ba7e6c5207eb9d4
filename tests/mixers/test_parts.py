"""State, dropout, sinusoids, and what the Gaussian paper says beyond its equation."""

import copy
import math

import pytest
import torch

from bareformers.mixers.dropout import Dropout
from bareformers.mixers.positions import sinusoids
from bareformers.mixers.state import MixerState, new_state
from tests.laws.cases import Case, batch


def test_state_appends_in_order():
    state = MixerState()
    assert "values" not in state
    state.append("values", torch.zeros(2, 1, 3, 4), dim=2)
    whole = state.append("values", torch.ones(2, 1, 1, 4), dim=2)
    assert whole.shape == (2, 1, 4, 4) and whole[0, 0, :, 0].tolist() == [0, 0, 0, 1]
    assert state["values"] is whole
    assert state.num_numbers() == 32 and state.num_bytes() == 128


def filled_state():
    cache = new_state(2)
    for layer in cache.layers:
        for role in ("decoder", "cross"):
            layer[role]["rows"] = torch.arange(3.0)[:, None]
        layer.advance(5)
    return cache


def rows(cache):
    return [layer[role]["rows"][:, 0].tolist() for layer in cache.layers for role in ("decoder", "cross")]


def test_beams_reorder_every_role():
    cache = filled_state()
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    assert rows(cache) == [[2, 2, 0]] * 4
    assert cache.get_seq_length() == 5


def test_batches_repeat_and_are_selected():
    cache = filled_state()
    cache.batch_repeat_interleave(2)
    assert rows(cache) == [[0, 0, 1, 1, 2, 2]] * 4
    cache.batch_select_indices(torch.tensor([1, 4]))
    assert rows(cache) == [[0, 2]] * 4


def test_a_reset_state_is_empty_and_copies_are_apart():
    cache = filled_state()
    other = copy.deepcopy(cache)
    cache.reset()
    assert cache.get_seq_length() == 0 and "rows" not in cache.layers[0]["decoder"]
    assert other.get_seq_length() == 5 and rows(other) == [[0, 1, 2]] * 4
    assert other.layers[0].num_bytes() == 2 * 3 * 4


def test_a_state_cannot_be_rolled_back():
    with pytest.raises(NotImplementedError, match="rolled back"):
        filled_state().layers[0].crop(1)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean(p):
    torch.manual_seed(0)
    dropout, x = Dropout(p).train(), torch.ones(200, 501)
    y = dropout(x)
    assert abs((y == 0).float().mean() - p) < 0.01
    assert abs(y.mean() - 1) < 0.01
    assert len(y.unique()) == 2
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_is_seeded_and_has_its_mask_in_the_gradient():
    x = torch.ones(7, 3, requires_grad=True)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(Dropout(0.5).train()(x))
    assert torch.equal(*outputs)
    outputs[0].sum().backward()
    assert torch.equal(x.grad, outputs[0].detach())


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_is_a_probability(p):
    with pytest.raises(ValueError, match="probability"):
        Dropout(p)


def test_sinusoids_are_those_of_the_paper():
    angles = [49 * 10000 ** (-2 * i / 16) for i in range(8)]
    expected = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
    torch.testing.assert_close(sinusoids(torch.arange(50), 16)[49], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("offset, first, others", [(0, 0.3989, 0.6995), (-1, 0.2420, 0.9414), (1, 0.2420, 0.3005)])
def test_sums_of_causal_gaussian_rows(offset, first, others):
    """The row sums that the paper's own code gives; the first query sees only itself."""
    case = Case("gaussian", "decoder", {"offsets": (offset,)})
    _, weights = batch(case, 20, 1, "none").run(case.build(), want_weights=True)
    sums = weights.sum(-1)[0, 0, [0, 10, 19]]
    torch.testing.assert_close(sums, torch.tensor([first, others, others]), atol=1e-4, rtol=0)


def test_sums_of_gaussian_rows_that_see_both_sides():
    case = Case("gaussian", "encoder")
    _, weights = batch(case, 20, 1, "none").run(case.build(), want_weights=True)
    sums = weights.sum(-1)[0, 0, [0, 10, 19]]
    torch.testing.assert_close(sums, torch.tensor([0.3005, 1.0, 0.9414]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("role, offsets", [("encoder", [-1, 1]), ("cross", [-1, 1]), ("decoder", [-1, 0])])
def test_offsets_of_the_paper(role, offsets):
    assert Case("gaussian", role).build(num_heads=4).offsets == offsets * 2


def test_a_gaussian_aligns_by_the_length_ratio_of_the_data():
    case = Case("gaussian", "cross")
    given = batch(case, 9, 14, "right")
    told = Case("gaussian", "cross", {"length_ratio": 1.4}).build()
    assert torch.equal(given.run(case.build(length_ratio=1.4))[0], given.run(told)[0])
    assert not torch.equal(given.run(case.build(length_ratio=1.0))[0], given.run(told)[0])


def test_stds_of_a_gaussian_are_tiled_over_heads():
    case = Case("gaussian", "encoder", {"offsets": (0,), "std": (0.5, 2.0)})
    _, weights = batch(case, 21, 1, "none").run(case.build(num_heads=4), want_weights=True)
    peaks = [1 / (std * math.sqrt(2 * math.pi)) for std in (0.5, 2.0, 0.5, 2.0)]
    torch.testing.assert_close(weights[0, :, 10, 10], torch.tensor(peaks), atol=1e-5, rtol=0)


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_a_gaussian_sees_nothing_far_away(role):
    case = Case("gaussian", role)
    mixer, given = case.build(), batch(case, 130, 1, "none")
    before, _ = given.run(mixer)
    given.x[:, 60] += 1.0
    after, _ = given.run(mixer)
    changed = (after != before).any(-1).any(0).nonzero().flatten()
    assert 60 in changed and (changed - 60).abs().max() <= 7


def test_a_decoding_gaussian_forgets():
    """Memory is a window of the last positions, however long the text."""
    mixer, state = Case("gaussian", "decoder").build(), MixerState()
    given = batch(Case("gaussian", "decoder"), 40, 1, "none")
    sizes = []
    for start in range(40):
        mixer(given.x[:, start : start + 1], given.mask(start, start + 1), state=state)
        sizes.append(state.num_bytes())
    assert len(set(sizes)) == 1
