"""Pairs of texts, of which the second is predicted from the first."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import PARTS, Corpus, Pair
from bareformers.data.examples import Collate, Examples, answered, translations
from bareformers.data.tasks.base import Task, TaskData, TooLong, sizes_of, within_length
from bareformers.data.tasks.encoding import Frame, frame_of, ids_of, pad_of
from bareformers.data.tokens import bytes_per_token
from bareformers.errors import InputError


def frames_of(tokenizer: PreTrainedTokenizerBase, decoder_only: bool) -> list[Frame]:
    """What stands around a source and around a target; one decoder reads the `</s>` before a source beside that."""
    plain = Frame([], [tokenizer.eos_token_id])
    if decoder_only:
        return [plain, plain]
    return [frame_of(tokenizer, is_target) or plain for is_target in (False, True)]


def source_ids(tokenizer: PreTrainedTokenizerBase, text: str, decoder_only: bool) -> list[int]:
    """A source as training gives it to a model, however long it is."""
    (ids,) = ids_of(tokenizer, [text.strip()])
    frame, _ = frames_of(tokenizer, decoder_only)
    before = [tokenizer.eos_token_id] if decoder_only else []
    return [*before, *frame.before, *ids, *frame.behind]


def prepare(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    too_long: TooLong,
    task: Task = "translation",
    decoder_only: bool = False,
) -> TaskData:
    if getattr(tokenizer, "separate_vocabs", False):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has a vocabulary for each language, and models here have one; "
            f"take a model with a joint vocabulary"
        )
    byte_sizes, notes = bytes_per_token(tokenizer), list[str]()
    last = task == "dialogue"  # what was said last is answered to, and so stays where a source is cut
    frames = frames_of(tokenizer, decoder_only)

    def encode(part: str) -> Examples:
        pairs: tuple[Pair, ...] = getattr(corpus, part)
        encoded = [ids_of(tokenizer, [pair[side] for pair in pairs], is_target=side == 1) for side in (0, 1)]
        sizes = [[frame.size + len(ids) for ids in side] for frame, side in zip(frames, encoded, strict=True)]
        kept = within_length(
            part, "pair", [max(pair) for pair in zip(*sizes, strict=True)], max_length, too_long, notes
        )
        if last:
            encoded[0] = [ids[-(max_length - frames[0].size) :] for ids in encoded[0]]
        pairs = tuple(pairs[index] for index in kept)
        sources, targets = (
            [frame.around(side[index], max_length) for index in kept]
            for frame, side in zip(frames, encoded, strict=True)
        )
        if decoder_only:
            prompts = [[tokenizer.eos_token_id, *source] for source in sources]
            return answered(prompts, targets, pairs, byte_sizes)
        return translations(sources, targets, pairs, byte_sizes)

    sides = {part: encode(part) for part in PARTS}
    if not len(sides["train"]):
        raise InputError(f"all training pairs are longer than max_length {max_length}: write a larger one")
    num_sources = sides["train"].inputs.lengths.sum()
    if decoder_only:
        num_sources -= sides["train"].label_tokens.sum() + len(sides["train"])
    ratio = float(num_sources / sides["train"].label_tokens.sum())
    notes.append(f"Encoded {sizes_of(sides, 'pair')}; {ratio:.2f} source tokens per target token.")
    if several := sum(len(pair) > 2 for pair in sides["test"].texts):
        notes.append(f"Of the test pairs, {several:,} have several references: likelihood is that of the first.")
    return TaskData(
        task,
        tokenizer,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=Collate(pad_of(tokenizer), labels="below" if decoder_only else "beside"),
        notes=(*corpus.notes, *notes),
        languages=corpus.languages,
        length_ratio=ratio,
        decoder_only=decoder_only,
    )
