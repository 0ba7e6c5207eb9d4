"""Where positions enter by distance, tokens that are all alike are told apart by nothing else."""

import pytest
import torch

from bareformers.mixers.positions import rotate
from tests.laws.cases import Case, batch, close

LENGTH = 20
SELF = pytest.mark.parametrize("role", ["encoder", "decoder"])


def logits_by_distance(case):
    """[distance, H]: what a key so far back is given beyond what the query gives itself."""
    mixer = case.build(torch.float64)
    given = batch(case, LENGTH, 1, "none", torch.float64)
    given.x = given.x[:1, :1].expand(1, LENGTH, -1)
    _, weights = given.run(mixer, want_weights=True)
    logits = weights[0].log()
    logits = logits - logits.diagonal(0, -2, -1)[..., None]
    for distance in range(0 if case.role == "decoder" else 1 - LENGTH, LENGTH):
        alike = logits.diagonal(-distance, -2, -1)
        close(alike, alike[:, :1].expand_as(alike), 1e-5, f"logits of keys {distance} back")
    return torch.stack([logits[:, distance, 0] for distance in range(LENGTH)])


@SELF
@pytest.mark.parametrize(
    "options",
    [{"positions": "rotary"}, {"positions": "rotary", "rotary_base": 37.0}, {"positions": "relative"}],
    ids=str,
)
def test_products_of_equal_tokens_depend_on_their_distance_alone(role, options):
    found = logits_by_distance(Case("dot_product", role, options))
    assert (found[1:] - found[:-1]).abs().amin() > 1e-6, "every distance has a logit of its own"


@SELF
@pytest.mark.parametrize("name", ["random", "dense"])
def test_offsets_beyond_the_largest_share_its_logit(role, name):
    found = logits_by_distance(Case(name, role, {"max_offset": 3}))
    assert (found[1:4] - found[:3]).abs().amin() > 1e-3
    close(found[4:], found[3].expand_as(found[4:]), 1e-9)


@SELF
def test_without_positions_equal_tokens_are_equal(role):
    close(logits_by_distance(Case("dot_product", role)), torch.zeros(LENGTH, 2), 1e-9)


def test_the_base_of_rotary_positions_is_that_of_the_slowest_turn():
    """The last of d/2 pairs turns by base^(-(d-2)/d) a position."""
    x = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)[None, None, None]
    for base in (10000.0, 37.0):
        turned = rotate(x, torch.tensor([[5]]), base)[0, 0, 0]
        angle = torch.tensor(5 * base**-0.5, dtype=torch.float64)
        close(turned, torch.stack([angle * 0, angle.cos(), angle * 0, angle.sin()]), 1e-12)
