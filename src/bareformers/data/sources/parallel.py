"""Translations that stand in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bareformers.data.corpus import Corpus, Pair, read_lines, refuse_unused, user_path
from bareformers.errors import InputError
from bareformers.registry import source


@source("parallel")
@dataclass
class Parallel:
    """Sentence pairs from line-aligned files (`<root>/<stem>.<language>`) or from one TSV file."""

    root: str | None = None  # folder of the aligned files
    source: str = "de"  # language to translate from: the suffix of its files
    target: str = "en"
    train: str = "train"  # stems: the training side is <root>/train.de and <root>/train.en
    validation: str = "val"
    test: str | None = "test_2016_flickr"  # null for none
    tsv: str | None = None  # instead of root: one file with a pair per line, divided by the shares
    columns: tuple[int, int] = (1, 2)  # where source and target stand in the TSV, counted from 1
    validation_share: float = 0.02  # of the TSV's source sentences, chosen by hash
    test_share: float = 0.02

    def load(self) -> Corpus:
        if (self.root is None) == (self.tsv is None):
            raise InputError("parallel: write either root, a folder of aligned files, or tsv, one file")
        languages = (self.source, self.target)
        if self.tsv is not None:
            refuse_unused(self, ("train", "validation", "test"), "with tsv, which is divided by the shares")
            pairs = _read_tsv(user_path(self.tsv), self.columns)
            return Corpus.divided(
                "pairs",
                ((pair[0].strip(), pair) for pair in pairs),
                validation_share=self.validation_share,
                test_share=self.test_share,
                notes=[f"Read {len(pairs):,} pairs from {self.tsv}."],
                languages=languages,
            )
        refuse_unused(self, ("columns", "validation_share", "test_share"), "with root, where each side has files")
        root = user_path(self.root or "")
        stems = [stem for stem in (self.train, self.validation, self.test) if stem is not None]
        sides = [self._read(root, stem) for stem in stems]
        sizes = ", ".join(f"{len(side):,} of {stem}" for stem, side in zip(stems, sides, strict=True))
        notes = [f"Read {self.source}-{self.target} pairs from {self.root}: {sizes}."]
        return Corpus.given("pairs", *sides, notes=notes, languages=languages)

    def _read(self, root: Path, stem: str) -> list[Pair]:
        paths = [root / f"{stem}.{language}" for language in (self.source, self.target)]
        sources, targets = map(read_lines, paths)
        if len(sources) != len(targets):
            raise InputError(
                f"{paths[0]} has {len(sources)} lines and {paths[1]} has {len(targets)}: "
                "aligned files need as many lines each"
            )
        return list(zip(sources, targets, strict=True))


def _read_tsv(path: Path, columns: tuple[int, int]) -> list[Pair]:
    if len(columns) != 2 or not all(isinstance(column, int) and column > 0 for column in columns):
        raise InputError(f"parallel: columns is {list(columns)}; write two numbers counted from 1, as in [1, 2]")
    pairs: list[Pair] = []
    for number, line in enumerate(read_lines(path), 1):
        cells = line.split("\t")
        if len(cells) < max(columns):
            raise InputError(f"{path}, line {number}: there is no column {max(columns)}, only {len(cells)}")
        pairs.append((cells[columns[0] - 1], cells[columns[1] - 1]))
    return pairs
