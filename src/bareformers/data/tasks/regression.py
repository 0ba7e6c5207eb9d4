"""Texts, or pairs of them, with a score each."""

from __future__ import annotations

import numpy as np

from bareformers.data.corpus import PARTS, Corpus, Labelled, counted, score_of
from bareformers.data.examples import IGNORED, Collate, Examples, judged
from bareformers.data.tasks.base import Scale, TaskData
from bareformers.data.tasks.encoding import Encoder, pad_of
from bareformers.errors import InputError


def prepare(corpus: Corpus, encode: Encoder) -> TaskData:
    notes: list[str] = []

    def side(part: str) -> Examples:
        items: tuple[Labelled, ...] = getattr(corpus, part)
        rows = encode(items, part, notes)
        kept = [items[index] for index in rows.kept]
        scores = np.array([score_of(item.label, f"the {part} side") for item in kept], np.float32)
        if (scores == IGNORED).any():
            raise InputError(f"the {part} side has the score {IGNORED}, which stands for none; shift all scores")
        return judged(rows.ids, scores, [(item.whole, item.label) for item in kept], rows.segments)

    sides = {part: side(part) for part in PARTS}
    scores = sides["train"].labels.ids.astype(np.float64)
    if np.ptp(scores) == 0:
        raise InputError(f"all training texts have the score {scores[0]:g}: a regression needs scores that differ")
    scale = Scale(float(scores.mean()), float(scores.std()))
    sizes = ", ".join(counted(len(side), f"{part} text") for part, side in sides.items() if len(side))
    notes.append(
        f"Encoded {sizes}; scores of the training texts go from {scores.min():g} to {scores.max():g}, with a mean of "
        f"{scale.score_mean:.3g} and a standard deviation of {scale.score_std:.3g}."
    )
    return TaskData(
        "regression",
        encode.tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(encode.tokenizer), labels="scores"),
        notes=(*corpus.notes, *notes),
        scale=scale,
    )
