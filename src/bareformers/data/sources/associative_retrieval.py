"""How much a memory holds (Schlag, Irie & Schmidhuber, ICML 2021, arXiv:2102.11174, section 6.1), on tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bareformers.data.corpus import WordSequence
from bareformers.data.synthetic import QUERY, Synthetic, at_least, names, recall
from bareformers.errors import InputError
from bareformers.registry import source


@source("associative_retrieval")
@dataclass
class AssociativeRetrieval(Synthetic):
    """Keys with values, then a key whose value is asked for: k3 v7 k1 v2 ? k3 v7.

    With `keys: unique`, the paper's first setting, no key comes twice. With `keys: repeated`, its second, keys are
    drawn with replacement, and the value that a key had last is the right one. Evaluation is as long as training; the
    authors' program evaluates the second setting on half the pairs.
    """

    keys: Literal["unique", "repeated"] = "unique"
    pairs: int = 20
    key_symbols: int | None = None  # different keys; null for as many as pairs, or half as many where they repeat
    value_symbols: int | None = None  # different values, drawn with replacement; null for as many as keys
    queries: int = 1  # more of them give more to learn from a sequence; none asks again while other keys are left

    @property
    def num_keys(self) -> int:
        return self.key_symbols or (self.pairs if self.keys == "unique" else (self.pairs + 1) // 2)

    @property
    def num_values(self) -> int:
        return self.value_symbols or max(2, self.num_keys)

    def check(self) -> None:
        at_least(self, pairs=1, key_symbols=1, value_symbols=2, queries=1)
        if self.keys == "unique" and self.num_keys < self.pairs:
            raise InputError(
                f"associative_retrieval: {self.pairs} unique keys cannot come from {self.num_keys} symbols; "
                f"write key_symbols: {self.pairs} or more, or keys: repeated"
            )
        if self.queries > (most := min(self.num_keys, self.pairs)):
            raise InputError(
                f"associative_retrieval: {self.queries} queries are more than the {most} keys that a sequence can "
                f"have; write queries: {most} or less"
            )

    def vocabulary(self) -> tuple[str, ...]:
        return (*names("k", self.num_keys), *names("v", self.num_values), QUERY)

    def draw(self, random: np.random.Generator) -> WordSequence:
        keys, values = names("k", self.num_keys), names("v", self.num_values)
        if self.keys == "unique":
            written = random.permutation(self.num_keys)[: self.pairs]
        else:
            written = random.integers(self.num_keys, size=self.pairs)
        stored = random.integers(self.num_values, size=self.pairs)
        pairs = [(keys[key], values[value]) for key, value in zip(written.tolist(), stored.tolist(), strict=True)]
        asked = np.resize(random.permutation(list(dict.fromkeys(written.tolist()))), self.queries)
        return recall(pairs, [keys[key] for key in asked.tolist()])
