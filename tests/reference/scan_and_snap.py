"""One layer of "Scan and Snap" (Tian et al. 2023, section 2) as it is written, over one-hot sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(counts: Tensor, shuffle: torch.Generator) -> Tensor:
    """[M] counts of tokens -> X [T - 1, M], one-hot, in any order."""
    tokens = torch.repeat_interleave(torch.arange(len(counts)), counts.long())
    tokens = tokens[torch.randperm(len(tokens), generator=shuffle)]
    return torch.nn.functional.one_hot(tokens, len(counts)).double()


def logits(y: Tensor, z: Tensor, x: Tensor, last: int) -> Tensor:
    """Y^T X^T b / |X^T b| with b = softmax(X Z[m]), [M]."""
    b = torch.stack([z[last] @ token for token in x]).softmax(0)
    u = torch.zeros(x.shape[1], dtype=x.dtype)
    for share, token in zip(b, x, strict=True):
        u = u + share * token
    return y.T @ (u / u.norm())


def loss(y: Tensor, z: Tensor, sample, shuffle: torch.Generator) -> Tensor:
    """The mean cross-entropy of a sample [B, M] without leading dimensions, sequence by sequence."""
    each = [
        -logits(y, z, one_hot(counts, shuffle), int(last)).log_softmax(0)[following]
        for counts, last, following in zip(sample.counts, sample.last, sample.following, strict=True)
    ]
    return torch.stack(each).mean()


def written_out(y: Tensor, z: Tensor, x: Tensor, last: int, following: int) -> tuple[Tensor, Tensor]:
    """The paper's gradients of one sequence, matrix by matrix: that of Y [M, M], and row m of that of Z [M]."""
    b = (x @ z[last]).softmax(0)
    u = x.T @ b
    f = u / u.norm()
    alpha = (y.T @ f).softmax(0)
    e = torch.nn.functional.one_hot(torch.tensor(following), len(alpha)).double()
    outside = torch.eye(len(f), dtype=torch.float64) - torch.outer(f, f)
    return torch.outer(f, alpha - e), x.T @ torch.diag(b) @ x @ (outside / u.norm()) @ y @ (alpha - e)
