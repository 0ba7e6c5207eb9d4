"""Multi-query associative recall (Arora et al., Zoology, ICLR 2024, arXiv:2312.04927)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bareformers.data.corpus import WordSequence
from bareformers.data.synthetic import Synthetic, at_least, names
from bareformers.errors import InputError
from bareformers.registry import source


@source("multi_query_recall")
@dataclass
class MultiQueryRecall(Synthetic):
    """Keys with values, then every key once more at a random distance, its value to follow: k3 v7 k1 v2 n4 k1 v2 k3 v7.

    The distances follow a power law, so that most keys come again soon and some late, and noise fills the rest. Nothing
    announces a query.
    """

    pairs: int = 8
    length: int = 64  # words of a sequence, of which the pairs and their queries take four a pair
    power: float = 0.01  # the n-th place is drawn with n^(power - 1); 1 makes all places alike
    key_symbols: int | None = None  # different keys; null for twice as many as pairs
    value_symbols: int | None = None  # different values, drawn with replacement; null for twice as many as pairs
    noise_symbols: int = 16  # different words of noise

    @property
    def num_keys(self) -> int:
        return self.key_symbols or 2 * self.pairs

    @property
    def num_values(self) -> int:
        return self.value_symbols or 2 * self.pairs

    def check(self) -> None:
        at_least(self, pairs=1, key_symbols=1, value_symbols=2, noise_symbols=1)
        if self.num_keys < self.pairs:
            raise InputError(
                f"multi_query_recall: {self.pairs} different keys cannot come from {self.num_keys} symbols; "
                f"write key_symbols: {self.pairs} or more"
            )
        if self.length < 4 * self.pairs:
            raise InputError(
                f"multi_query_recall: {self.pairs} pairs and their queries take {4 * self.pairs} words, and length is "
                f"{self.length}; write length: {4 * self.pairs} or more, or fewer pairs"
            )
        if self.power <= 0:
            raise InputError(f"multi_query_recall: power is {self.power}; write a number above 0, such as 0.01")

    def vocabulary(self) -> tuple[str, ...]:
        return (*names("k", self.num_keys), *names("v", self.num_values), *names("n", self.noise_symbols))

    def draw(self, random: np.random.Generator) -> WordSequence:
        keys, values = names("k", self.num_keys), names("v", self.num_values)
        noise = names("n", self.noise_symbols)
        written = random.permutation(self.num_keys)[: self.pairs].tolist()
        stored = random.integers(self.num_values, size=self.pairs).tolist()
        pairs = [(keys[key], values[value]) for key, value in zip(written, stored, strict=True)]
        words = [word for pair in pairs for word in pair]
        start = len(words)
        words += [noise[index] for index in random.integers(self.noise_symbols, size=self.length - start).tolist()]
        # Places of two words, of which each pair draws one. A race in which the n-th runs at speed n^(power - 1) is won
        # as if places were drawn with these chances one after the other, none twice.
        speeds = np.arange(1.0, (self.length - start) // 2 + 1) ** (self.power - 1)
        places = (random.exponential(size=len(speeds)) / speeds).argsort()[: self.pairs]
        positions = (start + 2 * places).tolist()
        for position, pair in zip(positions, pairs, strict=True):
            words[position : position + 2] = pair
        return WordSequence(tuple(words), tuple(sorted(position + 1 for position in positions)))
