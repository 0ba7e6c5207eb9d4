"""The parts of a layer that do not mix positions: norms and the position-wise feed-forward network."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.activations import ACT2FN

from bareformers.errors import unknown
from bareformers.mixers.dropout import Dropout

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


def norm(kind: str, hidden_size: int, eps: float) -> nn.Module:
    """A norm over the last dimension: `layer` (mean and variance) or `rms` (Zhang & Sennrich, arXiv:1910.07467)."""
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    return NORMS[kind](hidden_size, eps=eps)


def activation(name: str) -> nn.Module:
    """An activation under the name that `transformers` gives it."""
    if name not in ACT2FN:
        raise unknown("hidden_act", name, ACT2FN)
    return ACT2FN[name]


class FeedForward(nn.Module):
    """W2 act(W1 x): [B, T, D] -> [B, T, D], each position by itself."""

    def __init__(self, hidden_size: int, intermediate_size: int, act: str, dropout: float, use_bias: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, intermediate_size, bias=use_bias)
        self.act = activation(act)
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(intermediate_size, hidden_size, bias=use_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.dropout(self.act(self.inner(x))))
