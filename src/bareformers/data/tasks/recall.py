"""Made-up sequences, of which answers are predicted from what stands before them."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import PARTS, Corpus, WordSequence
from bareformers.data.examples import Collate, Examples, recalls
from bareformers.data.tasks.base import TaskData, sizes_of
from bareformers.data.tasks.encoding import pad_of
from bareformers.errors import InputError


def prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TaskData:
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
        f"Encoded {sizes_of(sides, 'sequence')}; the longest has {longest} tokens, the </s> before it included.",
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
