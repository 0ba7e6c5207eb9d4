"""Windows by blocks are the windows of the whole matrix, and what is forgotten is not missed."""

import pytest
import torch

from bareformers.mixers import sliding_window
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState
from tests.laws.cases import Case


def mixed(mixer, x, keep):
    x = x.clone().requires_grad_()
    mask = Mask(x.shape[1], x.shape[1], causal=True, device=x.device, keep=keep)
    y, _ = mixer(x, mask)
    real = y if keep is None else y[keep]
    weights = torch.linspace(-1, 1, real.numel(), dtype=x.dtype).view_as(real)
    (real * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in mixer.parameters()]
    mixer.zero_grad()
    return real.detach(), x.grad, gradients


@pytest.mark.parametrize("length", [9, 12, 130])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_by_blocks(monkeypatch, length, padded, positions):
    mixer = Case("sliding_window", "decoder", {"window": 4, "positions": positions}).build(torch.float64)
    x = torch.randn(2, length, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keep = torch.arange(length) < torch.tensor([[length], [length - 3]]) if padded else None
    whole = mixed(mixer, x, keep) if length < 128 else None
    by_blocks, called = mixer.by_blocks, []
    monkeypatch.setattr(mixer, "by_blocks", lambda *given: called.append(1) or by_blocks(*given))
    monkeypatch.setattr(sliding_window, "SHORT", 1)
    found = mixed(mixer, x, keep)
    assert called
    if whole is None:
        monkeypatch.setattr(mixer, "goes_by_blocks", lambda *given: False)
        whole = mixed(mixer, x, keep)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)


def test_the_state_stops_growing():
    mixer = Case("sliding_window", "decoder", {"window": 4}).build()
    state, sizes = MixerState(), []
    for length in range(1, 9):
        mixer(torch.randn(1, 1, 16), Mask(1, length, causal=True, device=torch.device("cpu")), state=state)
        state.length = length
        sizes.append(state.num_numbers() // 32)
    assert sizes == [1, 2, 3, 3, 3, 3, 3, 3]
