"""Synthesizers: a logit for every key, an end where positions have one, and no map older than its logits."""

import copy
import math

import pytest
import torch

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers import base
from tests.laws.cases import Batch, Case, batch, close, noise
from tests.laws.test_naive import check
from tests.laws.test_step import decode
from tests.reference.equations import naive


@pytest.mark.parametrize("factors", [None, (4, 8), (8, 4), (2, 16)])
def test_every_key_has_a_logit_of_its_own(factors):
    """Tiling both factors alike would leave 8 different logits of 32 where they are 4 and 8."""
    case = Case("factorized_dense", "encoder", {"factors": factors})
    mixer = case.build(torch.float64, max_length=32)
    assert mixer.factors == (factors or (4, 8))
    _, weights = batch(case, 32, 1, "none", torch.float64).run(mixer, want_weights=True)
    for row in weights.flatten(0, 2):
        assert len(row.unique()) == 32


@pytest.mark.parametrize("length, factors", [(512, (16, 32)), (36, (6, 6)), (131, (1, 131)), (1, (1, 1))])
def test_factors_are_near_the_root(length, factors):
    assert Case("factorized_dense", "decoder").build(max_length=length).factors == factors


@pytest.mark.parametrize("role, factors", [("encoder", (4, 33)), ("decoder", (33, 4)), ("cross", (26, 5))])
@pytest.mark.parametrize("padding", ["none", "ragged"])
def test_with_other_factors_fast_equals_naive(role, factors, padding):
    check(Case("factorized_dense", role, {"factors": factors}), padding, 65, 66, torch.float64)


@pytest.mark.parametrize("name", ["random", "fixed_random", "factorized_random", "dense", "factorized_dense"])
@pytest.mark.parametrize("role, length, context_length", [("encoder", 9, 1), ("decoder", 9, 1), ("cross", 1, 9)])
def test_a_map_of_positions_ends_where_they_end(name, role, length, context_length):
    case = Case(name, role)
    mixer = case.build(max_length=8, max_context_length=8)
    with pytest.raises(InputError, match=f"'{name}' has a fixed length of 8 positions and was given 9"):
        batch(case, length, context_length, "none").run(mixer)


@pytest.mark.parametrize("name", ["random", "factorized_random", "fixed_random"])
def test_a_map_of_positions_ends_with_its_queries_too(name):
    case = Case(name, "cross")
    with pytest.raises(InputError, match="fixed length of 8 positions and was given 9"):
        batch(case, 9, 5, "none").run(case.build(max_length=8, max_context_length=8))


@pytest.mark.parametrize("name", ["random", "dense"])
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_a_map_of_offsets_has_no_end(name, role):
    case = Case(name, role, {"max_offset": 3})
    mixer, given = case.build(torch.float64, max_length=8), batch(case, 40, 1, "ragged", torch.float64)
    y, _ = given.run(mixer)
    close(given.real(y), given.real(naive(mixer, given.x, given.keep)), 1e-9)


def evaluated(mixer, given):
    """The outputs, as an evaluation would have them."""
    with torch.no_grad():
        return given.run(mixer)[0]


def expected(mixer, given):
    context = None if given.context is None else given.context.double()
    return naive(copy.deepcopy(mixer).double(), given.x.double(), given.keep, context, given.context_keep)


def stepped(mixer, given):
    given.run(mixer)[0].square().mean().backward()
    torch.optim.SGD(mixer.parameters(), lr=1.0).step()


def loaded(mixer, given):
    mixer.load_state_dict({name: tensor + noise(*tensor.shape, seed=11) for name, tensor in mixer.state_dict().items()})


def redrawn(mixer, given):
    mixer.init_weights(0.25)


def replaced(mixer, given):
    for number, parameter in enumerate(mixer.parameters()):
        parameter.data = noise(*parameter.shape, seed=20 + number)


def averaged(mixer, given):
    """As averages of weights are often put in place, behind the back of autograd."""
    for number, tensor in enumerate(mixer.state_dict().values()):
        tensor.data.copy_(noise(*tensor.shape, seed=30 + number))


def doubled(mixer, given):
    mixer.double()
    given.x = given.x.double()


@pytest.mark.parametrize("name", ["random", "fixed_random", "factorized_random"])
@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize(
    "change", [stepped, loaded, redrawn, replaced, averaged, doubled], ids=lambda change: change.__name__
)
def test_a_shared_map_follows_its_logits(name, padding, change):
    case = Case(name, "encoder")
    mixer, given = case.build(), batch(case, 12, 1, padding)
    before = evaluated(mixer, given)
    assert torch.equal(evaluated(mixer, given), before)
    change(mixer, given)
    after = evaluated(mixer, given)
    assert not torch.equal(after, before.to(after.dtype))
    close(given.real(after), given.real(expected(mixer, given)), 1e-12 if change is doubled else 2e-6)


@pytest.mark.parametrize("role", registry.ROLES)
def test_a_shared_map_fits_lengths_and_padding(role):
    case = Case("random", role)
    mixer = case.build()
    for length, context_length, padding in [(12, 7, "none"), (7, 12, "right"), (12, 7, "ragged"), (12, 7, "right")]:
        given = batch(case, length, context_length, padding)
        close(given.real(evaluated(mixer, given)), given.real(expected(mixer, given)), 2e-6)


@pytest.mark.parametrize("role", ["decoder", "cross"])
def test_a_shared_map_is_that_of_the_positions_at_hand(role):
    case = Case("random", role)
    mixer, given = case.build(), batch(case, 12, 7, "none")
    steps = torch.cat([y for y, _ in decode(mixer, given, [4, 4, 4])], 1)
    close(steps, expected(mixer, given), 2e-6)


def test_a_shared_map_is_not_that_of_other_positions_of_a_single_row():
    case = Case("random", "cross")
    mixer, given = case.build(), batch(case, 6, 7, "none")
    alone = Batch("cross", given.x[:1], None, given.context[:1])
    evaluated(mixer, alone)
    alone.keep = torch.tensor([[False, False, True, True, True, True]])
    close(alone.real(evaluated(mixer, alone)), alone.real(expected(mixer, alone)), 2e-6)


@pytest.mark.parametrize("name", ["random", "fixed_random", "factorized_random"])
@pytest.mark.parametrize("role", registry.ROLES)
def test_two_sentences_have_one_map(name, role):
    case = Case(name, role)
    mixer, maps = case.build(), []
    for seed in (1, 2):
        context = noise(3, 7, 16, seed=seed + 10) if role == "cross" else None
        maps.append(Batch(role, noise(3, 9, 16, seed=seed), None, context).run(mixer, want_weights=True)[1])
    assert torch.equal(*maps)


@pytest.mark.parametrize("name", ["dense", "factorized_dense"])
def test_a_query_looks_where_it_does_whatever_the_keys_are(name):
    case = Case(name, "cross")
    mixer, x = case.build(), noise(3, 9, 16, seed=1)
    maps = [Batch("cross", x, None, noise(3, 7, 16, seed=s)).run(mixer, want_weights=True)[1] for s in (2, 3)]
    assert torch.equal(*maps)
    _, other = Batch("cross", noise(3, 9, 16, seed=4), None, noise(3, 7, 16, seed=2)).run(mixer, want_weights=True)
    assert not torch.equal(other, maps[0])


@pytest.mark.parametrize("role", registry.ROLES)
def test_a_mixture_is_written_with_plus_signs(role):
    mixer = base.build("random+dense + dot_product", Case("mixture", role).slot())
    assert mixer.name == "mixture" and [term.name for term in mixer.terms] == ["random", "dense", "dot_product"]


@pytest.mark.parametrize("role", registry.ROLES)
def test_a_mixture_can_choose_one_of_its_maps(role):
    case = Case("mixture", role, {"of": ["random", "dot_product"]})
    mixer, given = case.build(torch.float64), batch(case, 9, 7, "left", torch.float64)
    alone = Case("dot_product", role).build(torch.float64)
    with torch.no_grad():
        mixer.mixing.copy_(torch.tensor([-math.inf, 0.0]))
    state = {name.removeprefix("terms.1."): tensor for name, tensor in mixer.state_dict().items()}
    alone.load_state_dict({name: state[name] for name in alone.state_dict()})
    close(given.real(given.run(mixer)[0]), given.real(given.run(alone)[0]), 1e-12)
