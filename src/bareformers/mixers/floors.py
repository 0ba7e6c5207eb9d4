"""Floors: what is left when nothing chooses what to read. A comparison without one means nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bareformers.mixers.base import MapMixer, Slot, TokenMixer, at_least_float32
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState
from bareformers.registry import mixer


@mixer(
    "none",
    roles={"encoder", "decoder", "cross"},
    paper="floor: no exchange between positions",
    parameters="0",
    state="0",
    floor=True,
)
class NoMixing(TokenMixer):
    """Moves nothing: the block leaves the sub-layer out, its norm and its skip included."""

    absent = True

    def __init__(self, slot: Slot, options: Any) -> None:
        super().__init__(slot, options)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        context: Tensor | None = None,
        state: MixerState | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        return torch.zeros_like(x), None


@mixer(
    "average",
    roles={"encoder", "decoder", "cross"},
    paper="floor: cumulative average, as in Zhang, Xiong & Su, ACL 2018, arXiv:1805.00631",
    parameters="2*d*d",
    state="d if role == 'cross' else d + 1",
    floor=True,
)
class Average(MapMixer):
    """Every visible position weighs the same: the mean of the values, in the decoder of those so far."""

    reads_queries = False

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        equal = x.new_zeros(1, self.slot.num_heads, mask.num_queries, mask.num_keys, dtype=torch.float32)
        return mask.softmax(equal)

    def mix(
        self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None, want_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.training and self.slot.dropout and state is None:
            return super().mix(x, mask, context, state, want_weights)
        weights = self.weights(x, mask, context, state) if want_weights else None
        if not mask.causal:
            mean = self.mean(x if context is None else context, mask, state)
            return mean.expand(-1, -1, mask.num_queries, -1), weights
        values = self.heads(self.value(x))
        ones = mask.keep_values(torch.ones_like(values[:, :1, :, :1], dtype=torch.float32))
        sums, counts = at_least_float32(mask.keep_values(values)).cumsum(2), ones.cumsum(2)
        if state is not None:
            if "sum" in state:
                sums, counts = sums + state["sum"], counts + state["count"]
            state["sum"], state["count"] = sums[:, :, -1:].clone(), counts[:, :, -1:].clone()
        return (sums / counts.clamp_min(1)).to(values.dtype), weights

    def mean(self, source: Tensor, mask: Mask, state: MixerState | None) -> Tensor:
        """Mean [B, H, 1, d] of the values of all real positions of `source` [B, S, D]."""
        if state is not None and "mean" in state:
            return state["mean"]
        values = self.heads(self.value(source))
        count = values.shape[2] if mask.keep is None else mask.keep.sum(1).clamp_min(1)[:, None, None, None]
        mean = (at_least_float32(mask.keep_values(values)).sum(2, keepdim=True) / count).to(values.dtype)
        if state is not None:
            state["mean"] = mean
        return mean
