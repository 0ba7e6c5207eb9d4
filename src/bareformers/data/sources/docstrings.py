"""What functions of Python's standard library do, in the words of those who wrote them."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from bareformers.data.corpus import Corpus, Pair, counted
from bareformers.data.sources.python_stdlib import library
from bareformers.errors import InputError
from bareformers.registry import source


@source("docstrings")
@dataclass
class Docstrings:
    """Pairs of a function of the running Python's library and the first paragraph of its docstring; no download."""

    min_words: int = 3  # of the paragraph; shorter ones say too little
    include_tests: bool = False  # also the library's test folders
    max_files: int | None = None  # only so many files, evenly spread over the sorted list; null takes all
    validation_share: float = 0.04  # of the files, chosen by the hash of the file name
    test_share: float = 0.04

    def load(self) -> Corpus:
        if self.min_words < 1:
            raise InputError(f"docstrings: min_words is {self.min_words}; write 1 or more")
        files, notes = library("docstrings", self.include_tests, self.max_files)
        pairs: list[tuple[str, Pair]] = []
        broken = short = 0
        for name, text in files.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # old escapes
                    found = list(functions(text))
            except (SyntaxError, ValueError):
                broken += 1
                continue
            kept = [pair for pair in found if len(pair[1].split()) >= self.min_words]
            short += len(found) - len(kept)
            pairs += [(name, pair) for pair in kept]
        if broken:
            notes.append(f"Skipped {counted(broken, 'file')} that this Python cannot parse.")
        notes.append(f"Found {counted(len(pairs), 'function')} with a docstring.")
        if short:
            notes.append(f"Left out {counted(short, 'function')} whose docstring begins with too few words.")
        return Corpus.divided(
            "pairs",
            pairs,
            validation_share=self.validation_share,
            test_share=self.test_share,
            notes=notes,
            targets_recur=True,
        )


def functions(text: str) -> Iterator[Pair]:
    """Functions and methods of a module that have a docstring: as they are written but for it, and its first paragraph.

    Where code stands on a line of the docstring, the function is passed over.
    """
    lines = re.split("\r\n|\r|\n", text)  # as the parser counts them
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (told := ast.get_docstring(node)):
            continue
        docstring, *rest = node.body
        assert docstring.end_lineno and node.end_lineno
        if docstring.lineno > node.lineno and not any(each.lineno == docstring.end_lineno for each in rest):
            start = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            kept = lines[start : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
            yield textwrap.dedent("\n".join(kept)), " ".join(told.split("\n\n")[0].split())
