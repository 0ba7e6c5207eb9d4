"""What the sources of made-up sequences share: sides from random streams of their own, names, pairs with queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bareformers.data.corpus import PARTS, Corpus, WordSequence
from bareformers.errors import InputError

QUERY = "?"  # stands before a key whose value is asked for


@dataclass
class Synthetic:
    """A source that draws its sequences; a subclass says how one comes about, and all are of one length.

    Each side has a random stream of its own, so that it stays what it is when another grows.
    """

    train: int = 20_000  # sequences
    validation: int = 500
    test: int = 1_000
    seed: int = 0  # of the sequences, the same for all seeds of a recipe

    def check(self) -> None:
        """Raise an `InputError` where the options of the subclass do not go together."""
        raise NotImplementedError

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that can occur."""
        raise NotImplementedError

    def draw(self, random: np.random.Generator) -> WordSequence:
        """One sequence."""
        raise NotImplementedError

    def load(self) -> Corpus:
        at_least(self, train=1, validation=1, test=0, seed=0)
        self.check()
        sizes = dict(zip(PARTS, (self.train, self.validation, self.test), strict=True))
        sides = {part: self._side(number, size) for number, (part, size) in enumerate(sizes.items())}
        train, validation, test = sides.values()
        listed = ", ".join(f"{size:,} {part}" for part, size in sizes.items())
        notes = [f"Drew {listed} sequences of {len(train[0].words)} words with seed {self.seed}."]
        seen = set(train)
        for part in PARTS[1:]:
            if repeated := sum(sequence in seen for sequence in sides[part]):
                notes.append(f"Of {sizes[part]:,} {part} sequences, {repeated:,} also stand in the training side.")
        return Corpus("sequences", train, validation, test, tuple(notes), vocabulary=self.vocabulary())

    def _side(self, number: int, size: int) -> tuple[WordSequence, ...]:
        random = np.random.default_rng([self.seed, number])
        return tuple(self.draw(random) for _ in range(size))


@cache
def names(letter: str, count: int) -> tuple[str, ...]:
    """`k0`, `k1`, ...: the same strings at every call, since a side holds millions of them."""
    return tuple(f"{letter}{number}" for number in range(count))


def at_least(source: Any, **least: int) -> None:
    """An `InputError` for the first of these options of `source` that is given and below its least value."""
    for name, value in least.items():
        given = getattr(source, name)
        if given is not None and given < value:
            raise InputError(f"{source.name}: {name} is {given}; write {value} or more")


def recall(pairs: Sequence[tuple[str, str]], queries: Sequence[str]) -> WordSequence:
    """Pairs of a key and a value, then each query as `? key value`: the value that the key had last."""
    latest = dict(pairs)
    words = [word for pair in pairs for word in pair]
    answers = []
    for key in queries:
        words += (QUERY, key, latest[key])
        answers.append(len(words) - 1)
    return WordSequence(tuple(words), tuple(answers))
