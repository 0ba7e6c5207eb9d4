"""Which examples go into which batch: a plan for a whole budget, equal for every variant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from bareformers.errors import InputError

Indices = NDArray[np.int64]
Number = TypeVar("Number", int, float)

NOISE = 1.0  # tokens; on Multi30k, 5.4 % of a batch of 4,096 tokens is padding, against 5.0 % without


class Visit(int):
    """The index of an example that a plan draws: an integer that knows when, for examples that change with the epoch.

    Attributes:
        seed, epoch: of the plan.
    """

    seed: int
    epoch: int

    def __new__(cls, index: int, seed: int = 0, epoch: int = 0) -> Visit:
        visit = super().__new__(cls, index)
        visit.seed, visit.epoch = seed, epoch
        return visit


@dataclass(frozen=True)
class Sampling:
    """How often an epoch visits the examples of each of several members.

    Each member's examples are read pass by pass, every pass in an order of its own, and an epoch takes up where the one
    before it left off: whatever the share of a member, all its examples come equally often in the long run.

    Attributes:
        sizes: how many examples each member has; they stand one after the other.
        visits: how many of them an epoch takes.
    """

    sizes: tuple[int, ...]
    visits: tuple[int, ...]

    @classmethod
    def by_temperature(cls, sizes: Sequence[int], temperature: float) -> Sampling:
        """As many visits as there are examples, of each member in proportion to its size ** (1 / temperature)."""
        logarithms = np.log(sizes) / temperature
        shares = np.exp(logarithms - logarithms.max())
        ends = np.rint(np.cumsum(shares) / shares.sum() * sum(sizes)).astype(int)
        return cls(tuple(sizes), tuple(np.diff(ends, prepend=0).tolist()))

    def __call__(self, seed: int, epoch: int) -> Indices:
        """The indices that an epoch visits."""
        found, first = [], 0
        for member, (size, visits) in enumerate(zip(self.sizes, self.visits, strict=True)):
            start, stop = epoch * visits, (epoch + 1) * visits
            passes = range(start // size, -(-stop // size))
            orders = [np.random.default_rng([seed, member, each]).permutation(size) for each in passes]
            if orders:
                offset = passes.start * size
                found.append(first + np.concatenate(orders)[start - offset : stop - offset])
            first += size
        return np.concatenate(found)


class BatchPlan(Sampler[list[int]]):
    """The training batches in order, as lists of example indices, each a `Visit`.

    In every epoch each example comes once, or as often as `sampling` says. Batches hold examples of similar length, and
    their order is random. `rows * longest side <= batch_tokens` holds for every batch, but that an example longer than
    `batch_tokens` makes one alone. Equal arguments give equal plans on every machine, and a longer budget only adds
    batches.

    Args:
        lengths: the longer side of each example, [examples].
        label_tokens: tokens that each example predicts, [examples].
        batch_tokens: bound for rows times longest side.
        seed: of the order.
        steps: stop after so many batches; or
        tokens: stop with the batch that reaches so many predicted tokens; or
        epochs: stop with the batch that completes so many passes, which may be a fraction. At most one of the three;
            with none of them the plan has no end.
        sampling: which examples an epoch visits; by default all.

    Attributes:
        tokens: predicted tokens of the whole plan; None where it has no end.
        epochs: passes over the examples that the plan makes, fractional; None where it has no end.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        label_tokens: ArrayLike,
        batch_tokens: int,
        seed: int,
        *,
        steps: int | None = None,
        tokens: int | None = None,
        epochs: float | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self._lengths, self._label_tokens = np.asarray(lengths, np.int64), np.asarray(label_tokens, np.int64)
        if not self._label_tokens.sum():
            raise InputError("there are no examples with tokens to predict")
        self._batch_tokens = _positive("batch_tokens", batch_tokens)
        self._seed, self._sampling = seed, sampling
        self._steps: int | None = None
        self.tokens: int | None = None
        self.epochs: float | None = None
        budgets: dict[str, float | None] = {"steps": steps, "tokens": tokens, "epochs": epochs}
        given = {name: _positive(name, value) for name, value in budgets.items() if value is not None}
        if len(given) > 1:
            raise InputError(f"a plan has one budget, not {' and '.join(given)}: write one of them")
        for name, budget in given.items():
            self._steps, self.tokens, self.epochs = self._spend(name, budget)

    def __len__(self) -> int:
        """The number of batches; a `TypeError` where the plan has no end."""
        if self._steps is None:
            raise TypeError("a plan without steps, tokens or epochs has no length")
        return self._steps

    @cached_property
    def batches_per_epoch(self) -> int:
        """Without `sampling` the same in every epoch, for which examples share a batch follows from their lengths."""
        return len(self._epoch(0)[1])

    def __iter__(self) -> Iterator[list[int]]:
        left = self._steps
        for epoch in count():
            order, starts = self._epoch(epoch)
            stops = [*starts[1:].tolist(), len(order)]
            for start, stop in zip(starts.tolist(), stops, strict=True):
                if left is not None and (left := left - 1) < 0:
                    return
                yield [Visit(index, self._seed, epoch) for index in order[start:stop].tolist()]

    def _epoch(self, epoch: int) -> tuple[Indices, Indices]:
        """The examples of this epoch in their order, and where its batches start."""
        random = np.random.default_rng([self._seed, epoch])
        lengths, label_tokens = self._lengths, self._label_tokens
        visited = None if self._sampling is None else self._sampling(self._seed, epoch)
        if visited is not None:
            lengths, label_tokens = lengths[visited], label_tokens[visited]
        order, starts = _similar(lengths, label_tokens, self._batch_tokens, random)
        order = order if visited is None else visited[order]
        turn = random.permutation(len(starts))
        rows = np.diff(starts, append=len(order))[turn]
        moved = np.cumsum(rows) - rows
        return order[np.arange(len(order)) + np.repeat(starts[turn] - moved, rows)], moved

    def _spend(self, name: str, budget: float) -> tuple[int, int, float]:
        """Steps, predicted tokens and epochs of the plan that a budget buys."""
        steps = tokens = 0
        for epoch in count():
            order, starts = self._epoch(epoch)
            rows = np.diff(starts, append=len(order))
            ends = {
                "steps": steps + np.arange(1, len(starts) + 1),
                "tokens": tokens + np.cumsum(np.add.reduceat(self._label_tokens[order], starts)),
                "epochs": epoch + np.cumsum(rows) / len(order),
            }
            last = int(np.searchsorted(ends[name], budget))
            if last < len(starts):
                return int(ends["steps"][last]), int(ends["tokens"][last]), float(ends["epochs"][last])
            steps, tokens = int(ends["steps"][-1]), int(ends["tokens"][-1])
        raise AssertionError("epochs do not end")


def evaluation_batches(lengths: ArrayLike, batch_tokens: int) -> list[list[int]]:
    """Batches that hold each example once, the longest first, so that what does not fit in memory fails at once.

    Args:
        lengths: the longer side of each example, [examples].
        batch_tokens: bound for rows times longest side; an example beyond it makes a batch alone.
    """
    sizes = np.asarray(lengths, np.int64)
    order, starts = _similar(sizes, sizes, _positive("batch_tokens", batch_tokens))
    return [batch.tolist() for batch in np.split(order, starts[1:])] if len(order) else []


def _similar(
    lengths: Indices,
    label_tokens: Indices,
    batch_tokens: int,
    random: np.random.Generator | None = None,
) -> tuple[Indices, Indices]:
    """All examples, the longest first, and where batches of neighbours start.

    Examples of one length stand in the order of their label tokens, so that little is padded on either side; some
    noise on these lets other examples meet in every epoch, and shuffles where all are equal.
    """
    noise = random.uniform(-NOISE, NOISE, len(lengths)) if random else 0.0
    order = np.lexsort((label_tokens + noise, lengths))[::-1]
    longest = lengths[order].tolist()
    starts, start = [], 0
    while start < len(longest):
        starts.append(start)
        start += max(1, batch_tokens // max(longest[start], 1))
    return order, np.asarray(starts, np.int64)


def _positive(name: str, value: Number) -> Number:
    if isinstance(value, bool) or not value > 0:
        raise InputError(f"{name} must be above zero, not {value!r}")
    return value
