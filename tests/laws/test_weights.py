"""The map that a mixer shows is the map that it used."""

import pytest
import torch

from bareformers.mixers.base import MapMixer
from tests.laws.cases import batch, cases, close, paddings
from tests.reference.equations import projected


@cases()
@paddings
@pytest.mark.parametrize("length, context_length", [(12, 7), (130, 127)])
def test_weights_tell_the_truth(case, padding, length, context_length):
    given = batch(case, length, context_length, padding)
    mixer = case.build()
    y, none = given.run(mixer)
    same, weights = given.run(mixer, want_weights=True)
    assert none is None
    close(given.real(same), given.real(y), 2e-6, "y with and without weights")
    if weights is None:
        assert not isinstance(mixer, MapMixer), "a MapMixer returns the map that is asked for"
        return

    source = given.x if given.context is None else given.context
    assert weights.shape[0] in (1, 3)
    assert weights.shape[1:] == (mixer.slot.num_heads, length, source.shape[1])
    values = values_of(mixer, source, given.keep if given.context is None else given.context_keep)
    mixed = torch.einsum("bhts,bhsd->bthd", weights.expand(3, -1, -1, -1).to(values.dtype), values)
    close(given.real(mixer.output(mixed.flatten(2))), given.real(y), 2e-6, "map times values")

    rows = given.real(weights.expand(3, -1, -1, -1).transpose(1, 2))
    assert (rows >= 0).all()
    if case.normalized:
        close(rows.sum(-1), torch.ones(rows.shape[:2]), 1e-5, "sums of rows")


def values_of(mixer, source, keep):
    """What the map weighs, from the equations: [B, H, S, d], zeros at padding."""
    values = source.new_zeros(len(source), mixer.slot.num_heads, source.shape[1], mixer.slot.head_size)
    for row, tokens in enumerate(source):
        real = slice(None) if keep is None else keep[row]
        values[row][:, real] = projected(mixer, "value", tokens[real])
    return values


@cases()
@paddings
def test_weights_are_zero_where_nothing_may_be_seen(case, padding):
    given = batch(case, 12, 7, padding)
    _, weights = given.run(case.build(), want_weights=True)
    if weights is None:
        return
    weights = weights.expand(3, -1, -1, -1)
    if case.role == "decoder":
        assert (given.real(weights.triu(1).transpose(1, 2)) == 0).all()
    key_keep = given.keep if given.context is None else given.context_keep
    if key_keep is not None:
        padded = (~key_keep)[:, None, None, :].expand_as(weights)
        assert (given.real((weights * padded).transpose(1, 2)) == 0).all()
