"""What a model sees: token ids, example by example, and how examples become a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Ids = NDArray[np.int32]
Example = dict[str, Ids]

IGNORED = -100  # the label that every loss leaves out


@dataclass(frozen=True)
class Spans:
    """Many sequences of ids as slices of one array; they may overlap. Costs no object per sequence.

    Attributes:
        ids: [N], int32.
        starts, stops: [sequences], int64, positions in `ids`.
    """

    ids: Ids
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def join(cls, sequences: Sequence[Sequence[int]]) -> Spans:
        """The sequences one after the other."""
        stops = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
        total = int(stops[-1]) if len(stops) else 0
        ids = np.fromiter((token for sequence in sequences for token in sequence), np.int32, total)
        return cls(ids, np.concatenate([[0], stops[:-1]]).astype(np.int64)[: len(stops)], stops)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.stops - self.starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Ids:
        return self.ids[self.starts[index] : self.stops[index]]


class Examples(Dataset[Example]):
    """Examples as `{"input_ids": int32 [S], "labels": int32 [T]}`.

    Attributes:
        lengths: the longer of both, per example, [examples]; for batching.
        label_tokens: how many tokens are predicted, per example, [examples].
        texts: of translations, per example the source and the reference that metrics see, uncut; else empty.
        num_bytes: UTF-8 bytes of all predicted text: nats / ln 2 / num_bytes are bits per byte. 0 for made-up words.
    """

    def __init__(
        self,
        inputs: Spans,
        labels: Spans,
        label_tokens: NDArray[np.int64],
        num_bytes: int,
        texts: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.inputs, self.labels = inputs, labels
        self.lengths = np.maximum(inputs.lengths, labels.lengths)
        self.label_tokens = label_tokens
        self.num_bytes = num_bytes
        self.texts = tuple(texts)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Example:
        return {"input_ids": self.inputs[index], "labels": self.labels[index]}


def chunks(documents: Iterable[Sequence[int]], eos: int, length: int, byte_sizes: NDArray[np.int64]) -> Examples:
    """Documents in chunks of `length` tokens, for next-token prediction; the last may be shorter.

    The stream is `</s> document </s> document </s> ...`, and a chunk begins with the last token of the one before. A
    model that shifts its labels therefore predicts every token once, from position 1 of each chunk: all text of all
    documents, and the `</s>` after each. Only the first `</s>` is given. `num_bytes` counts the text alone, for `</s>`
    stands for no byte; so bits per byte charge a model for saying where documents end, but nowhere for white space
    or bytes that nobody wrote.

    Args:
        byte_sizes: bytes of text per token id, [vocab_size].
    """
    stream = Spans.join([[eos], *([*document, eos] for document in documents)]).ids
    starts = np.arange(0, max(len(stream) - 1, 0), length - 1, dtype=np.int64)
    return _predicted(Spans(stream, starts, np.minimum(starts + length, len(stream))), byte_sizes)


def whole(examples: Examples, length: int, byte_sizes: NDArray[np.int64]) -> Examples:
    """The `chunks` without a last one that is shorter than `length`."""
    keep = examples.lengths == length
    inputs = examples.inputs
    return _predicted(Spans(inputs.ids, inputs.starts[keep], inputs.stops[keep]), byte_sizes)


def translations(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    texts: Sequence[tuple[str, str]],
    byte_sizes: NDArray[np.int64],
) -> Examples:
    """Encoder input and labels of sequence-to-sequence models, which shift the labels themselves."""
    labels = Spans.join(targets)
    return Examples(Spans.join(sources), labels, labels.lengths, int(byte_sizes[labels.ids].sum()), texts)


def recalls(sequences: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Examples:
    """Sequences of which only the tokens at the positions `answers` are predicted, by models that shift the labels.

    Raises:
        ValueError: a sequence has no answers, or one outside it, or at position 0, where nothing comes before it.
    """
    inputs = Spans.join(sequences)
    counts = np.array([len(positions) for positions in answers], np.int64)
    if not counts.all():
        raise ValueError("a sequence has no answers, so that there is nothing to predict in it")
    positions = np.fromiter((position for row in answers for position in row), np.int64, int(counts.sum()))
    if ((positions < 1) | (positions >= np.repeat(inputs.lengths, counts))).any():
        raise ValueError("an answer stands outside its sequence, or at its first position")
    predicted = np.repeat(inputs.starts, counts) + positions
    labels = np.full_like(inputs.ids, IGNORED)
    labels[predicted] = inputs.ids[predicted]
    return Examples(inputs, Spans(labels, inputs.starts, inputs.stops), counts, 0)


def _predicted(spans: Spans, byte_sizes: NDArray[np.int64]) -> Examples:
    """Adjacent overlapping chunks, in which all but the first token is predicted."""
    end = int(spans.stops[-1]) if len(spans) else 1
    return Examples(spans, spans, spans.lengths - 1, int(byte_sizes[spans.ids[1:end]].sum()))


@dataclass(frozen=True)
class Collate:
    """Makes examples one batch of int64 tensors: input_ids [B, S], labels [B, T], attention_mask [B, S].

    Attributes:
        pad: the id that fills short rows; labels are filled with -100.
        causal: whether labels stand below the inputs (language modelling, recall). If so they are padded on the same
            side, and a batch without pads has no attention_mask. Otherwise labels are padded on the right.
        padding_side: of the inputs.
    """

    pad: int
    causal: bool
    padding_side: Literal["right", "left"] = "right"

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        inputs = [example["input_ids"] for example in examples]
        labels = [example["labels"] for example in examples]
        batch = {
            "input_ids": _padded(inputs, self.pad, self.padding_side),
            "labels": _padded(labels, IGNORED, self.padding_side if self.causal else "right"),
        }
        if not self.causal or len({len(row) for row in inputs}) > 1:
            batch["attention_mask"] = _padded([np.ones_like(row) for row in inputs], 0, self.padding_side)
        return batch


def _padded(rows: Sequence[Ids], fill: int, side: str) -> Tensor:
    filled = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for line, row in zip(filled, rows, strict=True):
        if side == "left":
            line[len(line) - len(row) :] = row
        else:
            line[: len(row)] = row
    return torch.from_numpy(filled)
