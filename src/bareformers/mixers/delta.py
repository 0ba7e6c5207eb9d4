"""The delta rule (Schlag, Irie & Schmidhuber, ICML 2021, arXiv:2102.11174), in chunks (Yang et al., NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bareformers.errors import InputError
from bareformers.mixers import feature_maps
from bareformers.mixers.base import Slot, at_least_float32
from bareformers.mixers.linear import FastWeights, in_chunks, no_memory
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState
from bareformers.registry import ROLES, mixer


@mixer(
    "delta",
    roles=ROLES,
    paper="Schlag et al., ICML 2021, arXiv:2102.11174; l2 keys and conv: Yang et al., NeurIPS 2024, arXiv:2406.06484",
    parameters="4*d*d + d*h + num_convolutions*conv*d + (d//h)*output_norm",
    state="d*features + (role == 'decoder')*num_convolutions*(conv - 1)*d",
)
class Delta(FastWeights):
    """A memory that corrects itself: what a key already recalls is replaced by its new value, at a learned rate."""

    @dataclass
    class Options:
        feature_map: Any = "identity"  # elu, dpfp, favor or identity; options as in {name: dpfp, nu: 2}
        key_norm: Literal["l2", "sum"] = "l2"  # divide features by their length, or (Schlag et al.) by their sum
        conv: int = 4  # positions of a short convolution with SiLU over keys, values and (self roles) queries; 0: none
        output_norm: bool = True  # RMS norm of what each head reads

    def __init__(self, slot: Slot, options: Options) -> None:
        feature_map = feature_maps.build(options.feature_map, slot.head_size, "feature_map of delta")
        if options.key_norm == "sum" and not feature_map.positive:
            raise InputError(
                f"delta cannot divide by sums of the feature map {feature_map.name!r}, which may be 0; "
                f"write key_norm: l2, or a positive one such as dpfp"
            )
        super().__init__(slot, options, feature_map, options.conv)
        self.rate = nn.Linear(slot.hidden_size, slot.num_heads, bias=slot.use_bias)
        self.norm = nn.RMSNorm(slot.head_size, eps=1e-5) if options.output_norm else None

    def normalized(self, x: Tensor) -> Tensor:
        """phi(x) with the length or the sum 1, so that a write at the rate 1 replaces what was there and no more."""
        features = self.feature_map.up_to_scale(x)
        if self.options.key_norm == "sum":
            return features / features.sum(-1, keepdim=True).clamp_min(1e-6)
        return features * torch.rsqrt(features.square().sum(-1, keepdim=True) + 1e-6)

    def inputs(self, source: Tensor, mask: Mask, state: MixerState | None) -> tuple[Tensor, ...]:
        return *super().inputs(source, mask, state), self.rate(source).transpose(1, 2)[..., None]

    def readers(self, queries: Tensor) -> Tensor:
        return self.normalized(queries)

    def writers(self, mask: Mask, keys: Tensor, values: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        (rates,) = others
        return mask.keep_values(self.normalized(keys)), values, at_least_float32(rates).sigmoid()

    def scan(self, queries: Tensor, writes: tuple[Tensor, ...], memory: Tensor | None) -> tuple[Tensor, Tensor]:
        keys, values, rates = writes
        y, memory = delta_in_chunks(queries, keys, values, rates, memory)
        assert y is not None
        return y, memory

    def write(self, writes: tuple[Tensor, ...]) -> Tensor:
        keys, values, rates = writes
        return delta_in_chunks(None, keys, values, rates, None)[1]

    def read(self, y: Tensor) -> Tensor:
        return y if self.norm is None else self.norm(y.to(self.norm.weight.dtype))


def delta_in_chunks(
    queries: Tensor | None, keys: Tensor, values: Tensor, rates: Tensor, memory: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """W_i = W_(i-1) + rate_i k_i (v_i - k_i W_(i-1)), read as q_i W_i, and the memory after the last position.

    The corrections u_i = rate_i (v_i - k_i W_(i-1)) of a chunk depend on each other through its keys alone, so they
    solve a unit lower triangular system: (I + tril(diag(rate) K K^T, -1)) U = diag(rate) (V - K W).

    Args:
        queries, keys: [B, H, T, F]; queries may be None, where only the memory is wanted.
        values: [B, H, T, d].
        rates: [B, H, T, 1].
        memory: [B, H, F, d], or None for zeros.
    """
    length, size = keys.shape[2], values.shape[-1]
    memory = no_memory(keys, values) if memory is None else memory
    if length == 1:
        memory = memory + keys.transpose(-1, -2) @ (rates * (values - keys @ memory))
        return None if queries is None else queries @ memory, memory
    keys, values, rates = in_chunks(keys, values, rates)
    weighted = keys * rates
    system = (weighted @ keys.transpose(-1, -2)).tril(-1)
    solved = torch.linalg.solve_triangular(
        system, torch.cat([values * rates, weighted], -1), upper=False, unitriangular=True
    )
    written, erased = solved.split([size, keys.shape[-1]], -1)
    if queries is None:
        for key, new, old in zip(keys.unbind(2), written.unbind(2), erased.unbind(2), strict=True):
            memory = memory + key.transpose(-1, -2) @ (new - old @ memory)
        return None, memory
    (queries,) = in_chunks(queries)
    within = (queries @ keys.transpose(-1, -2)).tril()
    outputs = []
    # `unbind`, for the backward of an index fills a tensor of the whole size for each chunk.
    for query, key, new, old, near in zip(
        *(t.unbind(2) for t in (queries, keys, written, erased, within)), strict=True
    ):
        correction = new - old @ memory
        outputs.append(query @ memory + near @ correction)
        memory = memory + key.transpose(-1, -2) @ correction
    return torch.cat(outputs, 2)[:, :, :length], memory
