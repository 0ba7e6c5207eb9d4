"""What sources give: a training, a validation and a test side, and sentences about how they came about."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from bareformers.errors import InputError

Kind = Literal["documents", "pairs", "sequences", "labelled", "scored", "mixture", "images"]
Pair = tuple[str, ...]
"""A source, its target, and what else would be right for it."""

PARTS = ("train", "validation", "test")
NOUNS: dict[Kind, str] = {
    "documents": "document",
    "pairs": "pair",
    "sequences": "sequence",
    "labelled": "labelled text",
    "scored": "scored text",
    "mixture": "text",
    "images": "image",
}

BESIDE = "‖"  # stands between the texts of a pair, for people


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, or two that belong together, and the name of its class, or its score in digits."""

    text: str
    label: str
    second: str | None = None

    @property
    def whole(self) -> str:
        """Both texts, for people."""
        return self.text if self.second is None else f"{self.text} {BESIDE} {self.second}"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """An image and the name of its class.

    Attributes:
        pixels: [H, W] or [H, W, C], uint8.
        label: the name of the class.
        name: where it stands, for people: a file, or a row of an array.
    """

    pixels: NDArray[np.uint8]
    label: str
    name: str

    @property
    def digest(self) -> str:
        """Equal for images whose pixels are."""
        return sha256(repr(self.pixels.shape).encode() + self.pixels.tobytes()).hexdigest()


Item = str | Pair | Labelled | LabelledImage


@dataclass(frozen=True, slots=True)
class WordSequence:
    """Words in order, of which some are predicted from those before them.

    Attributes:
        words: without white space inside.
        answers: the positions of the predicted words, ascending.
    """

    words: tuple[str, ...]
    answers: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """Three sides of text or of made-up words. Training and validation are never empty; test may be.

    Attributes:
        kind: `documents` for strings, `pairs` for (source, target) strings, with other right targets behind them where
            there are any, `sequences` for `WordSequence`, `labelled` for `Labelled`, `scored` for those whose labels
            are numbers, `mixture` for both, `images` for `LabelledImage`.
        train, validation, test: items of that kind, in a fixed order.
        notes: sentences for the log and the report: what was read, what was removed and why.
        languages: of pairs, as (source, target), where the source of the data knows them.
        vocabulary: of sequences, every word that can occur; their order is that of the token ids.
        labels: of labelled texts and images, every class, in the order of their ids; where empty, those of the training
            side.
        unlabelled: texts of the training side without a label, which language models and tokenizers read.
        members: of a mixture, the corpora by name whose sides, one after the other, are those of the mixture.
    """

    kind: Kind
    train: tuple[Item, ...] | tuple[WordSequence, ...]
    validation: tuple[Item, ...] | tuple[WordSequence, ...]
    test: tuple[Item, ...] | tuple[WordSequence, ...] = ()
    notes: tuple[str, ...] = ()
    languages: tuple[str, str] | None = None
    vocabulary: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    members: Mapping[str, Corpus] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("train", "validation"):
            if not getattr(self, part):
                what = f"{NOUNS[self.kind]}s"
                more = what if self.kind == "images" else "text"
                raise InputError(
                    f"the {part} side has no {what}: give more {more}, other shares, or a {part} file with some"
                )

    @classmethod
    def given(
        cls,
        kind: Kind,
        train: Iterable[Item],
        validation: Iterable[Item],
        test: Iterable[Item] = (),
        *,
        notes: Iterable[str] = (),
        languages: tuple[str, str] | None = None,
        labels: Iterable[str] = (),
    ) -> Corpus:
        """A corpus whose sides somebody else has chosen.

        Empty items are removed. Text that the test shares with the training side stays: a benchmark is what it is.
        Both are said in a note.
        """
        sides: dict[str, tuple[Item, ...]] = {}
        said = list(notes)
        for part, items in zip(PARTS, (train, validation, test), strict=True):
            kept, empty = _cleaned(items)
            sides[part] = tuple(kept)
            if empty:
                said.append(_emptied(kind, empty, f" of the {part} side"))
        seen = {_content(item) for item in sides["train"]}
        if repeated := sum(_content(item) in seen for item in sides["test"]):
            what = "sources" if kind == "pairs" else f"{NOUNS[kind]}s"
            said.append(f"Of {len(sides['test']):,} test {what}, {repeated:,} also stand in the training side.")
        train, validation, test = sides.values()
        return cls(kind, train, validation, test, tuple(said), languages, labels=tuple(labels))

    @classmethod
    def divided(
        cls,
        kind: Kind,
        items: Iterable[tuple[str, Item]],
        *,
        validation_share: float,
        test_share: float,
        notes: Iterable[str] = (),
        languages: tuple[str, str] | None = None,
        labels: Iterable[str] = (),
        targets_recur: bool = False,
    ) -> Corpus:
        """A corpus divided by the SHA-256 of a key per item, given as (key, item); equal keys stay together.

        Empty items are removed. So are training items of which either side also stands in validation or test, and
        validation items of which either side stands in the test. Both are said in a note.

        Args:
            targets_recur: whether different sources have equal targets, as different questions are answered by "Yes.",
                so that only equal sources are held against an item.
        """
        keyed = list(items)
        kept, empty = _cleaned(item for _, item in keyed)
        keys = [key for key, item in keyed if _filled(item)]
        said = list(notes)
        if empty:
            said.append(_emptied(kind, empty))
        part_of = assign_parts(keys, validation_share, test_share)
        sides: dict[str, list[Item]] = {part: [] for part in PARTS}
        for key, item in zip(keys, kept, strict=True):
            sides[part_of[key]].append(item)
        held_out: set[tuple[int, str]] = set()
        leaked, compared = 0, 1 if targets_recur else None
        for part in reversed(PARTS):
            clean = [item for item in sides[part] if held_out.isdisjoint(_sides(item)[:compared])]
            leaked += len(sides[part]) - len(clean)
            held_out.update(side for item in clean for side in _sides(item)[:compared])
            sides[part] = clean
        if leaked:
            shared = "that also stand in" if kind == "images" else "sharing text with"
            shared = "with a source of" if targets_recur else shared
            said.append(f"Removed {counted(leaked, NOUNS[kind])} {shared} the test or validation side.")
        sizes = ", ".join(f"{len(sides[part]):,} {part}" for part in PARTS)
        said.append(f"Divided by hash into {sizes} {NOUNS[kind]}s.")
        train, validation, test = (tuple(sides[part]) for part in PARTS)
        return cls(kind, train, validation, test, tuple(said), languages, labels=tuple(labels))

    @classmethod
    def mixed(cls, members: Mapping[str, Corpus]) -> Corpus:
        """Labelled and scored texts of several tasks, by name."""
        train, validation, test = (
            tuple(item for member in members.values() for item in getattr(member, part)) for part in PARTS
        )
        return cls(
            "mixture",
            train,
            validation,
            test,
            tuple(f"{name}: {note}" for name, member in members.items() for note in member.notes),
            unlabelled=tuple(text for member in members.values() for text in member.unlabelled),
            members=members,
        )

    def withholding(self, kept: int, seed: int) -> Corpus:
        """Labelled texts of which `kept` of the training side keep their labels; the others are `unlabelled`.

        Classes have the shares that they have in the data, and one text at least. Which texts these are follows from
        the hashes of their text and `seed`, so that those of a smaller number are among those of a larger one, but for
        rounding.
        """
        items = cast(tuple[Labelled, ...], self.train)
        of_class: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            of_class.setdefault(item.label, []).append(index)
        if not len(of_class) <= kept <= len(items):
            raise InputError(
                f"labels_kept is {kept}, and there are {counted(len(items), 'training text')} of {len(of_class)} "
                f"classes: write a number from {len(of_class)} to {len(items)}"
            )
        found: set[int] = set()
        for label, count in shared_out(kept, {label: len(indices) for label, indices in of_class.items()}).items():
            texts = {index: " ".join(texts_of(items[index])) for index in of_class[label]}
            hashes = {index: sha256(f"{seed} {text}".encode()).digest() for index, text in texts.items()}
            found.update(sorted(of_class[label], key=lambda index: (hashes[index], index))[:count])
        said = f"Of {counted(len(items), 'training text')}, {kept:,} keep their labels, chosen by hash."
        return replace(
            self,
            train=tuple(item for index, item in enumerate(items) if index in found),
            notes=(*self.notes, said),
            unlabelled=tuple(text for index, item in enumerate(items) if index not in found for text in texts_of(item)),
        )

    def less(self, share: float) -> Corpus:
        """The same with so much of the text of the training side, chosen by hash; the other sides stay.

        What a smaller share reads is among what a larger one reads. Of each class the first by hash always stays.
        """
        if share == 1:
            return self
        if self.members:
            return Corpus.mixed({name: member.less(share) for name, member in self.members.items()})
        items = [(_key(item), _size(item)) for item in self.train]
        texts = [(sha256(text.encode()).digest(), len(text)) for text in self.unlabelled]
        kept, kept_texts = _first_by_hash(items, share), _first_by_hash(texts, share)
        if self.kind in ("labelled", "images"):
            firsts: dict[str, int] = {}
            for index in sorted(range(len(items)), key=items.__getitem__):
                firsts.setdefault(cast(Labelled | LabelledImage, self.train[index]).label, index)
            kept = sorted({*kept, *firsts.values()})
        read = f"{len(kept):,} of {counted(len(items), NOUNS[self.kind])}"
        said = f"Of the training side, {100 * share:g} % is read: {read}, chosen by hash."
        return replace(
            self,
            train=tuple(self.train[index] for index in kept),  # type: ignore[arg-type]
            notes=(*self.notes, said),
            unlabelled=tuple(self.unlabelled[index] for index in kept_texts),
        )

    def documents(self) -> Corpus:
        """Labelled texts, both of a pair, as documents: labels are not read, and those that have none count too."""
        sides = [
            tuple(text for item in cast(tuple[Item, ...], getattr(self, part)) for text in texts_of(item))
            for part in PARTS
        ]
        note = "Labels are not read; every text is a document."
        return Corpus("documents", (*sides[0], *self.unlabelled), sides[1], sides[2], (*self.notes, note))


def shared_out(total: int, sizes: dict[str, int]) -> dict[str, int]:
    """`total` in the proportions of `sizes`, whole numbers of 1 and more, none above its size: largest remainders."""
    exact = {name: total * size / sum(sizes.values()) for name, size in sizes.items()}
    found = {name: max(1, int(share)) for name, share in exact.items()}
    while (left := total - sum(found.values())) != 0:
        step = 1 if left > 0 else -1
        able = [name for name in sizes if 1 <= found[name] + step <= sizes[name]]
        found[max(able, key=lambda name: step * (exact[name] - found[name]))] += step
    return found


def assign_parts(keys: Iterable[str], validation_share: float, test_share: float) -> dict[str, str]:
    """Which part (`train`, `validation` or `test`) each distinct key belongs to.

    A key's SHA-256, read as a fraction of one, decides: below `test_share` it is test, below the sum of both shares
    validation. So a key keeps its part on every machine and when others are added. Only where a share above zero
    would get nothing, it gets the one key with the next smallest hash.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise InputError(
            f"validation_share {validation_share} and test_share {test_share} must not be negative "
            "and must leave something for training: write shares whose sum is below 1"
        )
    order = sorted((int.from_bytes(sha256(key.encode()).digest()[:8], "big") / 2**64, key) for key in set(keys))
    fractions = [fraction for fraction, _ in order]
    test_end = max(bisect_left(fractions, test_share), int(test_share > 0))
    validation_end = max(bisect_left(fractions, test_share + validation_share), test_end + int(validation_share > 0))
    return {
        key: "test" if rank < test_end else "validation" if rank < validation_end else "train"
        for rank, (_, key) in enumerate(order)
    }


def counted(number: int, noun: str) -> str:
    """`1 file`, `1,234 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def user_path(path: str | Path) -> Path:
    """`path` as a user writes it, with `~` and environment variables expanded."""
    return Path(os.path.expandvars(path)).expanduser()


def cache_folder() -> Path:
    """Where downloads and tokenizers are kept: `$BAREFORMERS_CACHE`, or `~/.cache/bareformers`. May not exist yet."""
    return user_path(os.environ.get("BAREFORMERS_CACHE") or "~/.cache/bareformers")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with `\\n` line ends and without a byte-order mark.

    Raises:
        InputError: the file is missing, has nothing but white space, or a byte that is not UTF-8 (with its line).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not valid UTF-8; convert the file to UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty: it must hold some text")
    return text.replace("\r\n", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their ends. Only line feeds end a line, so that files stay aligned.

    Raises:
        InputError: as `read_text`.
    """
    lines = read_text(path).split("\n")
    return lines if lines[-1] else lines[:-1]


def score_of(label: str, where: str) -> float:
    """The number that a label spells; `where` names it in errors."""
    try:
        found = float(label)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{where}: the score {label!r} is no number; write one as in 3.5, or leave scores: true out")
    return found


def one_way(where: str, path: object, train: object, validation: object, test: object) -> None:
    """Raise an `InputError` unless either `path`, or `train` with `validation`, is given, and not both."""
    if path is not None and (train, validation, test) != (None, None, None):
        raise InputError(f"{where}: write either path, which is divided by shares, or train, validation and test")
    if path is None and (train is None or validation is None):
        raise InputError(f"{where}: write path, which is divided by shares, or at least train and validation")


def refuse_unused(source: Any, names: Iterable[str], why: str) -> None:
    """An `InputError` for an option of `source` that the user gave but that does nothing, `why` says when."""
    defaults = {field.name: field.default for field in fields(source)}
    for name in names:
        if getattr(source, name) != defaults[name]:
            raise InputError(f"{source.name}: {name} does nothing {why}; leave it out")


def texts_of(item: Item) -> tuple[str, ...]:
    """The texts in an item: a document, all of a pair, or what has a label; of an image its digest."""
    if isinstance(item, Labelled):
        return (item.text,) if item.second is None else (item.text, item.second)
    if isinstance(item, LabelledImage):
        return (item.digest,)
    return (item,) if isinstance(item, str) else item


def _cleaned(items: Iterable[Item]) -> tuple[list[Item], int]:
    """Items with text, all but documents without outer white space; and how many had none."""
    everything = list(items)
    kept = [_stripped(item) for item in everything if _filled(item)]
    return kept, len(everything) - len(kept)


def _stripped(item: Item) -> Item:
    if isinstance(item, Labelled):
        return Labelled(item.text.strip(), item.label, None if item.second is None else item.second.strip())
    return item if isinstance(item, str | LabelledImage) else tuple(text.strip() for text in item)


def _filled(item: Item) -> bool:
    return all(text.strip() for text in texts_of(item))


def _key(item: Item | WordSequence) -> bytes:
    """Decides when an item comes, whatever the others are."""
    texts = item.words if isinstance(item, WordSequence) else texts_of(item)
    return sha256("\n".join(texts).encode()).digest()


def _size(item: Item | WordSequence) -> int:
    """How much there is to read in an item, in characters or words; equal for images of one size."""
    return len(item.words) if isinstance(item, WordSequence) else sum(map(len, texts_of(item)))


def _first_by_hash(items: Sequence[tuple[bytes, int]], share: float) -> list[int]:
    """The first of (key, size) in the order of their keys that hold `share` of all, by number in their own order."""
    left, found = share * sum(size for _, size in items), list[int]()
    for index in sorted(range(len(items)), key=lambda index: (items[index][0], index)):
        if left <= 0:
            break
        found.append(index)
        left -= items[index][1]
    return sorted(found)


def _content(item: Item) -> tuple[str, ...]:
    """What makes an item the same as another: all texts, but of a pair that is to be predicted the source alone."""
    return texts_of(item)[:1] if isinstance(item, tuple) else texts_of(item)


def _sides(item: Item) -> Sequence[tuple[int, str]]:
    """What no item of another part may share: a source or a target, or of texts that belong together any."""
    return tuple((index if isinstance(item, tuple) else 0, text) for index, text in enumerate(texts_of(item)))


def _emptied(kind: Kind, count: int, where: str = "") -> str:
    fault = "with an empty side" if kind == "pairs" else "without text"
    return f"Removed {counted(count, NOUNS[kind])}{where} {fault}."
