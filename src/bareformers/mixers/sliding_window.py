"""Attention to the last positions only (Beltagy, Peters & Cohan 2020, arXiv:2004.05150, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bareformers.errors import InputError
from bareformers.mixers.base import Slot
from bareformers.mixers.dot_product import SHORT, DotProduct
from bareformers.mixers.masks import Mask, Near
from bareformers.mixers.state import MixerState
from bareformers.registry import mixer


@mixer(
    "sliding_window",
    roles={"decoder"},
    paper="Beltagy, Peters & Cohan 2020, arXiv:2004.05150",
    parameters="4*d*d + (d*d + 2*d) * (positions == 'relative')",
    state="2*d*(t if t < window else window - 1)",
)
class SlidingWindow(DotProduct):
    """`dot_product` in which a query sees itself and the `window - 1` tokens before it: the state stops growing."""

    @dataclass
    class Options(DotProduct.Options):
        window: int = 64  # tokens that a query sees, itself included

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.window < 2:
                raise InputError(f"sliding_window sees at least 2 tokens, not window: {self.window}; or write none")

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options)
        self.window = options.window

    def start_uniform(self) -> bool:
        return False  # uniform over the window is not the mean so far that shaping takes away

    def mix(
        self,
        values: Tensor | None,
        x: Tensor,
        mask: Mask,
        context: Tensor | None,
        state: MixerState | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        past = state["values"].shape[2] if state is not None and state.tensors else 0
        near = Near(mask, past + mask.num_queries, self.window)
        if self.goes_by_blocks(near, past, want_weights):
            assert values is not None
            values = self.all_values(values, context, state)
            queries, keys, _ = self.compared(x, near, context, state)
            mixed, weights = self.by_blocks(queries, keys, values), None
        else:
            mixed, weights = super().mix(values, x, near, context, state, want_weights)
        if state is not None:
            self.forget(state, mask)
        if weights is not None:  # nothing from what was forgotten
            weights = F.pad(weights, (mask.num_keys - near.num_keys, 0))
        return mixed, weights

    def goes_by_blocks(self, mask: Near, past: int, want_weights: bool) -> bool:
        """Whether so much of the matrix lies outside the windows that it is not made."""
        if past or want_weights or mask.is_open or not mask.regular or self.options.positions == "relative":
            return False
        return mask.num_queries > 2 * self.window and mask.num_queries**2 > SHORT

    def by_blocks(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, T, d] each: every `window` queries read their own block of keys and the one before; O(T window)."""
        length, size = queries.shape[2], self.window
        missing = -length % size
        queries = F.pad(queries, (0, 0, 0, missing)).unflatten(2, (-1, size))
        keys, values = (
            F.pad(each, (0, 0, size, missing)).unfold(2, 2 * size, size).transpose(-1, -2) for each in (keys, values)
        )
        query, key = torch.arange(size, device=keys.device)[:, None], torch.arange(2 * size, device=keys.device)
        visible = (key > query) & (key <= query + size)
        visible = visible.expand(queries.shape[2], -1, -1).clone()
        visible[0] &= key >= size  # there is no block before the first
        dropout = self.slot.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, visible, dropout, scale=1.0)
        return mixed.flatten(2, 3)[:, :, :length]

    def forget(self, state: MixerState, mask: Mask) -> None:
        """Keep of `state` what the next query can see: as many columns as hold `window - 1` tokens in every row."""
        wanted = self.window - 1
        held = state["values"].shape[2]
        if held <= wanted:
            return
        if mask.keep is not None:
            # Padding between the tokens of a row takes columns too.
            behind = mask.keep[:, mask.num_keys - held :].flip(1).cumsum(1)
            enough = behind >= behind[:, -1:].clamp_max(wanted)
            wanted = int(enough.int().argmax(1).max()) + 1
        for name in state.tensors:
            if state[name].dim() == 4 and state[name].shape[2] == held:
                state[name] = state[name][:, :, held - wanted :].clone()  # a view would keep the whole prompt alive
