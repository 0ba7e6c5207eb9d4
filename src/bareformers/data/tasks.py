"""From a corpus to what training and evaluation need: tokenizer, examples and collation of one task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import (
    NOUNS,
    PARTS,
    Corpus,
    Item,
    Kind,
    Labelled,
    LabelledImage,
    Pair,
    WordSequence,
    cache_folder,
    counted,
    texts_of,
)
from bareformers.data.examples import (
    Collate,
    Example,
    Examples,
    Images,
    Masked,
    Masking,
    Spans,
    chunks,
    classifications,
    collate_images,
    packed,
    recalls,
    translations,
    whole,
)
from bareformers.data.tokens import bytes_per_token, is_ours, train_tokenizer, word_tokenizer
from bareformers.errors import InputError, unknown

Task = Literal[
    "language_modelling",
    "masked_language_modelling",
    "translation",
    "classification",
    "image_classification",
    "recall",
]
TooLong = Literal["drop", "cut", "error"]

PROBE = "a"  # any text that is not empty

KINDS: dict[Task, Kind] = {
    "language_modelling": "documents",
    "masked_language_modelling": "documents",
    "translation": "pairs",
    "classification": "labelled",
    "image_classification": "images",
    "recall": "sequences",
}


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
        labels: of a classification, the names of the classes in the order of their ids.
        images: of images, what they have in common.
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
    labels: tuple[str, ...] = ()
    images: ImageFormat | None = None


def prepare(
    corpus: Corpus,
    task: Task,
    vocab_size: int,
    max_length: int,
    too_long: TooLong = "drop",
    cache: Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    mask_share: float = 0.15,
    patch: int | None = None,
    shift: int = 0,
    share: float = 1.0,
) -> TaskData:
    """Train the tokenizer on the training side, unless one is given, and encode all three sides.

    Args:
        corpus: of the kind that the task needs, see `KINDS`; both languages of pairs get one vocabulary, and language
            models read labelled texts too, without the labels.
        vocab_size: tokens of the vocabulary, at least 260; not read for `recall`, whose corpus names its words.
        max_length: tokens per block, or per side of a pair, or of the longest sequence, or of a labelled text, with
            what stands around it: one `</s>` behind a side, one before a sequence, one on either side of a text, or
            what a tokenizer of somebody else puts around texts.
        too_long: what happens to longer training pairs and labelled texts: `drop`, `cut` or `error`. Those of the other
            sides are never dropped, but cut and counted, with their references whole; `error` speaks of them too.
        cache: folder for tokenizers; `cache_folder()` where not given.
        tokenizer: of a trained model, in place of one trained here; `vocab_size` is not read then. Its
            end-of-sequence token also pads where it has no padding token. `num_bytes` is 0 if it is not byte-level.
            References are made of the tokens that it has for targets.
        mask_share: of the tokens of a block that `masked_language_modelling` predicts.
        patch: of `image_classification`, pixels on a side of what becomes a position; but for the corpus and `shift`,
            nothing else is read for it.
        shift: pixels that training images are moved at the most, anew in every epoch.
        share: of the training side that is encoded, chosen by hash; the tokenizer learns from all of it.

    Raises:
        InputError: corpus and task do not fit, a size is too small or too large, a pair or text is too long under
            `error`, a sequence is too long or has a word that the tokenizer does not know, a class has no training
            text or image, images differ in size, or patches do not fill them.
    """
    if task not in get_args(Task):
        raise unknown("task", task, get_args(Task))
    if too_long not in get_args(TooLong):
        raise unknown("too_long", too_long, get_args(TooLong))
    if corpus.kind == "labelled" and KINDS[task] == "documents":
        corpus = corpus.documents()
    if corpus.kind != KINDS[task]:
        others = " or ".join(name for name, kind in KINDS.items() if kind == corpus.kind)
        raise InputError(
            f"{task} needs {NOUNS[KINDS[task]]}s and the source gives {NOUNS[corpus.kind]}s: write task.name: {others}"
        )
    if task == "image_classification":
        return _image_classification(corpus.less(share), patch, shift)
    if max_length < (least := 3 if task == "classification" else 2):
        raise InputError(f"max_length {max_length} leaves nothing to predict: write {least} or more")
    if tokenizer is None and task == "recall":
        tokenizer = word_tokenizer(corpus.vocabulary)
    elif tokenizer is None:
        tokenizer = train_tokenizer(training_texts(corpus), vocab_size, cache or cache_folder())
    does_without_end = task in ("classification", "masked_language_modelling") and _has_frame(tokenizer)
    corpus = corpus.less(share)
    if tokenizer.eos_token_id is None and not does_without_end:
        raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token: give it an eos_token")
    if task == "language_modelling":
        return _language_modelling(corpus, tokenizer, max_length)
    if task == "masked_language_modelling":
        return _masked_language_modelling(corpus, tokenizer, max_length, mask_share)
    if task == "classification":
        return _classification(corpus, tokenizer, max_length, too_long)
    if task == "recall":
        return _recall(corpus, tokenizer, max_length)
    return _translation(corpus, tokenizer, max_length, too_long)


def training_texts(corpus: Corpus) -> Iterator[str]:
    """What a tokenizer learns from: all texts of the training side, those without a label too."""
    items = cast(tuple[Item, ...], corpus.train)
    return chain(chain.from_iterable(texts_of(item) for item in items), corpus.unlabelled)


def _language_modelling(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
    eos, byte_sizes = tokenizer.eos_token_id, bytes_per_token(tokenizer)
    sides = {part: chunks(_encode(tokenizer, getattr(corpus, part)), eos, max_length, byte_sizes) for part in PARTS}
    all_chunks = sides["train"]
    sides["train"] = whole(all_chunks, max_length, byte_sizes)
    if not len(sides["train"]):
        raise _less_than_a_chunk(all_chunks.lengths[0])
    notes = [f"Packed into chunks of {max_length} tokens: {_sizes(sides, 'chunk')}."]
    if dropped := all_chunks.label_tokens.sum() - sides["train"].label_tokens.sum():
        notes.append(_left_out(dropped))
    return TaskData(
        "language_modelling",
        tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(tokenizer), labels="below"),
        notes=(*corpus.notes, *notes),
    )


def _masked_language_modelling(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, share: float
) -> TaskData:
    if tokenizer.mask_token_id is None:
        raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no mask token: give it a mask_token")
    end = end_of(tokenizer)
    masking = Masking.by(tokenizer, share, end)
    rows = {part: packed(_encode(tokenizer, getattr(corpus, part)), end, max_length) for part in PARTS}
    train = rows["train"]
    full = train.lengths == max_length
    if not full.any():
        raise _less_than_a_chunk(train.lengths[0])
    rows["train"] = Spans(train.ids, train.starts[full], train.stops[full])
    sides = {part: Masked(spans, masking) for part, spans in rows.items()}
    notes = [
        f"Packed into chunks of {max_length} tokens, of which {100 * share:g} % are masked and predicted: "
        f"{_sizes(sides, 'chunk')}."
    ]
    if dropped := train.lengths[~full].sum():
        notes.append(_left_out(dropped))
    return TaskData(
        "masked_language_modelling",
        tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(tokenizer), labels="below"),
        notes=(*corpus.notes, *notes),
    )


def _less_than_a_chunk(length: int) -> InputError:
    return InputError(
        f"the training side has only {length} tokens, less than one chunk: "
        f"write task.max_length: {length} or less, or give more text"
    )


def _left_out(count: int) -> str:
    return f"Left out the last {counted(count, 'training token')}, which fill no chunk."


def _translation(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: TooLong) -> TaskData:
    if getattr(tokenizer, "separate_vocabs", False):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has a vocabulary for each language, and models here have one; "
            f"take a model with a joint vocabulary"
        )
    byte_sizes, notes = bytes_per_token(tokenizer), list[str]()
    frames = [_frame(tokenizer, is_target) or Frame([], [tokenizer.eos_token_id]) for is_target in (False, True)]

    def encode(part: str) -> Examples:
        pairs: tuple[Pair, ...] = getattr(corpus, part)
        encoded = [_encode(tokenizer, [pair[side] for pair in pairs], is_target=side == 1) for side in (0, 1)]
        sizes = [[frame.size + len(ids) for ids in side] for frame, side in zip(frames, encoded, strict=True)]
        kept = _kept(part, "pair", [max(pair) for pair in zip(*sizes, strict=True)], max_length, too_long, notes)
        pairs = tuple(pairs[index] for index in kept)
        sources, targets = (
            [frame.around(side[index], max_length) for index in kept]
            for frame, side in zip(frames, encoded, strict=True)
        )
        return translations(sources, targets, pairs, byte_sizes)

    sides = {part: encode(part) for part in PARTS}
    if not len(sides["train"]):
        raise InputError(f"all training pairs are longer than max_length {max_length}: write a larger one")
    ratio = float(sides["train"].inputs.lengths.sum() / sides["train"].labels.lengths.sum())
    notes.append(f"Encoded {_sizes(sides, 'pair')}; {ratio:.2f} source tokens per target token.")
    return TaskData(
        "translation",
        tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(tokenizer), labels="beside"),
        notes=(*corpus.notes, *notes),
        languages=corpus.languages,
        length_ratio=ratio,
    )


def _kept(
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


def _classification(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: TooLong) -> TaskData:
    labels = _labels(corpus)
    frame = _frame(tokenizer)
    if frame is None:
        end = tokenizer.eos_token_id
        frame = Frame([end], [end]) if is_ours(tokenizer) else Frame([], [])
    classes = {label: index for index, label in enumerate(labels)}
    notes: list[str] = []

    def encode(part: str) -> Examples:
        items: tuple[Labelled, ...] = getattr(corpus, part)
        encoded = _encode(tokenizer, [item.text for item in items])
        kept = _kept(part, "text", [frame.size + len(ids) for ids in encoded], max_length, too_long, notes)
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


def _image_classification(corpus: Corpus, patch: int | None, shift: int) -> TaskData:
    labels = _labels(corpus)
    classes = {label: index for index, label in enumerate(labels)}
    first: LabelledImage = cast(tuple[LabelledImage, ...], corpus.train)[0]
    shape = channels_last(first.pixels).shape
    if patch is None or patch < 1:
        such = _fitting(shape)[len(_fitting(shape)) // 2]
        raise InputError(f"image_classification needs task.patch, the side of a patch in pixels, such as {such}")
    for what, pixels in (("high", shape[0]), ("wide", shape[1])):
        if pixels % patch:
            fitting = ", ".join(map(str, _fitting(shape)))
            raise InputError(
                f"the images are {pixels} pixels {what}, which task.patch {patch} does not divide; write {fitting}"
            )

    if not 0 <= shift < min(shape[:2]):
        raise InputError(f"task.shift {shift} moves images of {sized(shape)} out of sight; write 0 or a few pixels")

    def encode(part: str) -> Images:
        items: tuple[LabelledImage, ...] = getattr(corpus, part)
        for item in items:
            if (found := channels_last(item.pixels).shape) != shape:
                raise InputError(
                    f"{item.name} of the {part} side has {sized(found)}, and {first.name} {sized(shape)}: images are "
                    f"of one size; scale them"
                )
        pixels = np.empty((len(items), *shape), np.uint8)
        for row, item in zip(pixels, items, strict=True):
            row[:] = channels_last(item.pixels)
        return Images(
            pixels,
            [classes[item.label] for item in items],
            [(item.name, item.label) for item in items],
            patch,
            shift if part == "train" else 0,
        )

    sides = {part: encode(part) for part in PARTS}
    train = sides["train"].pixels
    # Sums of whole numbers, so that no machine has another mean.
    counts = np.stack([np.bincount(train[..., channel].ravel(), minlength=256) for channel in range(shape[2])])
    values, total = np.arange(256) / 255, counts[0].sum()
    mean = counts @ values / total
    std = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
    if not std.any():
        raise InputError("all pixels of the training images are alike, so that there is nothing to tell them by")
    std[std == 0] = 1  # a channel that says nothing, as one of transparency may
    rows, columns = shape[0] // patch, shape[1] // patch
    said = ", ".join(counted(len(side), f"{part} image") for part, side in sides.items() if len(side))
    told = np.bincount(sides["train"].labels.ids, minlength=len(labels)).tolist()
    listed = ", ".join(f"{label} {count:,}" for label, count in zip(labels, told, strict=True))
    return TaskData(
        "image_classification",
        None,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=collate_images,
        notes=(
            *corpus.notes,
            f"Cut {said} of {sized(shape)} into {rows} × {columns} patches; of the training images are {listed}.",
        ),
        labels=labels,
        images=ImageFormat(
            (shape[0], shape[1]),
            patch,
            shape[2],
            tuple(float(value) for value in mean.round(6)),
            tuple(float(value) for value in std.round(6)),
        ),
    )


def channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W] or [H, W, C] -> [H, W, C]."""
    return pixels[..., None] if pixels.ndim == 2 else pixels


def sized(shape: tuple[int, ...]) -> str:
    """`28 × 28 pixels`, `32 × 32 pixels in 3 channels`: height, width, channels."""
    return f"{shape[0]} × {shape[1]} pixels" + (f" in {shape[2]} channels" if shape[2] > 1 else "")


def _fitting(shape: tuple[int, ...]) -> list[int]:
    """Sides of patches that fill images of this size, that make a few positions at least and not too many."""
    common = math.gcd(shape[0], shape[1])
    sides = [side for side in range(1, common + 1) if common % side == 0]
    return [side for side in sides if 4 <= shape[0] * shape[1] // side**2 <= 1024] or sides


def _has_frame(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there are tokens of their own to begin and to end a text, as BERT has them."""
    return tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None


def end_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands between documents of which tokens are masked."""
    return cast(int, tokenizer.sep_token_id if _has_frame(tokenizer) else tokenizer.eos_token_id)


@dataclass(frozen=True)
class Frame:
    """What stands around a text."""

    before: list[int]
    behind: list[int]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.behind)

    def around(self, ids: list[int], max_length: int) -> list[int]:
        """A text in it, cut so that both have at most so many tokens."""
        return [*self.before, *ids[: max_length - self.size], *self.behind]


def _frame(tokenizer: PreTrainedTokenizerBase, is_target: bool = False) -> Frame | None:
    """What a tokenizer itself puts around a text; None where it puts nothing."""
    plain, framed = (_encode(tokenizer, [PROBE], is_target, framed=framed)[0] for framed in (False, True))
    starts = (start for start in range(len(framed)) if plain and framed[start : start + len(plain)] == plain)
    if len(framed) > len(plain) and (start := next(starts, None)) is not None:
        return Frame(framed[:start], framed[start + len(plain) :])
    return Frame([tokenizer.cls_token_id], [tokenizer.sep_token_id]) if _has_frame(tokenizer) else None


def _labels(corpus: Corpus) -> tuple[str, ...]:
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


def _recall(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
    eos, ids = tokenizer.eos_token_id, tokenizer.get_vocab()

    def encode(part: str) -> Examples:
        sequences: tuple[WordSequence, ...] = getattr(corpus, part)
        try:
            tokens = [[eos, *map(ids.__getitem__, sequence.words)] for sequence in sequences]
        except KeyError as error:
            raise InputError(
                f"the {part} side has the word {error.args[0]!r}, which the vocabulary lacks: a source names all its "
                f"words, and a trained model keeps to those that it was trained with"
            ) from None
        if (longest := max(map(len, tokens), default=0)) > max_length:
            raise InputError(
                f"the {part} side has sequences of {longest} tokens, the </s> before them included, and "
                f"task.max_length is {max_length}: write {longest} or more"
            )
        return recalls(tokens, [[position + 1 for position in sequence.answers] for sequence in sequences])

    sides = {part: encode(part) for part in PARTS}
    longest = max(int(side.lengths.max(initial=0)) for side in sides.values())
    notes = [
        f"Encoded {_sizes(sides, 'sequence')}; the longest has {longest} tokens, the </s> before it included.",
        f"The vocabulary has {len(tokenizer)} words, special tokens included.",
    ]
    return TaskData(
        "recall",
        tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(tokenizer), labels="below"),
        notes=(*corpus.notes, *notes),
    )


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], is_target: bool = False, framed: bool = False
) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        **{"text_target" if is_target else "text": list(texts)},
        add_special_tokens=framed,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # else it warns of documents longer than a model takes, which are packed
    )
    return cast(list[list[int]], encoded["input_ids"])


def pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills short rows."""
    return cast(int, tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _sizes(sides: Mapping[str, Examples], noun: str) -> str:
    return ", ".join(
        f"{counted(len(side), f'{part} {noun}')} ({side.label_tokens.sum():,} predicted tokens)"
        for part, side in sides.items()
        if len(side)
    )
