"""Made-up sequences mean what they claim: whoever reads the prompt alone can answer every query, and answers alike."""

from collections import Counter
from itertools import pairwise

import pytest

from bareformers.errors import InputError
from bareformers.registry import checked, sources

SMALL = {"train": 60, "validation": 20, "test": 20}
SETTINGS = {
    "copy": ("copy", {"length": 7, "symbols": 9}),
    "reverse": ("reverse", {"length": 7, "symbols": 9}),
    "unique": ("associative_retrieval", {"pairs": 9, "queries": 4}),
    "more_symbols": ("associative_retrieval", {"pairs": 9, "key_symbols": 30, "value_symbols": 5}),
    "repeated": ("associative_retrieval", {"keys": "repeated", "pairs": 12, "queries": 3}),
    "overwriting": ("overwriting", {"key_symbols": 6, "writes": 3, "queries": 4}),
    "multi_query": ("multi_query_recall", {"pairs": 5, "length": 31}),
}
everywhere = pytest.mark.parametrize("setting", SETTINGS)


def load(name, **given):
    return checked(sources.get(name), {**SMALL, **given}, f"source {name!r}").load()


def made(setting, **given):
    name, options = SETTINGS[setting]
    return load(name, **options, **given)


def every(corpus):
    return corpus.train + corpus.validation + corpus.test


# Solvers: from the words before an answer to the answer


def copied(words):
    middle = words.index("|")
    return words[len(words) - middle - 1]


def reversed_(words):
    middle = words.index("|")
    return words[middle - (len(words) - middle)]


def looked_up(words):
    """What stood behind the last word when it stood there as a key before."""
    *before, key = words
    return next(after for word, after in reversed(list(pairwise(before))) if word == key)


SOLVERS = {"copy": copied, "reverse": reversed_}


@everywhere
def test_every_answer_follows_from_the_words_before_it(setting):
    corpus = made(setting)
    assert corpus.kind == "sequences" and [len(side) for side in (corpus.train, corpus.test)] == [60, 20]
    for sequence in every(corpus):
        assert sequence.answers and list(sequence.answers) == sorted(set(sequence.answers))
        for position in sequence.answers:
            assert SOLVERS.get(setting, looked_up)(sequence.words[:position]) == sequence.words[position]


@everywhere
def test_answers_follow_from_the_prompt_where_no_answer_is_seen(setting):
    """Queries do not depend on each other: blanked answers are not missed."""
    for sequence in made(setting).test:
        shown = ["_" if place in sequence.answers else word for place, word in enumerate(sequence.words)]
        for position in sequence.answers:
            before = shown[:position]
            if setting in SOLVERS:
                found = SOLVERS[setting](before)
            else:
                found = next(b for a, b in reversed(list(pairwise(before[:-1]))) if a == before[-1] and b != "_")
            assert found == sequence.words[position]


@everywhere
def test_all_sequences_are_of_one_length(setting):
    """Evaluation is as long as training."""
    assert len({(len(sequence.words), len(sequence.answers)) for sequence in every(made(setting))}) == 1


@everywhere
def test_the_vocabulary_names_every_word_once(setting):
    corpus = made(setting)
    assert {word for sequence in every(corpus) for word in sequence.words} <= set(corpus.vocabulary)
    assert len(set(corpus.vocabulary)) == len(corpus.vocabulary)
    assert not any(" " in word for word in corpus.vocabulary)


@everywhere
def test_sides_are_repeatable_and_apart(setting):
    corpus, again, other = made(setting), made(setting), made(setting, seed=1)
    assert corpus == again and set(corpus.train).isdisjoint(other.train)
    sides = [set(side) for side in (corpus.train, corpus.validation, corpus.test)]
    assert all(one.isdisjoint(two) for index, one in enumerate(sides) for two in sides[index + 1 :])
    larger = made(setting, train=90, validation=25)
    assert larger.train[:60] == corpus.train and larger.test == corpus.test
    assert corpus.notes == (
        f"Drew 60 train, 20 validation, 20 test sequences of {len(corpus.train[0].words)} words with seed 0.",
    )


# What the settings promise


def written(sequence):
    """The pairs that stand before the first query."""
    stop = sequence.words.index("?")
    return list(zip(sequence.words[:stop:2], sequence.words[1:stop:2], strict=True))


def asked(sequence):
    return [sequence.words[position - 1] for position in sequence.answers]


@pytest.mark.parametrize("setting", ["unique", "more_symbols"])
def test_unique_keys_come_once(setting):
    corpus = made(setting)
    for sequence in every(corpus):
        keys = [key for key, _ in written(sequence)]
        assert len(keys) == len(set(keys)) == 9
        assert len(set(asked(sequence))) == len(sequence.answers) and set(asked(sequence)) <= set(keys)
        assert all(sequence.words[position - 2] == "?" for position in sequence.answers)
    used = {key for sequence in every(corpus) for key, _ in written(sequence)}
    assert used == {f"k{number}" for number in range(9 if setting == "unique" else 30)}


def test_every_pair_is_asked_for_equally_often():
    corpus = load("associative_retrieval", pairs=5, train=2000)
    places = Counter([key for key, _ in written(sequence)].index(asked(sequence)[0]) for sequence in corpus.train)
    assert sorted(places) == [0, 1, 2, 3, 4] and all(330 < count < 470 for count in places.values())


def test_of_repeated_keys_the_latest_value_counts():
    corpus = made("repeated")
    overwritten = 0
    for sequence in every(corpus):
        pairs = written(sequence)
        assert len(pairs) == 12 and {key for key, _ in pairs} <= {f"k{number}" for number in range(6)}
        for position in sequence.answers:
            values = [value for key, value in pairs if key == sequence.words[position - 1]]
            assert values[-1] == sequence.words[position]
            overwritten += values[0] != values[-1]
        if len({key for key, _ in pairs}) >= 3:
            assert len(set(asked(sequence))) == 3
    assert overwritten > 50


def test_a_key_is_asked_for_again_only_where_none_is_left():
    """One key in the whole sequence happens, where keys repeat."""
    corpus = load("associative_retrieval", keys="repeated", pairs=3, key_symbols=2, queries=2)
    for sequence in every(corpus):
        keys = {key for key, _ in written(sequence)}
        assert set(asked(sequence)) == keys and len(asked(sequence)) == 2


def test_overwritten_keys_get_another_value_every_time():
    for sequence in every(made("overwriting")):
        pairs = written(sequence)
        assert Counter(key for key, _ in pairs) == {f"k{number}": 3 for number in range(6)}
        for name in {key for key, _ in pairs}:
            values = [value for key, value in pairs if key == name]
            assert all(one != two for one, two in pairwise(values))
        assert len(set(asked(sequence))) == 4


def test_every_key_is_queried_once_among_noise():
    for sequence in every(made("multi_query")):
        keys, values = sequence.words[:10:2], sequence.words[1:10:2]
        stored, rest = dict(zip(keys, values, strict=True)), sequence.words[10:]
        assert len(stored) == 5 and len(sequence.words) == 31
        assert sorted(asked(sequence)) == sorted(keys) and min(sequence.answers) > 10
        assert Counter(word[0] for word in rest) == {"k": 5, "v": 5, "n": 11}
        assert all(sequence.words[position] == stored[sequence.words[position - 1]] for position in sequence.answers)


def test_a_small_power_brings_queries_near():
    def mean_place(power):
        corpus = load("multi_query_recall", power=power, train=400)
        places = [position for sequence in corpus.train for position in sequence.answers]
        return sum(places) / len(places)

    near, even = mean_place(0.01), mean_place(1.0)
    assert 16 < near < even - 5 and even == pytest.approx(16 + 24, abs=0.7)


def test_places_are_all_used_where_there_is_no_room():
    for sequence in every(load("multi_query_recall", pairs=4, length=16)):
        assert sequence.answers == (9, 11, 13, 15)


def test_what_training_shares_with_the_test_is_counted():
    corpus = load("copy", length=1, symbols=2)
    assert corpus.notes[1:] == (
        "Of 20 validation sequences, 20 also stand in the training side.",
        "Of 20 test sequences, 20 also stand in the training side.",
    )


def test_there_need_be_no_test_side():
    assert load("copy", test=0).test == ()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("copy", {"length": 0}, "copy: length is 0; write 1 or more"),
        ("reverse", {"symbols": 1}, "reverse: symbols is 1; write 2 or more"),
        ("copy", {"train": 0}, "copy: train is 0; write 1 or more"),
        ("copy", {"validation": 0}, "copy: validation is 0; write 1 or more"),
        ("copy", {"seed": -1}, "copy: seed is -1; write 0 or more"),
        ("copy", {"lenght": 5}, "no option 'lenght'; did you mean 'length'"),
        ("associative_retrieval", {"keys": "two"}, "keys: .*'unique' or 'repeated', not 'two'"),
        ("associative_retrieval", {"pairs": 0}, "pairs is 0; write 1 or more"),
        ("associative_retrieval", {"pairs": "many"}, "pairs: .*not 'many'"),
        (
            "associative_retrieval",
            {"pairs": 30, "key_symbols": 20},
            "30 unique keys cannot come from 20 symbols; write key_symbols: 30 or more, or keys: repeated",
        ),
        (
            "associative_retrieval",
            {"pairs": 3, "queries": 4},
            "4 queries are more than the 3 keys that a sequence can have; write queries: 3 or less",
        ),
        (
            "associative_retrieval",
            {"keys": "repeated", "pairs": 8, "queries": 5},
            "5 queries are more than the 4 keys that a sequence can have; write queries: 4 or less",
        ),
        ("associative_retrieval", {"value_symbols": 1}, "value_symbols is 1; write 2 or more"),
        ("overwriting", {"writes": 0}, "writes is 0; write 1 or more"),
        ("overwriting", {"queries": 11}, "11 queries are more than the 10 keys; write queries: 10 or less"),
        ("multi_query_recall", {"length": 31}, "8 pairs and their queries take 32 words, and length is 31"),
        ("multi_query_recall", {"key_symbols": 7}, "8 different keys cannot come from 7 symbols"),
        ("multi_query_recall", {"power": 0}, "power is 0.0; write a number above 0"),
        ("multi_query_recall", {"noise_symbols": 0}, "noise_symbols is 0; write 1 or more"),
    ],
)
def test_options_that_cannot_be(name, given, message):
    with pytest.raises(InputError, match=message) as caught:
        load(name, **given)
    assert "\n" not in str(caught.value)
