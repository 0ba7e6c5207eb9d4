"""Texts with a class each."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import PARTS, Corpus, Labelled, counted
from bareformers.data.examples import Collate, Examples, classifications
from bareformers.data.tasks.base import TaskData, TooLong, labels_of, within_length
from bareformers.data.tasks.encoding import Frame, frame_of, ids_of, pad_of
from bareformers.data.tokens import is_ours
from bareformers.errors import InputError


def prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: TooLong) -> TaskData:
    labels = labels_of(corpus)
    frame = frame_of(tokenizer)
    if frame is None:
        end = tokenizer.eos_token_id
        frame = Frame([end], [end]) if is_ours(tokenizer) else Frame([], [])
    classes = {label: index for index, label in enumerate(labels)}
    notes: list[str] = []

    def encode(part: str) -> Examples:
        items: tuple[Labelled, ...] = getattr(corpus, part)
        encoded = ids_of(tokenizer, [item.text for item in items])
        kept = within_length(part, "text", [frame.size + len(ids) for ids in encoded], max_length, too_long, notes)
        return classifications(
            [frame.around(encoded[index], max_length) for index in kept],
            [classes[items[index].label] for index in kept],
            [(items[index].text, items[index].label) for index in kept],
        )

    sides = {part: encode(part) for part in PARTS}
    if not len(sides["train"]):
        raise InputError(f"all training texts are longer than max_length {max_length}: write a larger one")
    sizes = ", ".join(counted(len(side), f"{part} text") for part, side in sides.items() if len(side))
    counts = np.bincount(sides["train"].labels.ids, minlength=len(labels)).tolist()
    if 0 in counts:
        raise InputError(
            f"no training text with the label {labels[counts.index(0)]!r} is within max_length {max_length}: write a "
            f"larger one, or too_long: cut"
        )
    listed = ", ".join(f"{label} {count:,}" for label, count in zip(labels, counts, strict=True))
    notes.append(f"Encoded {sizes}; of the training texts are {listed}.")
    return TaskData(
        "classification",
        tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(tokenizer), labels="classes"),
        notes=(*corpus.notes, *notes),
        labels=labels,
    )
