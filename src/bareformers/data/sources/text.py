"""Plain text files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bareformers.data.corpus import Corpus, assign_parts, counted, read_lines, read_text, refuse_unused, user_path
from bareformers.errors import InputError, unknown
from bareformers.registry import source

Unit = Literal["paragraphs", "lines", "files"]
Paths = str | tuple[str, ...]


@source("text")
@dataclass
class Text:
    """UTF-8 text files or folders of *.txt, divided by shares or given as train, validation and test."""

    path: Paths | None = None  # a file, a folder (every *.txt below it) or a list of these, divided by the shares
    train: Paths | None = None  # or the sides one by one; without validation, a share of train becomes it
    validation: Paths | None = None
    test: Paths | None = None
    documents: Unit | None = None  # paragraphs (blank lines between), lines or files; null: files for a folder
    validation_share: float = 0.04  # of the documents under path, or under train, chosen by hash
    test_share: float = 0.04  # of the documents under path

    def load(self) -> Corpus:
        if (self.path is None) == (self.train is None) or self.path is not None and (self.validation or self.test):
            raise InputError(
                "text: write either path, which is divided by shares, or train, and validation and test where there "
                "are files for them"
            )
        if self.documents is not None and self.documents not in get_args(Unit):
            raise unknown("documents unit", self.documents, get_args(Unit))
        if self.path is not None:
            items = self._read(self.path)
            return Corpus.divided(
                "documents",
                items,
                validation_share=self.validation_share,
                test_share=self.test_share,
                notes=[f"Read {len(items):,} documents from {shown(self.path)}."],
            )
        refuse_unused(self, ("test_share",), "where the sides are given one by one")
        if self.validation is not None:
            refuse_unused(self, ("validation_share",), "where there is a file for validation")
        sides_given = (("train", self.train), ("validation", self.validation), ("test", self.test))
        given = {part: paths for part, paths in sides_given if paths is not None}
        sides = {part: self._read(paths) for part, paths in given.items()}
        sizes = ", ".join(f"{len(side):,} from {shown(given[part])}" for part, side in sides.items())
        notes = [f"Read documents: {sizes}."]
        if self.validation is None:
            part_of = assign_parts((key for key, _ in sides["train"]), self.validation_share, 0.0)
            sides["validation"] = [item for item in sides["train"] if part_of[item[0]] == "validation"]
            sides["train"] = [item for item in sides["train"] if part_of[item[0]] == "train"]
            taken = counted(len(sides["validation"]), "training document")
            notes.append(f"Took {taken} for validation, chosen by hash.")
        texts = {part: [text for _, text in side] for part, side in sides.items()}
        return Corpus.given("documents", texts["train"], texts["validation"], texts.get("test", ()), notes=notes)

    def _read(self, paths: Paths) -> list[tuple[str, str]]:
        """Documents with the keys that they are divided by: the file's name for whole files, else the text."""
        items: list[tuple[str, str]] = []
        for given in (paths,) if isinstance(paths, str) else paths:
            top = user_path(given)
            unit = self.documents or ("files" if top.is_dir() else "paragraphs")
            for file in _files(top):
                if unit == "files":
                    items.append((file.relative_to(top).as_posix() if file != top else file.name, read_text(file)))
                else:
                    texts = read_lines(file) if unit == "lines" else re.split(r"\n(?:[^\S\n]*\n)+", read_text(file))
                    items += [(text, text) for text in texts if text.strip()]
        return items


def _files(top: Path) -> list[Path]:
    if not top.is_dir():
        return [top]
    files = sorted(file for file in top.rglob("*.txt") if file.is_file())
    if not files:
        raise InputError(f"the folder {top} has no *.txt files below it")
    return files


def shown(paths: Paths) -> str:
    """Paths as a note names them."""
    return paths if isinstance(paths, str) else " and ".join(paths)
