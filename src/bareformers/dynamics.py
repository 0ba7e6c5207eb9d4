"""One layer without positions, in the variables of "Scan and Snap" (Tian et al., NeurIPS 2023, arXiv:2305.16380).

A sequence is a context of T - 1 tokens and a last token m, which asks and is not read; n follows it. Attention is
b = softmax over the context of Z[m, x_t], its outcome f = X^T b / |X^T b| has unit length, and the logits of the next
token are Y^T f. Y and Z, both [M, M] over the vocabulary, stand for all weight matrices multiplied out.

Without positions only the counts of the tokens matter: X^T b is w = counts * exp(Z[m]) divided by its sum, which the
length takes out again, so that f = w / |w|. No one-hot sequence [T, M] is ever made. All is in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bareformers.errors import InputError

RAREST = 0.1  # distinct token, as a share of the most frequent one
POINTS = 200  # in time, at the most
LARGEST = 2**28  # numbers at once, 2 GB


@dataclass(frozen=True)
class Language:
    """What tokens there are, and how often each stands in the context of each next token.

    Ids go from common tokens over distinct ones, as many for each next token, and last tokens to next tokens. A context
    draws its tokens independently: common ones are all equally likely, distinct ones from `RAREST` of that up to all.

    Attributes:
        classes: next tokens of each last token.
        last_tokens: how many there are.
        common: tokens in the contexts of all next tokens.
        distinct: tokens in the contexts of one next token alone, for each.
    """

    classes: int = 2
    last_tokens: int = 1
    common: int = 10
    distinct: int = 10

    @property
    def num_next(self) -> int:
        """N, over all last tokens."""
        return self.classes * self.last_tokens

    @property
    def num_context(self) -> int:
        """Common and distinct tokens."""
        return self.common + self.distinct * self.num_next

    @property
    def size(self) -> int:
        """M, the size of the vocabulary."""
        return self.num_context + self.last_tokens + self.num_next

    @cached_property
    def next_ids(self) -> Tensor:
        """[N], the ids of the next tokens."""
        return torch.arange(self.size - self.num_next, self.size)

    @cached_property
    def last_ids(self) -> Tensor:
        """[N], the last token that each next token follows."""
        return self.num_context + torch.arange(self.num_next) // self.classes

    @cached_property
    def distinct_of(self) -> Tensor:
        """[N, M] bool, which tokens are distinct ones of each next token."""
        owner = (torch.arange(self.size) - self.common).div(self.distinct, rounding_mode="floor")
        return (owner == torch.arange(self.num_next)[:, None]) & (torch.arange(self.size) < self.num_context)

    @cached_property
    def probabilities(self) -> Tensor:
        """[N, M], P(l | n): how likely a token of the context of n is l."""
        weights = torch.zeros(self.num_next, self.size, dtype=torch.float64)
        weights[:, : self.common] = 1.0
        # From the most frequent down, so that a single distinct token is as frequent as a common one.
        shares = torch.linspace(1.0, RAREST, self.distinct, dtype=torch.float64)
        weights[self.distinct_of] = shares.repeat(self.num_next)
        return weights / weights.sum(1, keepdim=True)


@dataclass(frozen=True)
class Sample:
    """Sequences, as counts of the tokens of their contexts; with any leading dimensions.

    Attributes:
        counts: [..., B, M], float64.
        last: [..., B], the ids of last tokens.
        following: [..., B], the ids of next tokens.
    """

    counts: Tensor
    last: Tensor
    following: Tensor


def draw(language: Language, randoms: Sequence[np.random.Generator], batch: int, length: int) -> Sample:
    """`batch` sequences of `length` tokens, the last one included, from each source of randomness: [R, B, M].

    All next tokens are equally likely.
    """
    probabilities = language.probabilities.numpy()
    chosen = np.stack([random.integers(language.num_next, size=batch) for random in randoms])
    counts = np.stack(
        [random.multinomial(length - 1, probabilities[row]) for random, row in zip(randoms, chosen, strict=True)]
    )
    return Sample(torch.from_numpy(counts).double(), language.last_ids[chosen], language.next_ids[chosen])


def forward(y: Tensor, z: Tensor, sample: Sample) -> tuple[Tensor, Tensor]:
    """What comes of a sample: f [..., B, M], and the logarithms of the predictions [..., B, M].

    Args:
        y, z: [..., M, M], with the leading dimensions of the sample and perhaps more before them.
    """
    w = weighted(sample.counts, z.gather(-2, rows(sample.last, z)))
    f = w / w.norm(dim=-1, keepdim=True)
    return f, (f @ y).log_softmax(-1)


def weighted(often: Tensor, z: Tensor) -> Tensor:
    """`often` * exp(`z`), both [..., M], but for a factor that makes no number too large, and not all of them 0.

    That factor is of the tokens that there are: those that are absent have any z, also one that is far higher.
    """
    there = torch.where(often > 0, z, -torch.inf)
    return often * (there - there.amax(-1, keepdim=True)).exp()


def rows(index: Tensor, like: Tensor) -> Tensor:
    """Numbers of rows [..., B] as an index into `like` [..., M, M] that takes whole rows: [..., B, M]."""
    return index[..., None].expand(*like.shape[:-2], index.shape[-1], like.shape[-1])


def loss(logs: Tensor, sample: Sample) -> Tensor:
    """The mean cross-entropy of the next tokens in nats, [...], from the logarithms of the predictions."""
    following = sample.following.expand(logs.shape[:-1])[..., None]
    return -logs.gather(-1, following)[..., 0].mean(-1)


def gradients(y: Tensor, z: Tensor, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its gradients with respect to Y and Z in closed form.

    That of Y is f (alpha - e_n)^T with the predictions alpha. Row m of that of Z is
    X^T diag(b) X (P / |X^T b|) Y (alpha - e_n), where P takes out the part along f. Both are means over the batch.
    """
    f, logs = forward(y, z, sample)
    error = logs.exp()
    following = sample.following.expand(error.shape[:-1])[..., None]
    error.scatter_add_(-1, following, torch.full_like(error[..., :1], -1.0))
    error /= error.shape[-2]
    pulled = error @ y.mT
    pulled -= f * (f * pulled).sum(-1, keepdim=True)
    pulled *= f  # X^T diag(b) X is diag(X^T b), which divided by |X^T b| is diag(f)
    return loss(logs, sample), f.mT @ error, torch.zeros_like(z).scatter_add_(-2, rows(sample.last, z), pulled)


def attention(language: Language, z: Tensor) -> Tensor:
    """c_{l|n} [..., N, M] of an endless context: P(l | n) exp(Z[m, l]) for the last token m of n, over its sum."""
    weights = weighted(language.probabilities, z[..., language.last_ids, :])
    return weights / weights.sum(-1, keepdim=True)


def entropy(shares: Tensor) -> Tensor:
    """The entropy in nats of what is in proportion to `shares` [..., M]; of zeros alone 0."""
    total = shares.sum(-1, keepdim=True)
    return torch.special.entr(shares / torch.where(total > 0, total, 1.0)).sum(-1)


def statistics(language: Language, c: Tensor) -> dict[str, Tensor]:
    """What there is to say of c [..., N, M], each [..., N]: a number for every next token.

    `common` and `distinct` are the attention on such tokens, `largest` is that on one token at the most, `entropy` is
    over all tokens, and `distinct_entropy` over the distinct ones of n alone: the lower, the fewer of them are read.
    """
    distinct = torch.where(language.distinct_of, c, 0.0)
    return {
        "common": c[..., : language.common].sum(-1),
        "distinct": distinct.sum(-1),
        "largest": c.amax(-1),
        "entropy": entropy(c),
        "distinct_entropy": entropy(distinct),
    }


@dataclass(frozen=True)
class Rates:
    """The learning rate of Z, and that of Y as a multiple of it."""

    z: float
    ratio: float


@dataclass(frozen=True)
class Descent:
    """How Y and Z learn, by gradient descent with momentum.

    Attributes:
        length: tokens of a sequence, with the last one.
        batch: new sequences for each iteration.
        initial: the standard deviation of the numbers that Y and Z begin with, uniform around 0.
    """

    length: int = 128
    batch: int = 128
    iterations: int = 100
    momentum: float = 0.9
    initial: float = 0.0


@dataclass(frozen=True)
class Course:
    """What happened over time.

    Attributes:
        times: [P], iterations done.
        found: `loss`, of new sequences, and all of `statistics`, means over the next tokens; each [P, rates, seeds].
    """

    times: list[int]
    found: dict[str, Tensor]


def learn(language: Language, descent: Descent, rates: Sequence[Rates], seeds: Sequence[int]) -> Course:
    """Let all `rates` learn with all `seeds`; a seed gives all rates the same start and the same sequences.

    All seeds are computed at once, and each as if it were alone.
    """
    size, runs = language.size, len(rates) * len(seeds)
    numbers = 4 * runs * size**2 + 8 * len(seeds) * size * (descent.batch + size)
    if numbers > LARGEST:
        raise InputError(
            f"{runs} runs with {size:,} tokens and batches of {descent.batch:,} take {8 * numbers / 1e9:,.0f} GB, and "
            f"{8 * LARGEST / 1e9:.0f} GB is the most: write fewer seeds, ratios or last_tokens, or a smaller batch"
        )
    randoms = [np.random.default_rng(seed) for seed in seeds]
    begun = np.stack([random.uniform(-1.0, 1.0, (2, size, size)) for random in randoms], axis=1)
    start_y, start_z = torch.from_numpy(begun * 3**0.5 * descent.initial)  # each [seeds, M, M]
    learners = [_Learner(each, descent.momentum, start_y.clone(), start_z.clone()) for each in rates]
    points = np.linspace(0, descent.iterations, min(descent.iterations, POINTS) + 1).round().astype(int).tolist()
    times = sorted(set(points))
    found: list[dict[str, Tensor]] = []
    for iteration in range(descent.iterations + 1):
        sample = draw(language, randoms, descent.batch, descent.length)
        shown = [learner.told(language) if iteration in times else {} for learner in learners]
        for learner, told in zip(learners, shown, strict=True):
            told["loss"] = learner.step(sample)
        if iteration in times:
            found.append({name: torch.stack([told[name] for told in shown]) for name in shown[0]})
    return Course(times, {name: torch.stack([point[name] for point in found]) for name in found[0]})


@dataclass
class _Learner:
    """Y and Z of all seeds, [seeds, M, M], that learn at the same rates."""

    rates: Rates
    momentum: float
    y: Tensor
    z: Tensor

    def __post_init__(self) -> None:
        self.speed_y, self.speed_z = torch.zeros_like(self.y), torch.zeros_like(self.z)

    def told(self, language: Language) -> dict[str, Tensor]:
        """The statistics as they are now, the means over the next tokens: each [seeds]."""
        return {name: value.mean(-1) for name, value in statistics(language, attention(language, self.z)).items()}

    def step(self, sample: Sample) -> Tensor:
        """Learn from a sample; returns the loss before, [seeds]."""
        before, down_y, down_z = gradients(self.y, self.z, sample)
        self.speed_y.mul_(self.momentum).add_(down_y)
        self.speed_z.mul_(self.momentum).add_(down_z)
        self.y -= self.rates.z * self.rates.ratio * self.speed_y
        self.z -= self.rates.z * self.speed_z
        return before
