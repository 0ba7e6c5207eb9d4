"""Several tasks at once, which one encoder learns."""

from __future__ import annotations

from bareformers.data.batching import Sampling
from bareformers.data.corpus import PARTS, Corpus
from bareformers.data.examples import Collate, mixed
from bareformers.data.tasks import classification, regression
from bareformers.data.tasks.base import Member, TaskData
from bareformers.data.tasks.encoding import Encoder, pad_of
from bareformers.errors import InputError


def prepare(corpus: Corpus, encode: Encoder, temperature: float) -> TaskData:
    found: dict[str, TaskData] = {}
    for name, each in corpus.members.items():
        try:
            found[name] = (classification if each.kind == "labelled" else regression).prepare(each, encode)
        except InputError as error:
            raise InputError(f"data.members.{name}: {error}") from None
    members = tuple(Member(name, data.labels, data.scale) for name, data in found.items())
    sizes = [len(data.train) for data in found.values()]
    sampling = None if temperature == 1 else Sampling.by_temperature(sizes, temperature)
    visits = sizes if sampling is None else sampling.visits
    for name, count in zip(found, visits, strict=True):
        if not count:
            raise InputError(f"with task.sampling.temperature {temperature:g} {name} is never read; write a higher one")
    told = ", ".join(
        f"{name} {count:,} times" + ("" if count == size else f" (has {size:,})")
        for name, count, size in zip(found, visits, sizes, strict=True)
    )
    train, validation, test = (
        mixed([getattr(data, part) for data in found.values()], sampling if part == "train" else None) for part in PARTS
    )
    return TaskData(
        "multi_task",
        encode.tokenizer,
        train,
        validation,
        test,
        collate=Collate(pad_of(encode.tokenizer), labels="scores"),
        notes=(
            *(f"{name}: {note}" for name, data in found.items() for note in data.notes),
            f"An epoch reads {sum(sizes):,} texts: {told}.",
        ),
        members=members,
    )
