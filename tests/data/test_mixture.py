"""Several tasks at once: which texts they have, how often each is visited, and what is refused."""

from collections import Counter

import numpy as np
import pytest
import yaml

from bareformers.data.batching import BatchPlan, Sampling
from bareformers.data.corpus import Corpus
from bareformers.data.tasks import prepare
from bareformers.errors import InputError
from bareformers.recipe import Evaluation, Task, validated
from bareformers.registry import checked, sources
from tests.training import tiny


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load(yaml.safe_load(tiny.multi_task(tmp_path_factory.mktemp("tasks")).read_text())["data"]["members"])


def load(members):
    return checked(sources.get("mixture"), {"members": members}, "source 'mixture'").load()


def test_sides_are_those_of_the_members(corpus):
    assert corpus.kind == "mixture" and list(corpus.members) == ["kinds", "same", "alike"]
    assert [each.kind for each in corpus.members.values()] == ["labelled", "labelled", "scored"]
    for side in ("train", "validation", "test"):
        own = [getattr(each, side) for each in corpus.members.values()]
        assert getattr(corpus, side) == own[0] + own[1] + own[2] and all(own)
    assert corpus.notes[0].startswith("kinds: Read 300 labelled texts")
    texts = [text for item in corpus.train for text in (item.text, item.second) if text]
    assert corpus.documents().train == tuple(texts)


def test_the_task(corpus, cache):
    data = prepare(corpus, "multi_task", 300, 32, cache=cache)
    told = {member.name: (member.labels, member.metrics[0]) for member in data.members}
    scores = ((), "pearson")
    assert told == {"kinds": (("0", "1", "2"), "accuracy"), "same": (("0", "1"), "accuracy"), "alike": scores}
    sizes = [len(each.train) for each in corpus.members.values()]
    batch = data.collate([data.train[index] for index in (0, sizes[0], sizes[0] + sizes[1])])
    firsts = [each.train[0].label for each in corpus.members.values()]
    assert batch["members"].tolist() == [0, 1, 2] and batch["labels"].tolist() == [float(label) for label in firsts]
    alone = prepare(corpus.members["alike"], "regression", 300, 32, tokenizer=data.tokenizer)
    assert data.members[2].scale == alone.scale
    for index in range(len(alone.train)):
        example, other = data.train[sizes[0] + sizes[1] + index], alone.train[index]
        assert example["input_ids"].tolist() == other["input_ids"].tolist() and example["labels"] == other["labels"]
    assert data.notes[-1].startswith(f"An epoch reads {sum(sizes)} texts: kinds {sizes[0]} times, same {sizes[1]}")
    assert data.train.sampling is None and data.has_classes


# Sampling


def test_shares_follow_the_temperature():
    sizes = (1000, 100, 10)
    assert Sampling.by_temperature(sizes, 1.0).visits == sizes
    flat = Sampling.by_temperature(sizes, 1e9).visits
    assert sum(flat) == 1110 and max(flat) - min(flat) <= 1
    half = Sampling.by_temperature(sizes, 2.0).visits
    total = sum(size**0.5 for size in sizes)
    assert sum(half) == 1110
    assert all(abs(count - 1110 * size**0.5 / total) <= 1 for count, size in zip(half, sizes, strict=True))


def test_visits_are_even_and_repeatable():
    sampling = Sampling((30, 7), (12, 25))
    epochs = [sampling(3, epoch) for epoch in range(10)]
    for epoch, indices in enumerate(epochs):
        assert (indices < 30).sum() == 12 and (indices >= 30).sum() == 25
        assert (indices == sampling(3, epoch)).all()
    counts = Counter(np.concatenate(epochs).tolist())
    assert {counts[index] for index in range(30)} == {4} and {counts[index] for index in range(30, 37)} <= {35, 36}
    assert (epochs[0] != sampling(4, 0)).any() and (epochs[0][:12] != epochs[5][:12]).any()


def test_plans_that_sample():
    random = np.random.default_rng(0)
    lengths, sampling = random.integers(3, 30, 90), Sampling((80, 10), (45, 45))

    def plan(**given):
        return BatchPlan(lengths, np.ones(90, int), 100, 5, sampling=sampling, **given)

    batches = list(plan(epochs=3))
    assert len(batches) == len(plan(epochs=3)) and plan(epochs=3).epochs == 3 and plan(epochs=3).tokens == 270
    assert all(len(batch) * lengths[batch].max() <= 100 for batch in batches)
    by_epoch = [[int(index) for batch in batches for index in batch if index.epoch == epoch] for epoch in range(3)]
    assert [sorted(each) for each in by_epoch] == [sorted(sampling(5, epoch).tolist()) for epoch in range(3)]
    assert list(plan(steps=40)) == batches[:40] and any(0 < sum(np.array(batch) < 80) < len(batch) for batch in batches)


def test_how_often_each_is_visited_is_said_by_a_task():
    one, other = (Task(name="multi_task", sampling=given) for given in ("proportional", {"temperature": 2}))
    assert (one.temperature, other.temperature) == (1.0, 2.0) and len({one, other}) == 2
    assert Task(**other.model_dump()) == other


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": None}, "data.members.same is missing its source: write one, as in"),
        ({"same": "labelled_text"}, "data.members.same: labelled_text: write either path"),
        ({"a b": {}}, "a member's name has letters, digits, '_' and '-' only, not 'a b'"),
        ({"same": {"name": "nothing"}}, "unknown source 'nothing'"),
        ({"same": {"name": "copy"}}, "data.members.same gives sequences, and members are labelled or scored texts"),
        ({"same": {"name": "labelled_text", "path": "nowhere.txt"}}, "data.members.same: cannot read nowhere.txt"),
        ("one", "members has the data of two tasks or more"),
        ("untested", "kinds, same have a test side and alike none; give one to all members, or to none"),
    ],
)
def test_what_is_wrong_with_the_members(tmp_path, change, message):
    members = yaml.safe_load(tiny.multi_task(tmp_path).read_text())["data"]["members"]
    if change == "one":
        members = {"kinds": members["kinds"]}
    elif change == "untested":
        members["alike"]["train"] = members["alike"].pop("path")
    else:
        members |= change
    with pytest.raises(InputError, match=message) as raised:
        load(members)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("task", "headline", "message"),
    [
        ("recall", "f1", "what ranks models of recall is fixed, so evaluation.headline would do nothing"),
        ("classification", "pearson", "headline 'pearson' is no score of classification that ranks; write accuracy"),
        ("classification", {"a": "f1"}, "headline of classification is written as in headline: accuracy, not"),
        ("multi_task", "f1", "headline of multi_task is written as in headline: {cola: matthews}"),
        ("multi_task", {"a": "bleu"}, "headline 'bleu' is no score of multi_task"),
    ],
)
def test_what_cannot_rank(task, headline, message):
    with pytest.raises(InputError, match=message) as raised:
        Evaluation(headline=headline).check(Task(name=task))
    assert "\n" not in str(raised.value)


def test_a_member_that_cannot_be_prepared(corpus, cache):
    alike = corpus.members["alike"]
    same = tuple(item for item in alike.train if item.label == alike.train[0].label)
    members = {**corpus.members, "alike": Corpus("scored", same, same, same)}
    wrong = Corpus("mixture", corpus.train, corpus.validation, corpus.test, members=members)
    with pytest.raises(InputError, match=r"data\.members\.alike: all training texts have the score"):
        prepare(wrong, "multi_task", 300, 32, cache=cache)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "regression", "sampling": {"temperature": 2}}, "regression does not read sampling, so it would do"),
        (
            {"name": "multi_task", "sampling": {"temperature": 0}},
            "sampling is proportional, or has a temperature above",
        ),
        (
            {"name": "recall", "vocab_size": 300},
            "recall does not read vocab_size, so it would do nothing; leave",
        ),
        ({"name": "recall", "too_long": "cut"}, "recall does not read too_long"),
        ({"name": "language_modelling", "too_long": "cut"}, "language_modelling does not read too_long"),
        ({"name": "multi_task", "sampling": {"temperatur": 2}}, "sampling is proportional, or has a temperature above"),
        ({"name": "multi_task", "sampling": "uniform"}, "sampling is proportional, or has a temperature above 0"),
    ],
)
def test_what_is_wrong_with_the_task(given, message):
    with pytest.raises(InputError, match=message) as raised:
        validated(Task, given, "task")
    assert "\n" not in str(raised.value)
