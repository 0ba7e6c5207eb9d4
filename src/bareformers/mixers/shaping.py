"""Shaped maps: alpha I + beta A - gamma C around the map A of a mixer (He & Hofmann, ICLR 2024, arXiv:2311.01906)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState


class Shaping(nn.Module):
    """What equation 5 puts around a map A, per head: alpha I + beta A - gamma C; and a gain around the whole.

    C is what A would be if all logits were equal: uniform over the positions that a query sees. None of these matrices
    is ever made: they stand for the values themselves, the mixed values, and a running mean. Without `centred` there is
    no C, which is value-SkipInit (equation 4).
    """

    def __init__(self, num_heads: int, centred: bool) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.empty(3 if centred else 2, num_heads, 1, 1))  # alpha, beta, gamma
        self.gain = nn.Parameter(torch.empty(1))  # beta_SA of equation 12

    @property
    def is_centred(self) -> bool:
        return self.gains.shape[0] == 3

    def start(self, uniform: bool) -> None:
        """Initialise so that the shaped map is the identity: alpha 1, beta and gamma 1 where A starts as C, else 0."""
        init.ones_(self.gains)
        init.ones_(self.gain)
        if not (uniform or is_loaded(self.gains)):
            self.gains.data[1:] = 0.0

    def forward(
        self, mixed: Tensor, values: Tensor, weights: Tensor | None, mask: Mask, state: MixerState | None
    ) -> tuple[Tensor, Tensor | None]:
        """Shaped values, and the shaped map where A is given.

        Args:
            mixed: [B, H, T, d], what A made of all values.
            values: [B, H, T, d], those of the queries' own positions.
            weights: A [B or 1, H, T, S], where the map is wanted.
        """
        gains = self.gain * self.gains
        if torch.is_grad_enabled() and state is None:
            shaped = Combination.apply(mixed, values, gains, mask)
        else:
            alpha, beta, *gamma = gains.unbind()
            shaped = alpha * values + beta * mixed
            if gamma:
                shaped = shaped - gamma[0] * visible_mean(values, mask, state, "shaping")
        return shaped.to(values.dtype), None if weights is None else self.map(weights, mask)

    @torch.no_grad()
    def fold(self) -> None:
        """Take the gain around the whole into the others."""
        self.gains.mul_(self.gain)
        self.gain.fill_(1.0)

    def map(self, weights: Tensor, mask: Mask) -> Tensor:
        """alpha I + beta A - gamma C as a matrix [B or 1, H, T, S], to be looked at."""
        alpha, beta, *gamma = (self.gain * self.gains).to(weights.dtype).unbind()
        shape = mask.num_queries, mask.num_keys
        own = torch.ones(shape, dtype=weights.dtype, device=weights.device).tril(mask.offset).triu(mask.offset)
        shaped = alpha * own + beta * weights
        return shaped - gamma[0] * mask.softmax(torch.zeros_like(weights)) if gamma else shaped


class Combination(torch.autograd.Function):
    """alpha v + beta y - gamma mean(v), which remembers v and y alone; as single operations it would keep five."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, values: Tensor, gains: Tensor, mask: Mask) -> Tensor:
        ctx.save_for_backward(mixed, values, gains)
        ctx.mask = mask
        alpha, beta, *gamma = gains.unbind()
        shaped = (alpha * values).addcmul_(beta, mixed)
        return shaped.addcmul_(gamma[0], visible_mean(values, mask), value=-1) if gamma else shaped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        mixed, values, gains = ctx.saved_tensors
        alpha, beta, *gamma = gains.unbind()
        of_values, sums = alpha * gradient, [gradient * values, gradient * mixed]
        if gamma:
            spread = mean_transposed(gradient, ctx.mask)
            of_values.addcmul_(gamma[0], spread, value=-1)
            sums.append(-spread * values)  # <g, C v> = <C^T g, v>
        of_gains = torch.stack([each.sum((0, 2, 3), keepdim=True)[0] for each in sums])
        return (beta * gradient).to(mixed.dtype), of_values.to(values.dtype), of_gains, None


def visible_mean(values: Tensor, mask: Mask, state: MixerState | None = None, name: str = "") -> Tensor:
    """The mean of the values that each query sees, C v: [B, H, T, d], or [B, H, 1, d] where all see the same."""
    return mean_so_far(values, mask, state, name) if mask.causal else mean_of_all(values, mask)


def mean_transposed(gradient: Tensor, mask: Mask) -> Tensor:
    """C^T g: the gradient [B, H, T, d] that comes back through `visible_mean`, in the self roles without a state."""
    if mask.causal:
        shares = gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / counts(mask)
        return mask.keep_values(shares.flip(2).cumsum(2).flip(2)).to(gradient.dtype)
    count = gradient.shape[2] if mask.keep is None else mask.keep.sum(1).clamp_min(1)[:, None, None, None]
    return mask.keep_values((gradient.sum(2, keepdim=True) / count).expand_as(gradient))


def mean_so_far(values: Tensor, mask: Mask, state: MixerState | None, name: str) -> Tensor:
    """The mean of the values up to each position, those that `state` has summed under `name` included.

    [B, H, T, d] -> the same; at padding, whatever is finite.
    """
    sums = mask.keep_values(values).cumsum(2, dtype=torch.promote_types(values.dtype, torch.float32))
    if state is not None:
        if name in state:
            sums = sums + state[name]
        state[name] = sums[:, :, -1:].clone()
    return (sums / counts(mask)).to(values.dtype)


def counts(mask: Mask) -> Tensor:
    """How many real positions there are up to each query, [B or 1, 1, T, 1]."""
    return (mask.query_positions + 1)[:, None, :, None]


def mean_of_all(values: Tensor, mask: Mask) -> Tensor:
    """The mean of the values at all real positions: [B, H, S, d] -> [B, H, 1, d]."""
    count = values.shape[2] if mask.keep is None else mask.keep.sum(1).clamp_min(1)[:, None, None, None]
    sums = mask.keep_values(values).sum(2, keepdim=True, dtype=torch.promote_types(values.dtype, torch.float32))
    return (sums / count).to(values.dtype)


def is_loaded(parameter: Tensor) -> bool:
    """Whether its numbers come from a file, so that initialisation leaves it alone as `transformers` does."""
    return getattr(parameter, "_is_hf_initialized", False)
