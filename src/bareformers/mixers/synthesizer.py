"""Synthesizer (Tay et al., ICML 2021, arXiv:2005.00743): attention maps that compare no tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from bareformers.mixers.base import MapMixer, Slot
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState
from bareformers.registry import mixer

PAPER = "Tay et al., ICML 2021, arXiv:2005.00743"


@mixer(
    "random",
    roles={"encoder", "decoder", "cross"},
    paper=PAPER,
    parameters="2*d*d + h*n*(m if role == 'cross' else n)",
    state="t*d",
)
class Random(MapMixer):
    """One learned logit for each pair of positions (section 3.2): softmax(R), the same map for every input."""

    reads_queries = False

    def __init__(self, slot: Slot, options: Any) -> None:
        super().__init__(slot, options)
        self.logits = nn.Parameter(torch.empty(slot.num_heads, slot.max_length, slot.max_keys))

    def init_weights(self, std: float) -> None:
        init.normal_(self.logits, std=1.0)  # heads that start alike would stay alike

    def visible_logits(self, mask: Mask) -> Tensor:
        """R at the positions at hand: [B or 1, H, T, S]."""
        self.check_length(mask.num_keys, self.slot.max_keys)
        if self.slot.role == "cross":
            regular = mask.regular and mask.query_positions.shape[0] == 1
            if not torch.compiler.is_compiling():
                self.check_length(int(mask.query_positions.max()) + 1, self.slot.max_length)
        else:
            regular = mask.regular
        if regular:
            rows = self.logits.index_select(1, mask.query_positions[0])
            return rows[:, :, : mask.num_keys][None]
        rows, columns = mask.query_positions[:, :, None], mask.key_positions[:, None, :]
        return self.logits[:, rows, columns].transpose(0, 1)

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        return mask.softmax(self.visible_logits(mask))

    def mix(
        self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None, want_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        logits = None if want_weights or self.training and self.slot.dropout else self.visible_logits(mask)
        if logits is None or logits.shape[0] > 1 or mask.allowed is None or mask.allowed.shape[0] == 1:
            return super().mix(x, mask, context, state, want_weights)
        # Only padding differs between the rows: numerator and denominator of the softmax are one product each with
        # the same exponentials, and no map per row is made.
        values = self.remember("values", self.value, x, context, state)
        kept = mask.keep.to(values.dtype)  # type: ignore[union-attr]
        wide = logits[0].to(torch.promote_types(logits.dtype, torch.float32))
        exponentials = (wide - wide.amax(-1, keepdim=True)).exp().to(values.dtype)
        sums = torch.einsum("hts,bs->bht", exponentials, kept).clamp_min(torch.finfo(values.dtype).tiny)
        return torch.einsum("hts,bhsd->bhtd", exponentials, mask.keep_values(values)) / sums[..., None], None


@mixer(
    "dense",
    roles={"encoder", "decoder", "cross"},
    paper=PAPER,
    parameters="3*d*d + d*(m if role == 'cross' else n)",
    state="t*d",
)
class Dense(MapMixer):
    """Each token writes its own row of logits, one for each position (equation 1): W2 ReLU(W1 x + b1) + b2."""

    def __init__(self, slot: Slot, options: Any) -> None:
        super().__init__(slot, options)
        self.hidden = slot.linear()
        self.projection = nn.Parameter(torch.empty(slot.num_heads, slot.head_size, slot.max_keys))
        self.projection_bias = nn.Parameter(torch.empty(slot.num_heads, 1, slot.max_keys)) if slot.use_bias else None

    def init_weights(self, std: float) -> None:
        init.normal_(self.projection, std=self.slot.head_size**-0.5)
        if self.projection_bias is not None:
            init.zeros_(self.projection_bias)

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        self.check_length(mask.num_keys, self.slot.max_keys)
        hidden = self.heads(F.relu(self.hidden(x)))
        # Only the columns of the positions at hand are multiplied.
        logits = hidden @ self.projection[:, :, : mask.num_keys]
        if self.projection_bias is not None:
            logits = logits + self.projection_bias[:, :, : mask.num_keys]
        if not mask.regular:
            columns = mask.key_positions[:, None, None, :].expand(*logits.shape[:3], -1)
            logits = logits.gather(-1, columns)
        return mask.softmax(logits)
