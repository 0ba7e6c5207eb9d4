"""From a corpus to what training and evaluation need: tokenizer, examples and collation of one task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import PARTS, Corpus, Item, Kind, Pair, WordSequence, cache_folder, counted
from bareformers.data.examples import Collate, Example, Examples, chunks, recalls, translations, whole
from bareformers.data.tokens import bytes_per_token, train_tokenizer, word_tokenizer
from bareformers.errors import InputError, unknown

Task = Literal["language_modelling", "translation", "recall"]
TooLong = Literal["drop", "cut", "error"]

KINDS: dict[Task, Kind] = {"language_modelling": "documents", "translation": "pairs", "recall": "sequences"}


@dataclass(frozen=True)
class TaskData:
    """A corpus as one task sees it.

    Attributes:
        task: `language_modelling`, `translation` or `recall`.
        tokenizer: trained on the training side alone, or the one that was given; of recall, the corpus's vocabulary.
        train, validation, test: examples of token ids; test may be empty.
        collate: makes a list of examples a batch of tensors.
        notes: the corpus's sentences and those about tokens and lengths.
        languages: (source, target) of a translation, where known.
        length_ratio: source tokens per target token of the training side, `</s>` included; 1 where there are no pairs.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    train: Examples
    validation: Examples
    test: Examples
    collate: Callable[[Sequence[Example]], dict[str, Tensor]]
    notes: tuple[str, ...] = ()
    languages: tuple[str, str] | None = None
    length_ratio: float = 1.0


def prepare(
    corpus: Corpus,
    task: Task,
    vocab_size: int,
    max_length: int,
    too_long: TooLong = "drop",
    cache: Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> TaskData:
    """Train the tokenizer on the training side, unless one is given, and encode all three sides.

    Args:
        corpus: documents for `language_modelling`, pairs for `translation` (one vocabulary for both languages),
            sequences for `recall`.
        vocab_size: tokens of the vocabulary, at least 260; not read for `recall`, whose corpus names its words.
        max_length: tokens per block, or per side of a pair with its `</s>`, or of the longest sequence with it.
        too_long: what happens to longer training pairs: `drop`, `cut` or `error`. Validation and test pairs are never
            dropped, but cut and counted, with their references whole; `error` speaks of them too.
        cache: folder for tokenizers; `cache_folder()` where not given.
        tokenizer: of a trained model, in place of one trained here; `vocab_size` is not read then. Its
            end-of-sequence token also pads where it has no padding token. `num_bytes` is 0 if it is not byte-level.

    Raises:
        InputError: corpus and task do not fit, a size is too small or too large, a pair is too long under `error`, or
            a sequence is too long or has a word that the tokenizer does not know.
    """
    if task not in get_args(Task):
        raise unknown("task", task, get_args(Task))
    if too_long not in get_args(TooLong):
        raise unknown("too_long", too_long, get_args(TooLong))
    if corpus.kind != KINDS[task]:
        other = next(name for name, kind in KINDS.items() if kind == corpus.kind)
        raise InputError(f"{task} needs {KINDS[task]} and the source gives {corpus.kind}: write task.name: {other}")
    if max_length < 2:
        raise InputError(f"max_length {max_length} leaves nothing to predict: write 2 or more")
    if tokenizer is None and task == "recall":
        tokenizer = word_tokenizer(corpus.vocabulary)
    elif tokenizer is None:
        items = cast(tuple[Item, ...], corpus.train)
        texts = chain.from_iterable((item,) if isinstance(item, str) else item for item in items)
        tokenizer = train_tokenizer(texts, vocab_size, cache or cache_folder())
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token: give it an eos_token")
    if task == "language_modelling":
        return _language_modelling(corpus, tokenizer, max_length)
    if task == "recall":
        return _recall(corpus, tokenizer, max_length)
    return _translation(corpus, tokenizer, max_length, too_long)


def _language_modelling(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
    eos, byte_sizes = tokenizer.eos_token_id, bytes_per_token(tokenizer)
    sides = {part: chunks(_encode(tokenizer, getattr(corpus, part)), eos, max_length, byte_sizes) for part in PARTS}
    packed = sides["train"]
    sides["train"] = whole(packed, max_length, byte_sizes)
    if not len(sides["train"]):
        raise InputError(
            f"the training side has only {packed.lengths[0]} tokens, less than one chunk: "
            f"write task.max_length: {packed.lengths[0]} or less, or give more text"
        )
    notes = [f"Packed into chunks of {max_length} tokens: {_sizes(sides, 'chunk')}."]
    if dropped := packed.label_tokens.sum() - sides["train"].label_tokens.sum():
        notes.append(f"Left out the last {counted(dropped, 'training token')}, which fill no chunk.")
    return TaskData(
        "language_modelling",
        tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(_pad(tokenizer), causal=True),
        notes=(*corpus.notes, *notes),
    )


def _translation(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: TooLong) -> TaskData:
    eos, byte_sizes = tokenizer.eos_token_id, bytes_per_token(tokenizer)
    notes: list[str] = []

    def encode(part: str) -> Examples:
        pairs: tuple[Pair, ...] = getattr(corpus, part)
        encoded = [_encode(tokenizer, [pair[side] for pair in pairs]) for side in (0, 1)]
        longest = np.array([max(len(source), len(target)) + 1 for source, target in zip(*encoded, strict=True)])
        long = longest > max_length
        if count := int(long.sum()):
            what = f"{counted(count, f'{part} pair')} longer than {max_length} tokens (the longest has {longest.max()})"
            if too_long == "error":
                raise InputError(f"{what}: write a larger task.max_length, or task.too_long: drop or cut")
            drop = too_long == "drop" and part == "train"
            notes.append(f"{'Dropped' if drop else 'Cut'} {what}.")
            if drop:
                kept = np.flatnonzero(~long).tolist()
                pairs = tuple(pairs[index] for index in kept)
                encoded = [[side[index] for index in kept] for side in encoded]
        sources, targets = ([[*ids[: max_length - 1], eos] for ids in side] for side in encoded)
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
        collate=Collate(_pad(tokenizer), causal=False),
        notes=(*corpus.notes, *notes),
        languages=corpus.languages,
        length_ratio=ratio,
    )


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
        collate=Collate(_pad(tokenizer), causal=True),
        notes=(*corpus.notes, *notes),
    )


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # else it warns of documents longer than a model takes, which are packed
    )
    return cast(list[list[int]], encoded["input_ids"])


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return cast(int, tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _sizes(sides: dict[str, Examples], noun: str) -> str:
    return ", ".join(
        f"{counted(len(side), f'{part} {noun}')} ({side.label_tokens.sum():,} predicted tokens)"
        for part, side in sides.items()
        if len(side)
    )
