"""Sentence pairs, of which the second is predicted from the first."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import PARTS, Corpus, Pair
from bareformers.data.examples import Collate, Examples, translations
from bareformers.data.tasks.base import TaskData, TooLong, sizes_of, within_length
from bareformers.data.tasks.encoding import Frame, frame_of, ids_of, pad_of
from bareformers.data.tokens import bytes_per_token
from bareformers.errors import InputError


def prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: TooLong) -> TaskData:
    if getattr(tokenizer, "separate_vocabs", False):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has a vocabulary for each language, and models here have one; "
            f"take a model with a joint vocabulary"
        )
    byte_sizes, notes = bytes_per_token(tokenizer), list[str]()
    frames = [frame_of(tokenizer, is_target) or Frame([], [tokenizer.eos_token_id]) for is_target in (False, True)]

    def encode(part: str) -> Examples:
        pairs: tuple[Pair, ...] = getattr(corpus, part)
        encoded = [ids_of(tokenizer, [pair[side] for pair in pairs], is_target=side == 1) for side in (0, 1)]
        sizes = [[frame.size + len(ids) for ids in side] for frame, side in zip(frames, encoded, strict=True)]
        kept = within_length(
            part, "pair", [max(pair) for pair in zip(*sizes, strict=True)], max_length, too_long, notes
        )
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
    notes.append(f"Encoded {sizes_of(sides, 'pair')}; {ratio:.2f} source tokens per target token.")
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
