"""Texts as token ids, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

PROBE = "a"  # any text that is not empty


def ids_of(
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


def has_frame(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there are tokens of their own to begin and to end a text, as BERT has them."""
    return tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None


def end_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands between documents of which tokens are masked."""
    return cast(int, tokenizer.sep_token_id if has_frame(tokenizer) else tokenizer.eos_token_id)


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


def frame_of(tokenizer: PreTrainedTokenizerBase, is_target: bool = False) -> Frame | None:
    """What a tokenizer itself puts around a text; None where it puts nothing."""
    plain, framed = (ids_of(tokenizer, [PROBE], is_target, framed=framed)[0] for framed in (False, True))
    starts = (start for start in range(len(framed)) if plain and framed[start : start + len(plain)] == plain)
    if len(framed) > len(plain) and (start := next(starts, None)) is not None:
        return Frame(framed[:start], framed[start + len(plain) :])
    return Frame([tokenizer.cls_token_id], [tokenizer.sep_token_id]) if has_frame(tokenizer) else None
