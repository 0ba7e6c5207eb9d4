"""Conversations, a line each, as replies to what was said before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bareformers.data.corpus import (
    Corpus,
    Pair,
    assign_parts,
    counted,
    one_way,
    read_lines,
    refuse_unused,
    user_path,
)
from bareformers.errors import InputError
from bareformers.registry import source

END = "__eou__"
"""Behind every turn."""

Keyed = list[tuple[str, Pair]]
"""Pairs with the dialogue that they are from."""


@source("dialogues")
@dataclass
class Dialogues:
    """Every turn of a dialogue but the first, as a reply to those before it; files as those of DailyDialog."""

    path: str | None = None  # a file with a dialogue a line, divided by the shares
    train: str | None = None  # or a file per side; without validation, a share of train becomes it
    validation: str | None = None
    test: str | None = None
    turns: int = 3  # the most that a reply is given of what was said before it
    separator: str = " | "  # between these
    validation_share: float = 0.05  # of the dialogues under path, or under train, chosen by hash
    test_share: float = 0.05  # of the dialogues under path

    def load(self) -> Corpus:
        if self.turns < 1:
            raise InputError(f"dialogues: turns is {self.turns}; a reply needs 1 or more before it")
        notes: list[str] = []
        if self.path is not None:
            one_way("dialogues", self.path, self.train, self.validation, self.test)
            return Corpus.divided(
                "pairs",
                self._read(self.path, notes),
                validation_share=self.validation_share,
                test_share=self.test_share,
                notes=notes,
                targets_recur=True,
            )
        if self.train is None:
            raise InputError(
                "dialogues: write either path, which is divided by shares, or train, and validation and test where "
                "there are files for them"
            )
        refuse_unused(self, ("test_share",), "where the sides are given one by one")
        train = self._read(self.train, notes)
        if self.validation is None:
            part_of = assign_parts((key for key, _ in train), self.validation_share, 0.0)
            validation = [(key, pair) for key, pair in train if part_of[key] == "validation"]
            train = [(key, pair) for key, pair in train if part_of[key] == "train"]
            taken = len({key for key, _ in validation})
            notes.append(f"Took {counted(taken, 'training dialogue')} for validation, chosen by hash.")
        else:
            refuse_unused(self, ("validation_share",), "where there is a file for validation")
            validation = self._read(self.validation, notes)
        test = [] if self.test is None else self._read(self.test, notes)
        sides = ([pair for _, pair in side] for side in (train, validation, test))
        return Corpus.given("pairs", *sides, notes=notes)

    def _read(self, path: str, notes: list[str]) -> Keyed:
        """The pairs of a file; what it holds goes into the notes."""
        found: Keyed = []
        count = alone = empty = 0
        for line in read_lines(user_path(path)):
            said = line.partition("\t")[0]
            if not said.strip():
                continue
            turns = [turn.strip() for turn in said.strip().removesuffix(END).split(END)]
            count += 1
            empty += turns.count("")
            turns = [turn for turn in turns if turn]
            alone += len(turns) < 2
            found += [(said, pair) for pair in self._replies(turns)]
        if not found:
            raise InputError(f"{path} has no dialogue of two turns or more: write {END} behind every turn of a line")
        notes.append(f"Read {counted(count, 'dialogue')} from {path}, which make {counted(len(found), 'pair')}.")
        if empty:
            notes.append(f"Removed {counted(empty, 'empty turn')}.")
        if alone:
            notes.append(f"Left out {counted(alone, 'dialogue')} of fewer than two turns.")
        return found

    def _replies(self, turns: Sequence[str]) -> Iterator[Pair]:
        for place in range(1, len(turns)):
            yield self.separator.join(turns[max(0, place - self.turns) : place]), turns[place]
