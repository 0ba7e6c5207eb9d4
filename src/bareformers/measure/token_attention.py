"""What kind of token the maps of a causal language model read: those that tell of the next token, or those that do not.

In "Scan and Snap" (Tian et al., NeurIPS 2023, arXiv:2305.16380) a token is distinct if it stands in the contexts of one
next token alone, and common if in those of several. In text nearly all do the latter. Here a token of the context is
distinct for the next token n if it is `LIFT` times as likely in the contexts of n as in contexts at large, and common
otherwise. On the data of the paper, with two next tokens or more, both say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

LIFT = 1.5  # the paper's distinct tokens have as many as there are next tokens, and its common ones 1
PRIOR = 100.0  # tokens of contexts at large that are added to those of each next token: few sightings prove little


@dataclass(frozen=True)
class Contexts:
    """How often tokens stand in the context of which next token; the context of n is all before its last token.

    Attributes:
        following: [W], the ids of the next tokens that were asked for, rising.
        counts: [M, W], how often a token stands in their contexts, over all places where they come next.
        overall: [M], how often it stands in any context.
    """

    following: Tensor
    counts: Tensor
    overall: Tensor

    def distinct(self, tokens: Tensor, following: Tensor) -> Tensor:
        """Which tokens are distinct for which next token, bool; both are ids, of shapes that can be broadcast."""
        columns = torch.searchsorted(self.following, following.contiguous())
        share = (self.overall / self.overall.sum())[tokens]
        # Gathered first: a vocabulary times all next tokens is large.
        inside = self.counts[tokens, columns] + PRIOR * share
        lift = inside / (self.counts.sum(0) + PRIOR)[columns] / torch.where(share > 0, share, 1.0)
        return lift >= LIFT


def contexts(rows: Iterable[Any], following: Tensor, size: int) -> Contexts:
    """Count the contexts in sequences of ids.

    Args:
        rows: each [T], as a tensor or an array.
        following: the ids of the next tokens whose contexts are counted.
        size: M, of the vocabulary.
    """
    asked = following.unique()
    column = torch.full((size,), -1).index_put((asked,), torch.arange(len(asked)))
    counts, overall = torch.zeros(size * len(asked)), torch.zeros(size, dtype=torch.float64)
    for row in rows:
        ids = torch.as_tensor(row).long()
        if len(ids) < 3:
            continue
        overall.index_add_(0, ids[:-2], torch.arange(len(ids) - 2, 0, -1, dtype=torch.float64))
        columns = column[ids[2:]]  # of what comes after the places 1, 2, ...
        earlier = torch.ones(len(columns), len(columns), dtype=torch.bool).tril()
        place, before = (earlier & (columns >= 0)[:, None]).nonzero(as_tuple=True)
        counts.index_add_(0, ids[before] * len(asked) + columns[place], torch.ones(len(place)))
    return Contexts(asked, counts.view(size, len(asked)), overall)


@dataclass(frozen=True)
class LayerReading:
    """What the map of a layer reads, the mean over heads and queries; None where it has negative weights.

    Rows are divided by their sums, so that maps whose rows do not sum to 1 are read as shares too. Queries are all
    places that have a next token and a context. `distinct`, `common` and `own` sum to 1.

    Attributes:
        layer: from 1.
        entropy: of a row, in nats.
        distinct_entropy: of a row over the distinct tokens alone, where there are any.
        distinct: on distinct tokens of the context.
        common: on the others.
        own: on the query's own place, which holds the last token.
        even: what would be on distinct tokens, were all places read alike.
    """

    layer: int
    entropy: float | None
    distinct_entropy: float | None
    distinct: float | None
    common: float | None
    own: float | None
    even: float

    def row(self) -> dict[str, Any]:
        """As JSON: six significant digits, and None for what is no finite number."""
        return {name: _short(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def next_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """The ids that come next anywhere in a batch, rising."""
    return batch["input_ids"][:, 1:].unique()


@torch.no_grad()
def reading(model: Any, batch: Mapping[str, Tensor], known: Contexts) -> list[LayerReading]:
    """What each layer of a causal language model reads; layers without a map are left out.

    Args:
        model: any of `transformers` that takes `output_attentions`. It is measured in evaluation mode.
        batch: `input_ids` [B, T], and `attention_mask` where there is padding.
        known: the contexts of the `next_tokens` of the batch.
    """
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask") if name in batch}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        out = model(**inputs, output_attentions=True, use_cache=False)
    finally:
        for module, mode in modes.items():
            module.training = mode
    ids = batch["input_ids"].cpu()
    real = batch["attention_mask"].cpu().bool() if "attention_mask" in batch else torch.ones_like(ids, dtype=torch.bool)
    context = (real[:, :, None] & real[:, None, :]).tril(-1)  # [B, T, T]
    asks = context.any(-1)
    asks[:, :-1] &= real[:, 1:]
    asks[:, -1] = False
    distinct = torch.zeros_like(context)
    distinct[:, :-1] = known.distinct(ids[:, None, :], ids[:, 1:, None]) & context[:, :-1]
    even = distinct.sum(-1) / (context.sum(-1) + 1)
    found = []
    for layer, weights in enumerate(getattr(out, "attentions", None) or (), 1):
        if weights is not None:
            shares = weights.detach().double().cpu().expand(len(ids), *weights.shape[1:])
            found.append(_reading(layer, shares, context, distinct, asks, float(even[asks].mean())))
    return found


def _reading(layer: int, weights: Tensor, context: Tensor, distinct: Tensor, asks: Tensor, even: float) -> LayerReading:
    """Of the weights [B, H, T, T] of one layer; the masks are [B, T, T] and [B, T]."""
    sums = weights.sum(-1, keepdim=True)
    counted = asks[:, None] & (sums[..., 0] > 0)
    if bool((weights < 0).any()) or not bool(counted.any()):
        return LayerReading(layer, None, None, None, None, None, even)
    shares = weights / torch.where(sums > 0, sums, 1.0)
    told = torch.where(distinct[:, None], shares, 0.0)
    mass = told.sum(-1)
    of_told = torch.special.entr(told / torch.where(mass > 0, mass, 1.0)[..., None]).sum(-1)
    some = counted & (mass > 0)
    common = torch.where((context & ~distinct)[:, None], shares, 0.0).sum(-1)
    own = shares.diagonal(dim1=-2, dim2=-1)
    return LayerReading(
        layer,
        entropy=float(torch.special.entr(shares).sum(-1)[counted].mean()),
        distinct_entropy=float(of_told[some].mean()) if bool(some.any()) else None,
        distinct=float(mass[counted].mean()),
        common=float(common[counted].mean()),
        own=float(own[counted].mean()),
        even=even,
    )
