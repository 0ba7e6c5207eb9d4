"""Texts and pairs of them as token ids, and what stands around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

from bareformers.data.corpus import Labelled
from bareformers.data.tasks.base import TooLong, within_length
from bareformers.data.tokens import is_ours
from bareformers.errors import InputError

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


@dataclass(frozen=True)
class PairFrame:
    """What stands around two texts that belong together.

    Attributes:
        segments: what a model is told of the tokens up to the second text, and from there on.
    """

    before: list[int]
    between: list[int]
    behind: list[int]
    segments: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.behind)

    def around(self, first: list[int], second: list[int], max_length: int) -> tuple[list[int], list[int]]:
        """Both in it, and their segments; the longer one is cut first, so that all have at most so many tokens."""
        room = max_length - self.size
        first = first[: max(room - len(second), room - room // 2)]
        left = [*self.before, *first, *self.between]
        right = [*second[: room - len(first)], *self.behind]
        return [*left, *right], [self.segments[0]] * len(left) + [self.segments[1]] * len(right)


def pair_frame_of(tokenizer: PreTrainedTokenizerBase) -> PairFrame:
    """What a tokenizer itself puts around a pair; where it puts nothing in between, its token for an end."""
    plain = ids_of(tokenizer, [PROBE])[0]
    made = tokenizer(PROBE, PROBE, return_token_type_ids=True)
    framed, kinds = list(made["input_ids"]), made["token_type_ids"]
    places = [at for at in range(len(framed)) if plain and framed[at : at + len(plain)] == plain]
    segments = (kinds[places[0]], kinds[places[1]]) if len(places) == 2 else (0, 0)
    if len(places) == 2 and places[1] > (end := places[0] + len(plain)):
        return PairFrame(framed[: places[0]], framed[end : places[1]], framed[places[1] + len(plain) :], segments)
    if has_frame(tokenizer):
        return PairFrame([tokenizer.cls_token_id], [tokenizer.sep_token_id], [tokenizer.sep_token_id], segments)
    outside = [tokenizer.eos_token_id] if is_ours(tokenizer) else []
    return PairFrame(outside, [tokenizer.eos_token_id], outside, segments)


@dataclass(frozen=True)
class Rows:
    """Labelled texts of one side as a model reads them.

    Attributes:
        kept: which items they are.
        ids: of each.
        segments: as many for each, where a model reads them; else empty.
    """

    kept: list[int]
    ids: list[list[int]]
    segments: list[list[int]]


class Encoder:
    """Makes texts and pairs rows of ids, with what stands around them.

    Args:
        reads_segments: whether the model is told which text of a pair a token is of, where the tokenizer tells.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: TooLong, reads_segments: bool = False
    ) -> None:
        self.tokenizer, self.max_length, self.too_long = tokenizer, max_length, too_long
        frame = frame_of(tokenizer)
        if frame is None:
            end = tokenizer.eos_token_id
            frame = Frame([end], [end]) if is_ours(tokenizer) else Frame([], [])
        self.frame, self.pair = frame, pair_frame_of(tokenizer)
        tells = "token_type_ids" in tokenizer.model_input_names and self.pair.segments[0] != self.pair.segments[1]
        self.has_segments = reads_segments and tells

    def __call__(self, items: Sequence[Labelled], part: str, notes: list[str]) -> Rows:
        """The rows of a side; a note says how many do not stay, or are cut."""
        if (least := self.pair.size + 2) > self.max_length and any(item.second is not None for item in items):
            raise InputError(f"max_length {self.max_length} leaves nothing of a pair: write {least} or more")
        firsts = ids_of(self.tokenizer, [item.text for item in items])
        seconds = dict(
            zip(
                (index for index, item in enumerate(items) if item.second is not None),
                ids_of(self.tokenizer, [item.second for item in items if item.second is not None]),
                strict=True,
            )
        )
        lengths = [
            len(first) + (self.pair.size + len(seconds[index]) if index in seconds else self.frame.size)
            for index, first in enumerate(firsts)
        ]
        kept = within_length(part, "text", lengths, self.max_length, self.too_long, notes)
        if part == "train" and not kept:
            raise InputError(f"all training texts are longer than max_length {self.max_length}: write a larger one")
        rows = [self._row(firsts[index], seconds.get(index)) for index in kept]
        return Rows(kept, [ids for ids, _ in rows], [segments for _, segments in rows] if self.has_segments else [])

    def _row(self, first: list[int], second: list[int] | None) -> tuple[list[int], list[int]]:
        if second is not None:
            return self.pair.around(first, second, self.max_length)
        ids = self.frame.around(first, self.max_length)
        return ids, [self.pair.segments[0]] * len(ids)
