"""JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bareformers.data.corpus import (
    NOUNS,
    Corpus,
    Item,
    Kind,
    Labelled,
    one_way,
    read_lines,
    refuse_unused,
    score_of,
    texts_of,
    user_path,
)
from bareformers.errors import InputError
from bareformers.registry import source


@source("jsonl")
@dataclass
class Jsonl:
    """One JSON object per line: documents in one field, pairs in two, or texts with a class or a score each."""

    path: str | None = None  # one file, divided by the shares
    train: str | None = None  # or a file per side; test may be left out
    validation: str | None = None
    test: str | None = None
    text: str | None = None  # the field with the document; dots go into objects, as in data.text
    source: str | None = None  # or the fields with the two sides of a pair, as in translation.de
    target: str | None = None
    label: str | None = None  # or, beside text, the field with its class: text or a whole number
    second: str | None = None  # and the field with the second text, where two belong together
    scores: bool = False  # whether labels are numbers, such as grades, and no classes
    # Of pairs: the fields of the test with its references, where not target.
    test_targets: tuple[str, ...] | None = None
    validation_share: float = 0.04  # of the documents or source sentences under path, chosen by hash
    test_share: float = 0.04

    def load(self) -> Corpus:
        one_way("jsonl", self.path, self.train, self.validation, self.test)
        kind, fields = text_fields("jsonl", self.text, self.source, self.target, self.label, self.second, self.scores)
        if kind != "pairs" or self.test is None:
            refuse_unused(self, ("test_targets",), "but for pairs with a file for the test side")
        if self.path is not None:
            items = _read(user_path(self.path), kind, fields)
            return Corpus.divided(
                kind,
                ((item if isinstance(item, str) else texts_of(item)[0].strip(), item) for item in items),
                validation_share=self.validation_share,
                test_share=self.test_share,
                notes=[f"Read {len(items):,} {NOUNS[kind]}s from {self.path}."],
            )
        refuse_unused(self, ("validation_share", "test_share"), "where the sides are given one by one")
        paths = [path for path in (self.train, self.validation, self.test) if path is not None]
        asked = [fields, fields, fields if self.test_targets is None else (fields[0], *self.test_targets)]
        sides = [_read(user_path(path), kind, names) for path, names in zip(paths, asked, strict=False)]
        sizes = ", ".join(f"{len(side):,} from {path}" for path, side in zip(paths, sides, strict=True))
        return Corpus.given(kind, *sides, notes=[f"Read {NOUNS[kind]}s: {sizes}."])


def text_fields(
    where: str,
    text: str | None,
    source: str | None,
    target: str | None,
    label: str | None,
    second: str | None = None,
    scores: bool = False,
) -> tuple[Kind, tuple[str, ...]]:
    """The kind of corpus that the given field names ask for, and these names."""
    if (second is not None or scores) and label is None:
        what = "scores does" if second is None else "second does"
        raise InputError(f"{where}: {what} nothing without label, the field with what is told; write it, and text")
    if text is not None and source is None and target is None:
        if label is None:
            return "documents", (text,)
        return "scored" if scores else "labelled", (text, label) if second is None else (text, label, second)
    if text is None and label is None and source is not None and target is not None:
        return "pairs", (source, target)
    raise InputError(
        f"{where}: write text, the field with the documents (and label, if each has a class), "
        f"or source and target, the fields of a pair"
    )


def take(record: Any, kind: Kind, fields: tuple[str, ...], where: str) -> Item:
    """The item that the `fields` of a record make; `where` names the record in errors."""
    values = [_value(record, field, where) for field in fields]
    numbers = {"labelled": int, "scored": int | float}
    if kind in numbers and isinstance(values[1], numbers[kind]):
        values[1] = json.dumps(values[1])
    for field, value in zip(fields, values, strict=True):
        if not isinstance(value, str):
            raise InputError(f"{where}: the field {field!r} holds {type(value).__name__}, not text")
    if kind == "scored":
        score_of(values[1], f"{where}, field {fields[1]!r}")
    if kind in numbers:
        return Labelled(*values)
    return values[0] if kind == "documents" else tuple(values)


def _value(record: Any, field: str, where: str) -> Any:
    """What stands under `field`, whose dots go into objects."""
    value = record
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            known = f"known are {', '.join(map(str, value))}" if isinstance(value, dict) else "it is not an object"
            raise InputError(f"{where} has no field {field!r}: {known}")
        value = value[name]
    return value


def _read(path: Path, kind: Kind, fields: tuple[str, ...]) -> list[Item]:
    items = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error})") from error
        items.append(take(record, kind, fields, where))
    return items
