"""Where a token stands, as a vector, as a rotation, and as a distance to others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bareformers.mixers.masks import is_open

BASE = 10000.0


def sinusoids(positions: Tensor, hidden_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5), sines in the first half and cosines in the second.

    Computed from the positions at hand, so there is no table to outgrow or to lose in a checkpoint.

    Args:
        positions: [.., T] integers; signed distances too.
        hidden_size: D, even.

    Returns:
        [.., T, D] in `dtype`.
    """
    turned = angles(positions, hidden_size)
    return torch.cat([turned.sin(), turned.cos()], -1).to(dtype)


def angles(positions: Tensor, size: int, base: float = BASE) -> Tensor:
    """[.., T, size / 2]: `position * base^(-2m/size)`, in float64, for float32 is off by 1e-3 at 10,000 radians."""
    even = torch.arange(0, size, 2, dtype=torch.float64, device=positions.device)
    return positions.unsqueeze(-1) * torch.exp(even * (-math.log(base) / size))


def rotate(x: Tensor, positions: Tensor, base: float = BASE) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), so that products depend on distances only.

    Entries m and m + d/2 are turned together by `position * base^(-2m/d)`.

    Args:
        x: [B, H, T, d], d even.
        positions: [B or 1, T] integers.
    """
    turned = angles(positions, x.shape[-1], base)[:, None]
    cosine, sine = turned.cos().to(x.dtype), turned.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def reach(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """The offsets key - query that a self map holds, ascending: [T + S], where queries are the last T of S positions.

    Entry `j + T - 1 - t` belongs to query t and key j; see `spread` and `shift`. Padding stands outside of the tokens
    and so changes no offset between them.
    """
    return torch.arange(num_queries + num_keys, device=device) - (num_keys - 1)


def spread(by_offset: Tensor, num_keys: int) -> Tensor:
    """One number for each of the offsets of `reach`, [.., T + S], as a map [.., T, S] with constant diagonals."""
    if is_open(num_keys):  # `unfold` takes a number only
        length = by_offset.shape[-1] - num_keys
        return shift(by_offset.unsqueeze(-2).expand(*by_offset.shape[:-1], length, -1), num_keys)
    return by_offset[..., :-1].unfold(-1, num_keys, 1).flip(-2)


def shift(by_offset: Tensor, num_keys: int) -> Tensor:
    """For each query its own numbers for the offsets of `reach`, [.., T, T + S], as a map [.., T, S]."""
    length, width = by_offset.shape[-2:]
    flat = by_offset.flatten(-2)[..., length - 1 : length - 1 + length * (width - 1)]
    return flat.unflatten(-1, (length, width - 1))[..., :num_keys]
