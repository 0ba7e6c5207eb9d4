"""JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bareformers.data.corpus import Corpus, Item, Kind, one_way, read_lines, refuse_unused, user_path
from bareformers.errors import InputError
from bareformers.registry import source


@source("jsonl")
@dataclass
class Jsonl:
    """One JSON object per line: documents in one field, or pairs in two."""

    path: str | None = None  # one file, divided by the shares
    train: str | None = None  # or a file per side; test may be left out
    validation: str | None = None
    test: str | None = None
    text: str | None = None  # the field with the document; dots go into objects, as in data.text
    source: str | None = None  # or the fields with the two sides of a pair, as in translation.de
    target: str | None = None
    validation_share: float = 0.04  # of the documents or source sentences under path, chosen by hash
    test_share: float = 0.04

    def load(self) -> Corpus:
        one_way("jsonl", self.path, self.train, self.validation, self.test)
        kind, fields = text_fields("jsonl", self.text, self.source, self.target)
        if self.path is not None:
            items = _read(user_path(self.path), fields)
            return Corpus.divided(
                kind,
                ((item if isinstance(item, str) else item[0].strip(), item) for item in items),
                validation_share=self.validation_share,
                test_share=self.test_share,
                notes=[f"Read {len(items):,} {kind} from {self.path}."],
            )
        refuse_unused(self, ("validation_share", "test_share"), "where the sides are given one by one")
        paths = [path for path in (self.train, self.validation, self.test) if path is not None]
        sides = [_read(user_path(path), fields) for path in paths]
        sizes = ", ".join(f"{len(side):,} from {path}" for path, side in zip(paths, sides, strict=True))
        return Corpus.given(kind, *sides, notes=[f"Read {kind}: {sizes}."])


def text_fields(where: str, text: str | None, source: str | None, target: str | None) -> tuple[Kind, tuple[str, ...]]:
    """The kind of corpus that the given field names ask for, and these names."""
    if text is not None and source is None and target is None:
        return "documents", (text,)
    if text is None and source is not None and target is not None:
        return "pairs", (source, target)
    raise InputError(f"{where}: write text, the field with the documents, or source and target, the fields of a pair")


def take(record: Any, fields: tuple[str, ...], where: str) -> Item:
    """The text or the pair of texts under `fields` of a record; `where` names the record in errors."""
    texts = []
    for field in fields:
        value = record
        for name in field.split("."):
            if not isinstance(value, dict) or name not in value:
                known = f"known are {', '.join(map(str, value))}" if isinstance(value, dict) else "it is not an object"
                raise InputError(f"{where} has no field {field!r}: {known}")
            value = value[name]
        if not isinstance(value, str):
            raise InputError(f"{where}: the field {field!r} holds {type(value).__name__}, not text")
        texts.append(value)
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])


def _read(path: Path, fields: tuple[str, ...]) -> list[Item]:
    items = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error})") from error
        items.append(take(record, fields, where))
    return items
