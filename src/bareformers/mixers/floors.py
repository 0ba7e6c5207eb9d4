"""Floors: what is left when nothing chooses what to read. A comparison without one means nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bareformers.mixers.base import MapMixer, Slot, TokenMixer
from bareformers.mixers.masks import Mask
from bareformers.mixers.shaping import mean_of_all, mean_so_far
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
    state="d",
    floor=True,
)
class Average(MapMixer):
    """Every visible position weighs the same: the mean of the values, in the decoder of those so far."""

    reads_queries = False

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        equal = x.new_zeros(1, self.slot.num_heads, mask.num_queries, mask.num_keys, dtype=torch.float32)
        return mask.softmax(equal)

    def mix(
        self,
        values: Tensor | None,
        x: Tensor,
        mask: Mask,
        context: Tensor | None,
        state: MixerState | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        if self.training and self.slot.dropout and state is None:
            return super().mix(values, x, mask, context, state, want_weights)
        weights = self.weights(x, mask, context, state) if want_weights else None
        if mask.causal:
            assert values is not None
            return mean_so_far(values, mask, state, "sum"), weights
        if values is None:
            assert state is not None
            mean = state["mean"]
        else:
            mean = mean_of_all(values, mask)
            if state is not None:
                state["mean"] = mean
        return mean.expand(-1, -1, mask.num_queries, -1), weights

    def start_uniform(self) -> bool:
        return True
