"""What a model sees: token ids, example by example, and how examples become a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from bareformers.data.batching import Sampling, Visit

Ids = NDArray[np.int32]
Example = dict[str, NDArray[Any]]

IGNORED = -100  # the label that every loss leaves out


@dataclass(frozen=True)
class Spans:
    """Many sequences of ids as slices of one array; they may overlap. Costs no object per sequence.

    Attributes:
        ids: [N], int32; of scores float32.
        starts, stops: [sequences], int64, positions in `ids`.
    """

    ids: NDArray[Any]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def join(cls, sequences: Sequence[Sequence[int]]) -> Spans:
        """The sequences one after the other."""
        stops = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
        total = int(stops[-1]) if len(stops) else 0
        ids = np.fromiter((token for sequence in sequences for token in sequence), np.int32, total)
        return cls(ids, np.concatenate([[0], stops[:-1]]).astype(np.int64)[: len(stops)], stops)

    @classmethod
    def single(cls, numbers: NDArray[Any]) -> Spans:
        """Sequences of one number each."""
        ends = np.arange(len(numbers) + 1, dtype=np.int64)
        return cls(numbers, ends[:-1], ends[1:])

    def take(self, rows: NDArray[np.int64]) -> Spans:
        """Some of the sequences."""
        return Spans(self.ids, self.starts[rows], self.stops[rows])

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.stops - self.starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.ids[self.starts[index] : self.stops[index]]


class Examples(Dataset[Example]):
    """Examples as `{"input_ids": int32 [S], "labels": int32 [T]}`, and what else a model reads of them.

    Attributes:
        lengths: the longer of both, per example, [examples]; for batching.
        label_tokens: how many tokens are predicted, per example, [examples].
        texts: of pairs, per example the source and the references that metrics see, uncut; of classifications the text,
            uncut, and the name of its class; else empty.
        num_bytes: UTF-8 bytes of all predicted text: nats / ln 2 / num_bytes are bits per byte. 0 for made-up words,
            masked tokens, classes and scores.
        more: `token_type_ids` of pairs, and `members`, of several tasks at once the number of the one, where there are.
        sampling: how often an epoch visits each, where that is not once.
    """

    def __init__(
        self,
        inputs: Spans,
        labels: Spans,
        label_tokens: NDArray[np.int64],
        num_bytes: int,
        texts: Sequence[tuple[str, ...]] = (),
        more: Mapping[str, Spans] | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.inputs, self.labels, self.more, self.sampling = inputs, labels, dict(more or {}), sampling
        self.lengths = np.maximum(inputs.lengths, labels.lengths)
        self.label_tokens = label_tokens
        self.num_bytes = num_bytes
        self.texts = tuple(texts)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Example:
        more = {name: spans[index] for name, spans in self.more.items()}
        return {"input_ids": self.inputs[index], "labels": self.labels[index], **more}


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


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden from a masked language model (Devlin et al. 2019, arXiv:1810.04805, section 3.1).

    Of the tokens that are to be predicted, 80 % become the mask token, 10 % a random one, and 10 % stay as they are.

    Attributes:
        share: of a row's tokens that are predicted; at least one is.
        mask: the id of the mask token.
        end: the id of what parts documents, which is never predicted.
        ordinary: the ids that may stand in for another, [ordinary ids].
    """

    share: float
    mask: int
    end: int
    ordinary: Ids

    MASKED = 0.8
    RANDOM = 0.1

    @classmethod
    def by(cls, tokenizer: PreTrainedTokenizerBase, share: float, end: int) -> Masking:
        """With the mask token of `tokenizer`, and all its tokens that are not special."""
        ordinary = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        return cls(share, tokenizer.mask_token_id, end, np.array(ordinary, np.int32))

    def __call__(self, ids: Ids, count: int, random: np.random.Generator) -> Example:
        """`ids` with `count` of them hidden, and labels where these are."""
        places = random.permutation(np.flatnonzero(ids != self.end))[:count]
        fate = random.random(len(places))
        hidden, labels = ids.copy(), np.full_like(ids, IGNORED)
        labels[places] = ids[places]
        hidden[places[fate < self.MASKED]] = self.mask
        swapped = places[(fate >= self.MASKED) & (fate < self.MASKED + self.RANDOM)]
        hidden[swapped] = self.ordinary[random.integers(len(self.ordinary), size=len(swapped))]
        return {"input_ids": hidden, "labels": labels}


class Masked(Examples):
    """Rows of which other tokens are hidden in every epoch.

    The masks of a row follow from its index and from the seed and the epoch of the plan that draws it: every variant
    sees the same at the same step, and so does a run that was resumed. Under a plain index, as in validation and test,
    a row always has the same masks.
    """

    def __init__(self, rows: Spans, masking: Masking) -> None:
        real = np.concatenate([[0], np.cumsum(rows.ids != masking.end)])
        candidates = real[rows.stops] - real[rows.starts]
        kept = candidates > 0
        rows = Spans(rows.ids, rows.starts[kept], rows.stops[kept])
        wanted = np.maximum(np.rint(masking.share * rows.lengths), 1).astype(np.int64)
        super().__init__(rows, rows, np.minimum(wanted, candidates[kept]), 0)
        self.masking = masking

    def __getitem__(self, index: int) -> Example:
        drawn = (index.seed, index.epoch) if isinstance(index, Visit) else ()
        random = np.random.default_rng([*drawn, int(index)])
        return self.masking(self.inputs[index], int(self.label_tokens[index]), random)


class Images(Examples):
    """Images with a class each, as `{"pixel_values": uint8 [C, H, W], "labels": int32 [1]}`.

    Their lengths count patches. `texts` are the name of an image and that of its class. With a `shift` they are moved
    down or up, right or left, anew in every epoch; how far follows from their index and from the seed and the epoch of
    the plan that draws them, as in `Masked`. Under a plain index they stay where they are.

    Attributes:
        pixels: [images, H, W, C], uint8.
        patch: pixels on a side of a patch.
        shift: pixels that they are moved at the most.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        classes: Sequence[int],
        texts: Sequence[tuple[str, str]],
        patch: int,
        shift: int = 0,
    ) -> None:
        count, height, width = pixels.shape[:3]
        ends = (height // patch) * (width // patch) * np.arange(count + 1, dtype=np.int64)
        labels = Spans.join([[label] for label in classes])
        super().__init__(Spans(np.empty(0, np.int32), ends[:-1], ends[1:]), labels, labels.lengths, 0, texts)
        self.pixels, self.patch, self.shift = pixels, patch, shift

    def __getitem__(self, index: int) -> Example:
        pixels = self.pixels[index].transpose(2, 0, 1)
        if self.shift and isinstance(index, Visit):
            random = np.random.default_rng([index.seed, index.epoch, int(index)])
            down, right = random.integers(2 * self.shift + 1, size=2)
            _, height, width = pixels.shape
            # What comes in from outside is as the edge was.
            around = np.pad(pixels, ((0, 0), (self.shift,) * 2, (self.shift,) * 2), mode="edge")
            pixels = around[:, down : down + height, right : right + width]
        return {"pixel_values": pixels, "labels": self.labels[index]}


def packed(documents: Iterable[Sequence[int]], eos: int, length: int) -> Spans:
    """The stream `</s> document </s> document </s> ...` in rows of `length` tokens; the last may be shorter."""
    stream = Spans.join([[eos], *([*document, eos] for document in documents)]).ids
    starts = np.arange(0, len(stream), length, dtype=np.int64)
    return Spans(stream, starts, np.minimum(starts + length, len(stream)))


def judged(
    sequences: Sequence[Sequence[int]],
    labels: NDArray[Any],
    texts: Sequence[tuple[str, str]],
    segments: Sequence[Sequence[int]] = (),
) -> Examples:
    """Sequences with one class or score each.

    Args:
        labels: [sequences], int32 of classes, float32 of scores.
        texts: what people read of them: the text, and the name of the class or the score.
        segments: the token_type_ids of each, if there are.
    """
    answers = Spans.single(labels)
    more = {"token_type_ids": Spans.join(segments)} if segments else {}
    return Examples(Spans.join(sequences), answers, answers.lengths, 0, texts, more)


def mixed(members: Sequence[Examples], sampling: Sampling | None) -> Examples:
    """The examples of several tasks one after the other, of which each knows the number of its own."""

    def joined(spans: Sequence[Spans], kind: type[Any]) -> Spans:
        starts = np.cumsum([0, *(len(each.ids) for each in spans[:-1])])
        return Spans(
            np.concatenate([each.ids.astype(kind) for each in spans]),
            np.concatenate([each.starts + start for each, start in zip(spans, starts, strict=True)]),
            np.concatenate([each.stops + start for each, start in zip(spans, starts, strict=True)]),
        )

    labels = joined([each.labels for each in members], np.float32)
    number = np.repeat(np.arange(len(members), dtype=np.int32), [len(each) for each in members])
    texts = [told for each in members for told in each.texts]
    inputs = joined([each.inputs for each in members], np.int32)
    return Examples(inputs, labels, labels.lengths, 0, texts, {"members": Spans.single(number)}, sampling)


def translations(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    texts: Sequence[tuple[str, ...]],
    byte_sizes: NDArray[np.int64],
) -> Examples:
    """Encoder input and labels of sequence-to-sequence models, which shift the labels themselves."""
    labels = Spans.join(targets)
    return Examples(Spans.join(sources), labels, labels.lengths, int(byte_sizes[labels.ids].sum()), texts)


def answered(
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    texts: Sequence[tuple[str, ...]],
    byte_sizes: NDArray[np.int64],
) -> Examples:
    """Prompts with their targets behind them, which alone are predicted, by models that shift the labels."""
    rows = list(zip(prompts, targets, strict=True))
    inputs = Spans.join([[*prompt, *target] for prompt, target in rows])
    labels = Spans.join([[*[IGNORED] * len(prompt), *target] for prompt, target in rows])
    told = Spans.join(targets)
    return Examples(inputs, labels, told.lengths, int(byte_sizes[told.ids].sum()), texts)


def prompts_of(examples: Examples) -> Examples:
    """What stands before the targets of `answered`, to be continued."""
    inputs = examples.inputs
    prompts = Spans(inputs.ids, inputs.starts, inputs.stops - examples.label_tokens)
    return Examples(prompts, prompts, examples.label_tokens, 0, examples.texts)


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


def part(examples: Examples, rows: NDArray[np.int64], byte_sizes: NDArray[np.int64]) -> Examples:
    """The examples of some rows; where tokens are masked, others are than before."""
    if isinstance(examples, Images):
        classes, told = examples.labels.ids[rows].tolist(), [examples.texts[row] for row in rows]
        return Images(examples.pixels[rows], classes, told, examples.patch, examples.shift)
    inputs, labels = (spans.take(rows) for spans in (examples.inputs, examples.labels))
    if isinstance(examples, Masked):
        return Masked(inputs, examples.masking)
    counts, num_bytes = examples.label_tokens[rows], 0
    if examples.num_bytes:
        skipped = labels.lengths - counts  # the first of a row, where a model shifts its labels
        num_bytes = sum(int(byte_sizes[labels[row][skip:]].sum()) for row, skip in enumerate(skipped.tolist()))
    texts = [examples.texts[row] for row in rows] if examples.texts else ()
    more = {name: spans.take(rows) for name, spans in examples.more.items()}
    return Examples(inputs, labels, counts, num_bytes, texts, more)


def _predicted(spans: Spans, byte_sizes: NDArray[np.int64]) -> Examples:
    """Adjacent overlapping chunks, in which all but the first token is predicted."""
    end = int(spans.stops[-1]) if len(spans) else 1
    return Examples(spans, spans, spans.lengths - 1, int(byte_sizes[spans.ids[1:end]].sum()))


Labels = Literal["below", "beside", "classes", "scores"]


@dataclass(frozen=True)
class Collate:
    """Makes examples one batch of int64 tensors: input_ids [B, S], labels [B, T] or [B], attention_mask [B, S].

    Scores are float32. Where examples have them, there are token_type_ids [B, S] and members [B] too.

    Attributes:
        pad: the id that fills short rows; labels are filled with -100.
        labels: where they stand. `below` the inputs (language modelling, masked or not, and recall), padded on the same
            side; `beside` them, a sequence of their own for a decoder, padded on the right, and always with an
            attention_mask, which others have where rows are padded; or `classes` or `scores`, one for each row.
        padding_side: of the inputs.
    """

    pad: int
    labels: Labels
    padding_side: Literal["right", "left"] = "right"

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        inputs = [example["input_ids"] for example in examples]
        labels = [example["labels"] for example in examples]
        side = self.padding_side if self.labels == "below" else "right"
        batch = {"input_ids": _padded(inputs, self.pad, self.padding_side)}
        if self.labels == "scores":
            batch["labels"] = torch.from_numpy(np.concatenate(labels).astype(np.float32))
        else:
            filled = _padded(labels, IGNORED, side)
            batch["labels"] = filled[:, 0] if self.labels == "classes" else filled
        if "token_type_ids" in examples[0]:
            batch["token_type_ids"] = _padded([each["token_type_ids"] for each in examples], 0, self.padding_side)
        if "members" in examples[0]:
            batch["members"] = torch.from_numpy(np.concatenate([each["members"] for each in examples]).astype(np.int64))
        if self.labels == "beside" or len({len(row) for row in inputs}) > 1:
            batch["attention_mask"] = _padded([np.ones_like(row) for row in inputs], 0, self.padding_side)
        return batch


def collate_images(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Makes images one batch: pixel_values [B, C, H, W] from 0 to 1, labels [B]."""
    pixels = np.stack([example["pixel_values"] for example in examples])
    labels = np.concatenate([example["labels"] for example in examples])
    return {
        "pixel_values": torch.from_numpy(pixels).float() / 255,
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }


def _padded(rows: Sequence[Ids], fill: int, side: str) -> Tensor:
    filled = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for line, row in zip(filled, rows, strict=True):
        if side == "left":
            line[len(line) - len(row) :] = row
        else:
            line[: len(row)] = row
    return torch.from_numpy(filled)
