"""Words to be said again, which nothing but the order of positions helps with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bareformers.data.corpus import WordSequence
from bareformers.data.synthetic import Synthetic, at_least, names
from bareformers.registry import source

MIDDLE = "|"  # behind the words to be remembered


@source("copy")
@dataclass
class Copy(Synthetic):
    """Words to be said again: s3 s1 s4 | s3 s1 s4."""

    length: int = 16  # words to be remembered
    symbols: int = 32  # different words; they are drawn with replacement

    def check(self) -> None:
        at_least(self, length=1, symbols=2)

    def vocabulary(self) -> tuple[str, ...]:
        return (*names("s", self.symbols), MIDDLE)

    def again(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """What is to be said of `words`."""
        return words

    def draw(self, random: np.random.Generator) -> WordSequence:
        symbols = names("s", self.symbols)
        words = tuple(symbols[index] for index in random.integers(self.symbols, size=self.length).tolist())
        return WordSequence((*words, MIDDLE, *self.again(words)), tuple(range(self.length + 1, 2 * self.length + 1)))


@source("reverse")
@dataclass
class Reverse(Copy):
    """Words to be said again from the last to the first: s3 s1 s4 | s4 s1 s3."""

    def again(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return words[::-1]
