"""Scaled dot-product attention (Vaswani et al., NeurIPS 2017, arXiv:1706.03762, equation 1)."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bareformers.mixers.base import MapMixer, Slot
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState
from bareformers.registry import mixer

# On a CPU the explicit product is faster up to about this many entries a head; a fused kernel beyond.
SHORT = 128 * 128


@mixer(
    "dot_product",
    roles={"encoder", "decoder", "cross"},
    paper="Vaswani et al., NeurIPS 2017, arXiv:1706.03762",
    parameters="4*d*d",
    state="2*t*d",
)
class DotProduct(MapMixer):
    """Each query weighs the keys by softmax(q k / sqrt(d))."""

    def __init__(self, slot: Slot, options: Any) -> None:
        super().__init__(slot, options)
        self.query = slot.linear()
        self.key = slot.linear()

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        queries = self.heads(self.query(x)) * (1 / math.sqrt(self.slot.head_size))
        keys = self.remember("keys", self.key, x, context, state)
        return mask.softmax(queries @ keys.transpose(-1, -2))

    def mix(
        self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None, want_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        short = x.device.type == "cpu" and mask.num_queries * mask.num_keys <= SHORT
        if want_weights or short:
            return super().mix(x, mask, context, state, want_weights)
        queries = self.heads(self.query(x))
        keys = self.remember("keys", self.key, x, context, state)
        values = self.remember("values", self.value, x, context, state)
        causal = mask.causal and mask.offset == 0 and mask.num_queries > 1 and (mask.keep is None or mask.regular)
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if causal else mask.bias(queries.dtype),
            dropout_p=self.slot.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return mixed, None
