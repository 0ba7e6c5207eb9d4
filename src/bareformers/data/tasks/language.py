"""Running text, of which the next token is predicted, or some that are masked."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import PARTS, Corpus, counted
from bareformers.data.examples import Collate, Masked, Masking, Spans, chunks, packed, whole
from bareformers.data.tasks.base import TaskData, sizes_of
from bareformers.data.tasks.encoding import end_of, ids_of, pad_of
from bareformers.data.tokens import bytes_per_token
from bareformers.errors import InputError


def prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
    eos, byte_sizes = tokenizer.eos_token_id, bytes_per_token(tokenizer)
    sides = {part: chunks(ids_of(tokenizer, getattr(corpus, part)), eos, max_length, byte_sizes) for part in PARTS}
    all_chunks = sides["train"]
    sides["train"] = whole(all_chunks, max_length, byte_sizes)
    if not len(sides["train"]):
        raise _less_than_a_chunk(all_chunks.lengths[0])
    notes = [f"Packed into chunks of {max_length} tokens: {sizes_of(sides, 'chunk')}."]
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


def prepare_masked(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int, share: float) -> TaskData:
    if tokenizer.mask_token_id is None:
        raise InputError(f"the tokenizer {tokenizer.name_or_path!r} has no mask token: give it a mask_token")
    end = end_of(tokenizer)
    masking = Masking.by(tokenizer, share, end)
    rows = {part: packed(ids_of(tokenizer, getattr(corpus, part)), end, max_length) for part in PARTS}
    train = rows["train"]
    full = train.lengths == max_length
    if not full.any():
        raise _less_than_a_chunk(train.lengths[0])
    rows["train"] = Spans(train.ids, train.starts[full], train.stops[full])
    sides = {part: Masked(spans, masking) for part, spans in rows.items()}
    notes = [
        f"Packed into chunks of {max_length} tokens, of which {100 * share:g} % are masked and predicted: "
        f"{sizes_of(sides, 'chunk')}."
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
