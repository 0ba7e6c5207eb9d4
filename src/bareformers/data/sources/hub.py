"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bareformers.data.corpus import NOUNS, Corpus, Item, Labelled
from bareformers.data.sources.jsonl import take, text_fields
from bareformers.errors import InputError
from bareformers.registry import source


@source("hub")
@dataclass
class Hub:
    """A data set by its name on the Hugging Face hub, or a local folder that `datasets` can load."""

    dataset: str  # as in Helsinki-NLP/opus_books
    config: str | None = None  # the data set's configuration, as in de-en
    revision: str | None = None  # a commit, so that the data stays what it is
    train: str = "train"  # split names; slices as datasets writes them: train[:90%]
    validation: str = "validation"
    test: str | None = "test"  # null for none
    text: str | None = None  # the field with the document
    source: str | None = None  # or the fields with the two sides of a pair, as in translation.de
    target: str | None = None
    label: str | None = None  # or, beside text, the field with its class
    second: str | None = None  # and the field with the second text, where two belong together
    scores: bool = False  # whether labels are numbers, such as grades, and no classes

    def load(self) -> Corpus:
        kind, fields = text_fields("hub", self.text, self.source, self.target, self.label, self.second, self.scores)
        import datasets

        sides: list[list[Item]] = []
        labels: tuple[str, ...] = ()
        for split in (self.train, self.validation, self.test):
            if split is None:
                continue
            try:
                records = datasets.load_dataset(self.dataset, self.config, split=split, revision=self.revision)
            except Exception as error:  # the hub's client raises dozens of unrelated classes
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InputError(f"hub: cannot load {self.dataset!r}, split {split!r}: {reason}") from error
            where = f"hub: a record of {self.dataset!r}, split {split!r},"
            items = [take(record, kind, fields, where) for record in records]
            if kind == "labelled" and (names := label_names(records.features, self.label)):
                labels = names
                items = [_named(item, names, where) for item in items]
            sides.append(items)
        sizes = " + ".join(f"{len(side):,}" for side in sides)
        languages = [field.rpartition(".")[2] for field in fields]
        return Corpus.given(
            kind,
            *sides,
            notes=[f"Read {sizes} {NOUNS[kind]}s of {self.dataset} from the Hugging Face hub."],
            languages=(languages[0], languages[1]) if kind == "pairs" else None,
            labels=labels,
        )


def label_names(features: Any, field: str | None) -> tuple[str, ...]:
    """What a data set calls the numbers of its classes; nothing where it has no names for them."""
    return tuple(getattr((features or {}).get(field), "names", None) or ())


def _named(item: Item, names: tuple[str, ...], where: str) -> Labelled:
    assert isinstance(item, Labelled)
    if not item.label.isdecimal() or int(item.label) >= len(names):
        raise InputError(
            f"{where} has the class {item.label}, which stands for none of {', '.join(names)}; "
            f"leave a side without classes out, as in test: null"
        )
    return replace(item, label=names[int(item.label)])
