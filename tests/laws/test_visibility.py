"""Nobody sees the future, and nobody sees padding."""

import pytest
import torch

from tests.laws.cases import PADDINGS, batch, cases, close, keep_mask, model, noise, paddings, token_batch

SCALES = pytest.mark.parametrize("scale", [1.0, 1e6])


@cases("decoder")
@paddings
@SCALES
@pytest.mark.parametrize("length", [12, 130])
def test_the_future_changes_nothing(case, padding, length, scale):
    given = batch(case, length, length, padding)
    mixer = case.build()
    before, _ = given.run(mixer)
    for cut in (1, length // 2, length - 1):
        changed = batch(case, length, length, padding)
        changed.x[:, cut:] = scale * noise(3, length - cut, 16, seed=7)
        after, _ = changed.run(mixer)
        real = slice(None) if given.keep is None else given.keep[:, :cut]
        assert torch.equal(after[:, :cut][real], before[:, :cut][real])


@cases()
@pytest.mark.parametrize("padding", PADDINGS[1:])
@SCALES
@pytest.mark.parametrize("length, context_length", [(12, 11), (130, 127)])
def test_padding_is_not_read(case, padding, length, context_length, scale):
    given = batch(case, length, context_length, padding)
    mixer = case.build()
    before, _ = given.run(mixer)
    given.x[~given.keep] = scale * noise(int((~given.keep).sum()), 16, seed=8)
    if given.context is not None:
        given.context[~given.context_keep] = scale * noise(int((~given.context_keep).sum()), 16, seed=9)
    after, _ = given.run(mixer)
    assert torch.equal(given.real(after), given.real(before))


@cases()
@pytest.mark.parametrize("padding", ["left", "ragged"])
@pytest.mark.parametrize("length, context_length", [(12, 11), (130, 127)])
def test_padding_may_stand_on_either_side(case, padding, length, context_length):
    moved = batch(case, length, context_length, padding)
    given = batch(case, length, context_length, "none")
    given.keep = _right(moved.keep)
    given.x[given.keep] = moved.x[moved.keep]
    if given.context is not None:
        given.context_keep = _right(moved.context_keep)
        given.context[given.context_keep] = moved.context[moved.context_keep]
    mixer = case.build()
    y, _ = given.run(mixer)
    z, _ = moved.run(mixer)
    close(moved.real(z), given.real(y), case.rounding(1e-6))


def _right(keep):
    """The mask of as many tokens a row, with the padding behind them."""
    return torch.arange(keep.shape[1]) < keep.sum(1, keepdim=True)


@cases(variants=False)
@pytest.mark.parametrize("padding", PADDINGS[1:])
def test_a_model_reads_no_padding(case, padding):
    net = model(case)
    inputs = token_batch(net, padding=padding)
    keep = inputs["attention_mask"].bool()
    before = net(**inputs).logits
    inputs["input_ids"] = inputs["input_ids"].masked_fill(~keep, 19)
    after = net(**inputs).logits
    if net.config.is_encoder_decoder:
        assert torch.equal(after, before)
    else:
        assert torch.equal(after[keep], before[keep])


def test_the_masks_of_this_suite_are_what_they_say():
    assert keep_mask(6, "none") is None
    assert keep_mask(6, "right").int().tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert keep_mask(6, "left").int().tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert keep_mask(6, "ragged").int().tolist() == [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
