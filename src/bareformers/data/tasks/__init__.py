"""From a corpus to what training and evaluation need: tokenizer, examples and collation of one task."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import cast, get_args

from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import NOUNS, Corpus, Item, cache_folder, texts_of
from bareformers.data.tasks import classification, images, language, multi_task, recall, regression, translation
from bareformers.data.tasks.base import KINDS, ImageFormat, Task, TaskData, TooLong
from bareformers.data.tasks.encoding import Encoder, end_of, has_frame, pad_of
from bareformers.data.tokens import train_tokenizer, word_tokenizer
from bareformers.errors import InputError, unknown

__all__ = ["ImageFormat", "Task", "TaskData", "end_of", "pad_of", "prepare", "training_texts"]


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
    decoder_only: bool = False,
    temperature: float = 1.0,
    reads_segments: bool = False,
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
        decoder_only: whether pairs become `</s> source </s> target </s>`, of which the target is predicted.
        temperature: of `multi_task`: an epoch visits each member in proportion to its size ** (1 / temperature).
        reads_segments: whether the model is told which text of a pair a token is of, where the tokenizer tells.

    Raises:
        InputError: corpus and task do not fit, a size is too small or too large, a pair or text is too long under
            `error`, a sequence is too long or has a word that the tokenizer does not know, a class has no training
            text or image, images differ in size, or patches do not fill them.
    """
    if task not in get_args(Task):
        raise unknown("task", task, get_args(Task))
    if too_long not in get_args(TooLong):
        raise unknown("too_long", too_long, get_args(TooLong))
    if corpus.kind in ("labelled", "scored", "mixture") and KINDS[task] == "documents":
        corpus = corpus.documents()
    if corpus.kind != KINDS[task]:
        others = " or ".join(name for name, kind in KINDS.items() if kind == corpus.kind)
        others += ", or scores: true in the data" if (corpus.kind, task) == ("labelled", "regression") else ""
        raise InputError(
            f"{task} needs {NOUNS[KINDS[task]]}s and the source gives {NOUNS[corpus.kind]}s: write task.name: {others}"
        )
    if task == "image_classification":
        return images.prepare(corpus.less(share), patch, shift)
    is_judged = KINDS[task] in ("labelled", "scored", "mixture")
    if max_length < (least := 3 if is_judged else 2):
        raise InputError(f"max_length {max_length} leaves nothing to predict: write {least} or more")
    if tokenizer is None and task == "recall":
        tokenizer = word_tokenizer(corpus.vocabulary)
    elif tokenizer is None:
        tokenizer = train_tokenizer(training_texts(corpus), vocab_size, cache or cache_folder())
    does_without_end = (is_judged or task == "masked_language_modelling") and has_frame(tokenizer)
    corpus = corpus.less(share)
    if tokenizer.eos_token_id is None and not does_without_end:
        raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token: give it an eos_token")
    if task == "language_modelling":
        return language.prepare(corpus, tokenizer, max_length)
    if task == "masked_language_modelling":
        return language.prepare_masked(corpus, tokenizer, max_length, mask_share)
    if is_judged:
        encode = Encoder(tokenizer, max_length, too_long, reads_segments)
        if task == "multi_task":
            return multi_task.prepare(corpus, encode, temperature)
        return (classification if task == "classification" else regression).prepare(corpus, encode)
    if task == "recall":
        return recall.prepare(corpus, tokenizer, max_length)
    return translation.prepare(corpus, tokenizer, max_length, too_long, task, decoder_only)


def training_texts(corpus: Corpus) -> Iterator[str]:
    """What a tokenizer learns from: all texts of the training side, those without a label too."""
    items = cast(tuple[Item, ...], corpus.train)
    return chain(chain.from_iterable(texts_of(item) for item in items), corpus.unlabelled)
