"""Scaled dot-product attention (Vaswani et al., NeurIPS 2017, arXiv:1706.03762, equation 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from bareformers.errors import InputError
from bareformers.mixers.base import Slot, SoftmaxMixer, merge_heads
from bareformers.mixers.joint import zero
from bareformers.mixers.masks import Mask
from bareformers.mixers.positions import BASE, reach, rotate, shift, sinusoids
from bareformers.mixers.state import MixerState
from bareformers.registry import mixer

# On a CPU the explicit product is faster up to about this many entries a head; a fused kernel beyond.
SHORT = 128 * 128


@mixer(
    "dot_product",
    roles={"encoder", "decoder", "cross"},
    paper="Vaswani et al., NeurIPS 2017, arXiv:1706.03762",
    parameters="4*d*d + (d*d + 2*d) * (positions == 'relative')",
    state="2*t*d",
)
class DotProduct(SoftmaxMixer):
    """Each query weighs the keys by softmax(q k / sqrt(d))."""

    @dataclass
    class Options:
        # rotary (Su et al. 2021); relative, as in Transformer-XL (Dai et al. 2019) and Gopher; self roles only
        positions: Literal["none", "rotary", "relative"] = "none"
        rotary_base: float = BASE  # entries m and m + d/2 turn by `position * rotary_base^(-2m/d)`
        num_heads: int | None = None  # by default num_attention_heads of the model

        def __post_init__(self) -> None:
            if self.num_heads is not None and self.num_heads < 1:
                raise InputError(f"dot_product needs at least one head, not num_heads: {self.num_heads}")
            if self.rotary_base <= 0:
                raise InputError(f"rotary_base is above 0, not {self.rotary_base}")
            if self.rotary_base != BASE and self.positions != "rotary":
                raise InputError(
                    f"rotary_base belongs to rotary positions, and positions is {self.positions}; "
                    f"write positions: rotary, or leave it out"
                )

    def __init__(self, slot: Slot, options: Options) -> None:
        if options.num_heads is not None:
            if slot.hidden_size % options.num_heads:
                raise InputError(
                    f"dot_product cannot divide hidden_size {slot.hidden_size} among {options.num_heads} heads; "
                    f"write a num_heads that divides it"
                )
            slot = replace(slot, num_heads=options.num_heads)
        super().__init__(slot, options)
        if options.positions != "none" and slot.role == "cross":
            raise InputError(
                f"dot_product has no {options.positions} positions between two sequences; "
                f"write cross_mixer: dot_product beside it"
            )
        if options.positions == "rotary" and slot.head_size % 2:
            raise InputError(f"rotary positions need an even head size, not {slot.head_size}; write other heads")
        self.query = slot.linear()
        self.key = slot.linear()
        if options.positions == "relative":
            if slot.hidden_size % 2:
                raise InputError(f"relative positions need an even hidden_size, not {slot.hidden_size}")
            self.relative_key = nn.Linear(slot.hidden_size, slot.hidden_size, bias=False)
            self.content_bias = nn.Parameter(torch.empty(slot.num_heads, slot.head_size))
            self.position_bias = nn.Parameter(torch.empty(slot.num_heads, slot.head_size))

    def init_weights(self, std: float) -> None:
        if self.options.positions == "relative":
            init.zeros_(self.content_bias)
            init.zeros_(self.position_bias)

    def start_uniform(self) -> bool:
        zero(self.query)
        return True

    def input_maps(self) -> list[tuple[nn.Module, str]]:
        return [(self, "query"), (self, "key")]

    @property
    def remembers_inputs(self) -> bool:
        """Whether the remembered values are the inputs as they came, from which keys can be had at any time."""
        return self.shaping is not None and isinstance(self.value, nn.Identity) and self.options.positions != "rotary"

    def compares_inputs(self, mask: Mask, state: MixerState | None) -> bool:
        """Whether the queries are so few that it is less work to take W_K to them than to all remembered inputs."""
        if state is None or not self.remembers_inputs:
            return False
        return mask.num_queries * self.slot.num_heads < self.slot.hidden_size

    def compared(
        self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries [B, H, T, d] times 1/sqrt(d), keys [B, H, S, d], and what is added to their products [B, H, T, S].

        Where the inputs are remembered in place of keys, few queries go to them instead: [B, H, T, D] and [B, 1, S, D].
        """

        def turn(y: Tensor) -> Tensor:
            return rotate(y, mask.query_positions, self.options.rotary_base)

        def project(source: Tensor) -> Tensor:
            keys = self.heads(self.key(source))
            return turn(keys) if self.options.positions == "rotary" else keys

        queries = self.heads(self.query(x))
        reads_inputs = state is not None and self.remembers_inputs
        if not reads_inputs:
            keys = self.remember("keys", project, x, context, state)
        scale = 1 / math.sqrt(self.slot.head_size)
        if self.options.positions == "rotary":
            queries = turn(queries)
        added = None
        if self.options.positions == "relative":
            queries, added = queries + self.content_bias[:, None], self.by_offset(queries, mask)
        queries = queries * scale
        if reads_inputs:
            assert state is not None
            inputs = merge_heads(state["values"])
            if self.compares_inputs(mask, state):
                # q (W_K x + b) = (q W_K) x, and a q b, which all keys share.
                weight = self.key.weight.unflatten(0, (self.slot.num_heads, self.slot.head_size))
                return queries @ weight, inputs[:, None], added
            keys = self.heads(F.linear(inputs, self.key.weight, self.key.bias))
        return queries, keys, added

    def by_offset(self, queries: Tensor, mask: Mask) -> Tensor:
        """What the offsets between queries and keys add to their products, [B, H, T, S]."""
        # Dai et al. 2019, section 3.3: ((q + u) k + (q + v) W_r r) / sqrt(d), one r for each distance query - key.
        offsets = reach(mask.num_queries, mask.num_keys, queries.device)
        distances = sinusoids(-offsets, self.slot.hidden_size, queries.dtype)
        readers = (queries + self.position_bias[:, None]) / math.sqrt(self.slot.head_size)
        if (
            not mask.is_open and queries.shape[:3].numel() < self.slot.hidden_size
        ):  # few queries, as in decoding: W_r goes to them
            weight = self.relative_key.weight.unflatten(0, (self.slot.num_heads, self.slot.head_size))
            return shift((readers @ weight) @ distances.T, mask.num_keys)
        return shift(readers @ self.heads(self.relative_key(distances)[None]).transpose(-1, -2), mask.num_keys)

    def scores(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        queries, keys, added = self.compared(x, mask, context, state)
        if keys.shape[1] < queries.shape[1]:
            scores = (queries.flatten(1, 2) @ keys[:, 0].transpose(-1, -2)).unflatten(1, queries.shape[1:3])
        else:
            scores = queries @ keys.transpose(-1, -2)
        return scores if added is None else scores + added

    def mix(
        self,
        values: Tensor | None,
        x: Tensor,
        mask: Mask,
        context: Tensor | None,
        state: MixerState | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        short = x.device.type == "cpu" and not mask.is_open and mask.num_queries * mask.num_keys <= SHORT
        if want_weights or short or self.compares_inputs(mask, state):
            return super().mix(values, x, mask, context, state, want_weights)
        values = self.all_values(values, context, state)
        queries, keys, added = self.compared(x, mask, context, state)
        causal = mask.triangular and added is None
        bias = None if causal else mask.bias(queries.dtype) if added is None else mask.hide(added)
        dropout = self.slot.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, bias, dropout, causal, scale=1.0)
        return mixed, None
