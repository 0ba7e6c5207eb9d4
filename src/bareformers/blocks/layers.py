"""The parts of a layer that do not mix positions: norms, gains and the position-wise feed-forward network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from bareformers.errors import InputError, unknown
from bareformers.mixers.base import SelfInitialised
from bareformers.mixers.dropout import Dropout

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
# Gated linear units (Shazeer, arXiv:2002.05202) and the activation of their gates.
GATED = {"geglu": "gelu", "swiglu": "silu"}


def norm(kind: str, hidden_size: int, eps: float) -> nn.Module:
    """A norm over the last dimension: `layer` (mean and variance) or `rms` (Zhang & Sennrich, arXiv:1910.07467)."""
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    return NORMS[kind](hidden_size, eps=eps)


def activation(name: str) -> nn.Module:
    """An activation under the name that `transformers` gives it."""
    if name not in ACT2FN:
        raise unknown("hidden_act", name, [*ACT2FN, *GATED])
    return ACT2FN[name]


class FeedForward(nn.Module):
    """W2 act(W1 x): [B, T, D] -> [B, T, D], each position by itself.

    A gated activation takes W1 x in halves a and b and gives act(a) b, so that W2 reads half of `intermediate_size`.
    relu writes over what `inner` gave.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, act: str, dropout: float, use_bias: bool) -> None:
        super().__init__()
        self.is_gated = act in GATED
        if self.is_gated and intermediate_size % 2:
            raise InputError(f"{act} halves intermediate_size, which {intermediate_size} does not allow; write it even")
        self.inner: nn.Module = nn.Linear(hidden_size, intermediate_size, bias=use_bias)
        self.act = activation(GATED.get(act, act))
        self.dropout = Dropout(dropout)
        width = intermediate_size // 2 if self.is_gated else intermediate_size
        self.outer = nn.Linear(width, hidden_size, bias=use_bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        if self.is_gated:
            a, b = h.chunk(2, -1)
            h = self.act(a) * b
        elif isinstance(self.act, nn.ReLU):
            h = F.relu_(h)  # nothing else needs what goes in, which is the largest tensor of a layer
        else:
            h = self.act(h)
        return self.outer(self.dropout(h))


class Gain(SelfInitialised):
    """A trained number times what goes in. Its name keeps it out of weight decay."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start
        self.gain = nn.Parameter(torch.empty(1))

    def init_weights(self, std: float) -> None:
        init.constant_(self.gain, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain

    @torch.no_grad()
    def fold(self, *parameters: Tensor | None) -> None:
        """Multiply by it what makes its input, and be 1 from then on."""
        for parameter in parameters:
            if parameter is not None:
                parameter.mul_(self.gain)
        self.gain.fill_(1.0)


class GainedLinear(nn.Linear):
    """gain (W x + b) with a trained gain, which who makes this initialises. Its name keeps it out of weight decay."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.gain = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            gained: Tensor = GainedProduct.apply(x, self.weight, self.bias, self.gain)
            return gained
        return F.linear(x, self.weight, self.bias) * self.gain

    @torch.no_grad()
    def fold(self) -> None:
        """Take the gain into the weights, and be 1 from then on."""
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.mul_(self.gain)
        self.gain.fill_(1.0)


class GainedProduct(torch.autograd.Function):
    """What `GainedLinear` computes, remembering x alone: two operations would keep W x too, for the gain's gradient.

    With the gradient G of the output, rows first, that of the gain is <G, W x + b> = <G^T x, W> + <sum G, b>.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias, gain)
        return F.linear(x, weight, bias).mul_(gain)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        x, weight, bias, gain = ctx.saved_tensors
        rows = gradients[0].flatten(0, -2)
        of_weight = (rows.T @ x.flatten(0, -2).to(rows.dtype)).to(weight.dtype)
        of_gain = torch.dot(of_weight.flatten(), weight.flatten())
        of_bias = None
        if bias is not None:
            of_bias = rows.sum(0, dtype=bias.dtype)
            of_gain = of_gain + torch.dot(of_bias, bias)
            of_bias = of_bias * gain
        of_x = (gradients[0] * gain.to(rows.dtype)) @ weight.to(rows.dtype)
        return of_x.to(x.dtype), of_weight.mul_(gain), of_bias, of_gain[None].to(gain.dtype)


class NearIdentity(SelfInitialised):
    """skip x + W x times a gain, both trained and 1 at the start, W zero: [B, T, D] -> the same."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.skip_gain, self.change_gain = Gain(1.0), Gain(1.0)
        self.change = nn.Linear(hidden_size, hidden_size, bias=False)

    def init_weights(self, std: float) -> None:
        init.zeros_(self.change.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip_gain(x) + self.change_gain(self.change(x))
