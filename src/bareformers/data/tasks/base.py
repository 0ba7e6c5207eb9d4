"""What every task shares: its names, what it makes of a corpus, and which examples stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from bareformers.data.corpus import PARTS, Corpus, Kind, counted
from bareformers.data.examples import Example, Examples
from bareformers.errors import InputError

Task = Literal[
    "language_modelling",
    "masked_language_modelling",
    "translation",
    "summarisation",
    "dialogue",
    "classification",
    "regression",
    "multi_task",
    "image_classification",
    "recall",
]


TooLong = Literal["drop", "cut", "error"]


KINDS: dict[Task, Kind] = {
    "language_modelling": "documents",
    "masked_language_modelling": "documents",
    "translation": "pairs",
    "summarisation": "pairs",
    "dialogue": "pairs",
    "classification": "labelled",
    "regression": "scored",
    "multi_task": "mixture",
    "image_classification": "images",
    "recall": "sequences",
}


CLASS_METRICS = ("accuracy", "f1", "matthews")
SCORE_METRICS = ("pearson", "spearman")
"""What may rank models that tell classes, and scores."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the scores of the training side; the fields are those of `BareConfig`."""

    score_mean: float
    score_std: float


@dataclass(frozen=True)
class Member:
    """One of several tasks at once.

    Attributes:
        labels: the names of its classes; none of scores.
        scale: of its scores; None of classes.
    """

    name: str
    labels: tuple[str, ...]
    scale: Scale | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Which of its own may count for the whole; the first does where nothing is said."""
        return CLASS_METRICS if self.scale is None else SCORE_METRICS

    @property
    def outputs(self) -> dict[str, Any]:
        """Of which outputs of a model are its own, as `BareConfig.members` says it."""
        return {"name": self.name, **({"labels": list(self.labels)} if self.scale is None else asdict(self.scale))}


@dataclass(frozen=True)
class ImageFormat:
    """What all images of a task have in common; the fields are those of `BareConfig`.

    Attributes:
        image_size: (height, width) in pixels.
        patch_size: pixels on a side of a patch.
        num_channels: 1 for gray, 3 for colours.
        image_mean, image_std: of each channel over the training side, where pixels go from 0 to 1.
    """

    image_size: tuple[int, int]
    patch_size: int
    num_channels: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]


@dataclass(frozen=True)
class TaskData:
    """A corpus as one task sees it.

    Attributes:
        task: its name.
        tokenizer: trained on the training side alone, or the one that was given; of recall, the corpus's vocabulary;
            None of images.
        train, validation, test: examples of token ids, or of images; test may be empty.
        collate: makes a list of examples a batch of tensors.
        notes: the corpus's sentences and those about tokens and lengths.
        languages: (source, target) of a translation, where known.
        length_ratio: source tokens per target token of the training side, `</s>` included; 1 where there are no pairs.
        decoder_only: of pairs, whether source and target are one sequence, of which the target is predicted.
        labels: of a classification, the names of the classes in the order of their ids.
        images: of images, what they have in common.
        scale: of a regression, that of the scores.
        members: of several tasks at once, each.
    """

    task: Task
    tokenizer: Any
    train: Examples
    validation: Examples
    test: Examples
    collate: Callable[[Sequence[Example]], dict[str, Tensor]]
    notes: tuple[str, ...] = ()
    languages: tuple[str, str] | None = None
    length_ratio: float = 1.0
    decoder_only: bool = False
    labels: tuple[str, ...] = ()
    images: ImageFormat | None = None
    scale: Scale | None = None
    members: tuple[Member, ...] = ()

    @property
    def has_classes(self) -> bool:
        """Whether something else than scores is told."""
        return self.scale is None and (not self.members or any(member.labels for member in self.members))

    @property
    def form(self) -> str:
        """What decides about the model: the task, or that all is read by one decoder."""
        return "decoder_only" if self.decoder_only else self.task


def within_length(
    part: str, noun: str, lengths: Sequence[int], max_length: int, too_long: TooLong, notes: list[str]
) -> list[int]:
    """Which of a side's examples stay; a note says how many do not, or are to be cut."""
    sizes = np.array(lengths, np.int64)
    long = sizes > max_length
    if not long.any():
        return list(range(len(sizes)))
    what = (
        f"{counted(int(long.sum()), f'{part} {noun}')} longer than {max_length} tokens (the longest has {sizes.max()})"
    )
    if too_long == "error":
        raise InputError(f"{what}: write a larger task.max_length, or task.too_long: drop or cut")
    drop = too_long == "drop" and part == "train"
    notes.append(f"{'Dropped' if drop else 'Cut'} {what}.")
    kept: list[int] = np.flatnonzero(~long | (not drop)).tolist()
    return kept


def labels_of(corpus: Corpus) -> tuple[str, ...]:
    """The classes: those that the corpus names, or those of the training side, numbers before words."""
    sides = {part: dict.fromkeys(item.label for item in getattr(corpus, part)) for part in PARTS}
    noun = "image" if corpus.kind == "images" else "text"
    labels = corpus.labels or tuple(sorted(sides["train"], key=_natural))
    for label in labels:
        if label not in sides["train"]:
            raise InputError(f"no training {noun} has the label {label!r}: give some that have it, or leave it out")
    for part, found in sides.items():
        for label in found:
            if label not in labels:
                known = ", ".join(labels)
                raise InputError(f"the {part} side has the label {label!r}, and the training side only {known}")
    if len(labels) < 2:
        raise InputError(
            f"all training {noun}s have the label {labels[0]!r}: a classification needs two classes or more"
        )
    return labels


def _natural(label: str) -> tuple[bool, int, str]:
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)


def sizes_of(sides: Mapping[str, Examples], noun: str) -> str:
    return ", ".join(
        f"{counted(len(side), f'{part} {noun}')} ({side.label_tokens.sum():,} predicted tokens)"
        for part, side in sides.items()
        if len(side)
    )
