"""Python source code that is already there: the standard library of the running interpreter."""

from __future__ import annotations

import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bareformers.data.corpus import Corpus, counted
from bareformers.errors import InputError
from bareformers.registry import source

NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}


@source("python_stdlib")
@dataclass
class PythonStdlib:
    """The running Python's own standard library, one document per file; needs no download."""

    include_tests: bool = False  # also the library's test folders, about as much text again
    max_files: int | None = None  # only so many files, evenly spread over the sorted list; null takes all
    validation_share: float = 0.04  # of the files, chosen by the hash of the file name
    test_share: float = 0.04

    def load(self) -> Corpus:
        files, notes = library(self.name, self.include_tests, self.max_files)  # type: ignore[attr-defined]
        return Corpus.divided(
            "documents",
            files.items(),
            validation_share=self.validation_share,
            test_share=self.test_share,
            notes=notes,
        )


def library(where: str, include_tests: bool, max_files: int | None) -> tuple[dict[str, str], list[str]]:
    """The files of the standard library by name, and what there is to say about them.

    Args:
        where: the source that asks, for errors.
        include_tests, max_files: as of `PythonStdlib`.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(_modules(root, NOT_THE_LIBRARY if include_tests else NOT_THE_LIBRARY | TESTS))
    if not names:
        raise InputError(f"{root} has no .py files: this Python came without the sources of its library")
    if max_files is not None:
        if max_files < 3:
            raise InputError(f"{where}: max_files is {max_files}; write 3 or more")
        chosen = min(max_files, len(names))
        names = [names[index * len(names) // chosen] for index in range(chosen)]
    first: dict[str, str] = {}  # text -> the first file that has it
    unreadable = 0
    for name in names:
        try:
            first.setdefault((root / name).read_bytes().decode(), name)
        except UnicodeDecodeError:
            unreadable += 1
    notes = [f"Read {counted(len(names), 'file')} of the standard library of Python {platform.python_version()}."]
    if unreadable:
        notes.append(f"Skipped {counted(unreadable, 'file')} not in UTF-8.")
    if copies := len(names) - unreadable - len(first):
        notes.append(f"Removed {counted(copies, 'duplicate')}, equal to another file byte by byte.")
    return {name: text for text, name in first.items()}, notes


def _modules(root: Path, skipped: set[str]) -> Iterator[str]:
    """Names of the .py files below `root`, with slashes; folders named in `skipped` are not entered."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in files if name.endswith(".py"))
