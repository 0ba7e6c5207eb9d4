"""Texts, or pairs of them, with a class each."""

from __future__ import annotations

import numpy as np

from bareformers.data.corpus import PARTS, Corpus, Labelled, counted
from bareformers.data.examples import Collate, Examples, judged
from bareformers.data.tasks.base import TaskData, labels_of
from bareformers.data.tasks.encoding import Encoder, pad_of
from bareformers.errors import InputError


def prepare(corpus: Corpus, encode: Encoder) -> TaskData:
    labels = labels_of(corpus)
    classes = {label: index for index, label in enumerate(labels)}
    notes: list[str] = []

    def side(part: str) -> Examples:
        items: tuple[Labelled, ...] = getattr(corpus, part)
        rows = encode(items, part, notes)
        kept = [items[index] for index in rows.kept]
        numbers = np.array([classes[item.label] for item in kept], np.int32)
        return judged(rows.ids, numbers, [(item.whole, item.label) for item in kept], rows.segments)

    sides = {part: side(part) for part in PARTS}
    sizes = ", ".join(counted(len(side), f"{part} text") for part, side in sides.items() if len(side))
    counts = np.bincount(sides["train"].labels.ids, minlength=len(labels)).tolist()
    if 0 in counts:
        raise InputError(
            f"no training text with the label {labels[counts.index(0)]!r} is within max_length {encode.max_length}: "
            f"write a larger one, or too_long: cut"
        )
    listed = ", ".join(f"{label} {count:,}" for label, count in zip(labels, counts, strict=True))
    notes.append(f"Encoded {sizes}; of the training texts are {listed}.")
    return TaskData(
        "classification",
        encode.tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(encode.tokenizer), labels="classes"),
        notes=(*corpus.notes, *notes),
        labels=labels,
    )
