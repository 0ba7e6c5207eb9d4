"""Where a token stands, as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoids(positions: Tensor, hidden_size: int) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5), sines in the first half and cosines in the second.

    Computed from the positions at hand, so there is no table to outgrow or to lose in a checkpoint.

    Args:
        positions: [.., T] integers.
        hidden_size: D, even.

    Returns:
        [.., T, D] float32.
    """
    even = torch.arange(0, hidden_size, 2, dtype=torch.float32, device=positions.device)
    angles = positions.unsqueeze(-1).float() * torch.exp(even * (-math.log(10000.0) / hidden_size))
    return torch.cat([angles.sin(), angles.cos()], -1)
