"""Texts, or pairs of them, with a class or a score each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from bareformers.data.corpus import (
    NOUNS,
    Corpus,
    Kind,
    Labelled,
    assign_parts,
    counted,
    read_lines,
    read_text,
    refuse_unused,
    score_of,
    user_path,
)
from bareformers.data.sources.text import Paths, shown
from bareformers.errors import InputError
from bareformers.registry import source


@source("labelled_text")
@dataclass
class LabelledText:
    """Texts with a class or a score each, from lines of `label text`, TSV or CSV; divided by shares or as sides."""

    path: Paths | None = None  # a file or a list of files, divided by the shares
    train: Paths | None = None  # or the sides one by one; without validation, a share of train becomes it
    validation: Paths | None = None
    test: Paths | None = None
    format: Literal["lines", "tsv", "csv"] = "lines"  # lines: the label, white space, the text
    text: int | str | None = None  # of TSV and CSV: the column, counted from 1, or its name in the first line
    second: int | str | None = None  # of pairs: the column of the second text
    label: int | str | None = None
    scores: bool = False  # whether labels are numbers, such as grades, and no classes
    label_names: tuple[str, ...] | None = None  # what the labels 0, 1, 2, ... of the files stand for
    validation_share: float = 0.1  # of the texts under path, or under train, chosen by hash
    test_share: float = 0.1  # of the texts under path
    labels_kept: int | None = None  # training texts that keep their labels, classes in proportion; the others have none
    labels_seed: int = 0  # which texts these are

    def load(self) -> Corpus:
        self._check()
        corpus = self._whole()
        return corpus if self.labels_kept is None else corpus.withholding(self.labels_kept, self.labels_seed)

    def _whole(self) -> Corpus:
        """With all labels."""
        labels = self.label_names or ()
        kind: Kind = "scored" if self.scores else "labelled"
        if self.path is not None:
            items = self._read(self.path)
            return Corpus.divided(
                kind,
                ((item.text, item) for item in items),
                validation_share=self.validation_share,
                test_share=self.test_share,
                notes=[f"Read {counted(len(items), NOUNS[kind])} from {shown(self.path)}."],
                labels=labels,
            )
        sides_given = (("train", self.train), ("validation", self.validation), ("test", self.test))
        given = {part: paths for part, paths in sides_given if paths is not None}
        sides = {part: self._read(paths) for part, paths in given.items()}
        sizes = ", ".join(f"{len(side):,} from {shown(given[part])}" for part, side in sides.items())
        notes = [f"Read {NOUNS[kind]}s: {sizes}."]
        if self.validation is None:
            part_of = assign_parts((item.text for item in sides["train"]), self.validation_share, 0.0)
            sides["validation"] = [item for item in sides["train"] if part_of[item.text] == "validation"]
            sides["train"] = [item for item in sides["train"] if part_of[item.text] == "train"]
            notes.append(f"Took {counted(len(sides['validation']), 'training text')} for validation, chosen by hash.")
        return Corpus.given(
            kind, sides["train"], sides["validation"], sides.get("test", ()), notes=notes, labels=labels
        )

    def _check(self) -> None:
        """An `InputError` where the options do not go together."""
        if (self.path is None) == (self.train is None) or self.path is not None and (self.validation or self.test):
            raise InputError(
                "labelled_text: write either path, which is divided by shares, or train, and validation and test "
                "where there are files for them"
            )
        if self.path is None:
            refuse_unused(self, ("test_share",), "where the sides are given one by one")
        if self.validation is not None:
            refuse_unused(self, ("validation_share",), "where there is a file for validation")
        if self.labels_kept is None:
            refuse_unused(self, ("labels_seed",), "where all texts keep their labels")
        if self.scores:
            refuse_unused(self, ("label_names", "labels_kept"), "with scores, which are no classes")
        if self.format == "lines":
            refuse_unused(self, ("text", "second", "label"), "with lines of `label text`")
        elif self.text is None or self.label is None:
            raise InputError(
                f"labelled_text: {self.format} needs text and label, the columns: numbers counted from 1, as in "
                f"text: 1, or names in the first line, as in text: sentence"
            )
        if self.label_names is not None and len(set(self.label_names)) < len(self.label_names):
            raise InputError("labelled_text: label_names gives two classes one name; write a name of its own for each")
        for column in (self.text, self.second, self.label):
            if isinstance(column, int) and column < 1:
                raise InputError(f"labelled_text: columns are counted from 1, so there is none {column}")

    def _read(self, paths: Paths) -> list[Labelled]:
        items = []
        for given in (paths,) if isinstance(paths, str) else paths:
            path = user_path(given)
            for where, label, text, *second in self._lines(path) if self.format == "lines" else self._cells(path):
                named = self._named(label.strip(), where)
                items.append(Labelled(text.strip(), named, second[0].strip() if second else None))
        return items

    def _lines(self, path: Path) -> Iterator[tuple[str, ...]]:
        """Where each item stands, its label and its text."""
        for number, line in enumerate(read_lines(path), 1):
            if words := line.split(maxsplit=1):
                yield f"{path}, line {number}", words[0], "".join(words[1:])

    def _cells(self, path: Path) -> Iterator[tuple[str, ...]]:
        """The same from columns, behind the line with their names if these are given; of a pair both texts."""
        rows = _csv(path) if self.format == "csv" else _tsv(path)
        columns = [column for column in (self.label, self.text, self.second) if column is not None]
        if any(isinstance(column, str) for column in columns):
            _, header = next(rows)
            columns = [_position(column, header, path) for column in columns]
        places = cast(list[int], columns)
        for number, cells in rows:
            where = f"{path}, line {number}"
            if len(cells) < max(places):
                raise InputError(f"{where}: there is no column {max(places)}, only {len(cells)}")
            yield where, *(cells[place - 1] for place in places)

    def _named(self, label: str, where: str) -> str:
        """The name of a class."""
        if not label:
            raise InputError(f"{where}: there is no label")
        if self.scores:
            score_of(label, where)
        if self.label_names is None:
            return label
        if not label.isdecimal() or int(label) >= len(self.label_names):
            raise InputError(
                f"{where}: the label {label!r} is no number of one of the {len(self.label_names)} label_names, "
                f"counted from 0"
            )
        return self.label_names[int(label)]


def _tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells; quotes mean nothing, as in the files of GLUE."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield number, line.split("\t")


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells, which may be quoted and then hold line ends."""
    rows = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        for cells in rows:
            if cells:
                yield rows.line_num, cells
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not CSV ({error})") from error


def _position(column: int | str, header: list[str], path: Path) -> int:
    """Where a column stands, counted from 1."""
    if isinstance(column, int):
        return column
    names = [name.strip() for name in header]
    if column not in names:
        raise InputError(f"{path} has no column {column!r} in its first line: known are {', '.join(names)}")
    return names.index(column) + 1
