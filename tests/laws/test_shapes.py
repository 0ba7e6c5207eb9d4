"""A mixer keeps shape and dtype and makes no NaN, whatever it is given."""

import pytest
import torch

from tests.laws.cases import IN_BLOCKS, PADDINGS, batch, cases, close, model, paddings, token_batch


@cases()
@paddings
@pytest.mark.parametrize("length, context_length", [(1, 7), (70, 67)])
def test_bfloat16_is_kept_and_near_float32(case, padding, length, context_length):
    exact = batch(case, length, context_length, padding)
    rounded = batch(case, length, context_length, padding, torch.bfloat16)
    mixer = case.build()
    y, _ = exact.run(mixer)
    low, _ = rounded.run(mixer.to(torch.bfloat16))
    assert y.shape == low.shape == exact.x.shape
    assert y.dtype == torch.float32 and low.dtype == torch.bfloat16
    close(exact.real(low), exact.real(y), 0.05, "bfloat16")


@cases()
@pytest.mark.parametrize("padding", ["none", "left"])
def test_autocast_is_near_float32(case, padding):
    """The precision that training has where a processor multiplies bfloat16."""
    mixer, given = case.build(), batch(case, 70, 67, padding)
    exact, _ = given.run(mixer)
    given.x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = given.run(mixer)
    close(given.real(y), given.real(exact), 0.05, "autocast")
    if y.requires_grad:
        given.real(y).float().square().sum().backward()
        for name, parameter in mixer.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name


@cases()
@pytest.mark.parametrize("length", [1, 5, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_of_padding_is_finite(case, length, dtype):
    given = batch(case, length, length, "right", dtype)
    given.keep[1] = False
    if given.context is not None:
        given.context_keep[2] = False
    mixer = case.build(dtype)
    given.x.requires_grad_()
    for want_weights in (False, True):
        y, _ = given.run(mixer, want_weights=want_weights)
        assert y.isfinite().all()
    if y.requires_grad:
        y.float().square().sum().backward()
        for name, parameter in mixer.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name


@cases(also=IN_BLOCKS)
def test_everything_that_is_saved_is_initialised(case):
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    try:
        net = model(case)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, tensor in net.state_dict().items():
        assert tensor.isfinite().all(), f"{name} is left as it was allocated: see SelfInitialised"


@cases(variants=False, also=IN_BLOCKS)
@pytest.mark.parametrize("padding", PADDINGS[:3])
def test_a_model_in_bfloat16_is_finite(case, padding):
    net = model(case).to(torch.bfloat16)
    logits = net(**token_batch(net, padding=padding)).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
