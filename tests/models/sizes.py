"""Small models for tests that look at the models and not at a mixer."""

from __future__ import annotations

from typing import Any

import torch

from bareformers.models import BareConfig

SMALL = dict(
    vocab_size=23,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=24,
    dropout=0.0,
)


def small(**given: Any) -> BareConfig:
    """A config of a few thousand parameters."""
    return BareConfig(**{**SMALL, **given})


def build(cls: type, **given: Any) -> Any:
    """A seeded model in evaluation mode."""
    torch.manual_seed(0)
    return cls(small(**given)).eval()


def tokens(rows: int = 3, length: int = 8, seed: int = 0) -> torch.Tensor:
    """[rows, length] token ids, none of them special."""
    return torch.randint(3, 23, (rows, length), generator=torch.Generator().manual_seed(seed))


def right_padded(length: int, *real: int) -> torch.Tensor:
    """A mask with that many ones in each row, and zeros behind."""
    return (torch.arange(length) < torch.tensor(real)[:, None]).long()
