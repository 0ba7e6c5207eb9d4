"""Plain text files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bareformers.data.corpus import Corpus, one_way, read_lines, read_text, refuse_unused, user_path
from bareformers.errors import InputError, unknown
from bareformers.registry import source

Unit = Literal["paragraphs", "lines", "files"]
Paths = str | tuple[str, ...]


@source("text")
@dataclass
class Text:
    """UTF-8 text files or folders of *.txt, divided by shares or given as train, validation and test."""

    path: Paths | None = None  # a file, a folder (every *.txt below it) or a list of these, divided by the shares
    train: Paths | None = None  # or the sides one by one; test may be left out
    validation: Paths | None = None
    test: Paths | None = None
    documents: Unit | None = None  # paragraphs (blank lines between), lines or files; null: files for a folder
    validation_share: float = 0.04  # of the documents under path, chosen by hash
    test_share: float = 0.04

    def load(self) -> Corpus:
        one_way("text", self.path, self.train, self.validation, self.test)
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
        refuse_unused(self, ("validation_share", "test_share"), "where the sides are given one by one")
        given = [paths for paths in (self.train, self.validation, self.test) if paths is not None]
        sides = [[text for _, text in self._read(paths)] for paths in given]
        sizes = ", ".join(f"{len(side):,} from {shown(paths)}" for paths, side in zip(given, sides, strict=True))
        return Corpus.given("documents", *sides, notes=[f"Read documents: {sizes}."])

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
