"""Whether a memory forgets what no longer holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bareformers.data.corpus import WordSequence
from bareformers.data.synthetic import QUERY, Synthetic, at_least, names, recall
from bareformers.errors import InputError
from bareformers.registry import source


@source("overwriting")
@dataclass
class Overwriting(Synthetic):
    """Keys that get value after value, then a key whose last one is asked for: k3 v7 k1 v2 k3 v5 ? k3 v5.

    Every key is written equally often, in an order drawn at random, and each time with another value than before. A
    memory that only adds cannot tell which value came last.
    """

    key_symbols: int = 10  # keys, all of which come in every sequence
    writes: int = 2  # of each key
    value_symbols: int | None = None  # different values; null for as many as keys
    queries: int = 1  # different keys that are asked for

    @property
    def num_values(self) -> int:
        return self.value_symbols or max(2, self.key_symbols)

    def check(self) -> None:
        at_least(self, key_symbols=1, writes=1, value_symbols=2, queries=1)
        if self.queries > self.key_symbols:
            raise InputError(
                f"overwriting: {self.queries} queries are more than the {self.key_symbols} keys; "
                f"write queries: {self.key_symbols} or less"
            )

    def vocabulary(self) -> tuple[str, ...]:
        return (*names("k", self.key_symbols), *names("v", self.num_values), QUERY)

    def draw(self, random: np.random.Generator) -> WordSequence:
        keys, values = names("k", self.key_symbols), names("v", self.num_values)
        order = random.permutation(np.repeat(np.arange(self.key_symbols), self.writes))
        # Never 0 further round the circle of values, so that each write brings another.
        steps = random.integers(1, self.num_values, size=len(order))
        current = random.integers(self.num_values, size=self.key_symbols).tolist()
        pairs = []
        for key, step in zip(order.tolist(), steps.tolist(), strict=True):
            current[key] = (current[key] + step) % self.num_values
            pairs.append((keys[key], values[current[key]]))
        asked = random.permutation(self.key_symbols)[: self.queries]
        return recall(pairs, [keys[key] for key in asked.tolist()])
