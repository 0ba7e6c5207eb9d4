"""Dialogues as replies, functions as what they do, and pairs with several references."""

import json

import pytest

from bareformers.data.corpus import Corpus
from bareformers.data.sources.docstrings import functions
from bareformers.errors import InputError
from bareformers.registry import sources


def load(name, **options):
    return sources.parse({"name": name, **options}, "data")[1].load()


def write(path, *dialogues):
    path.write_text("".join(" __eou__ ".join([*turns, "\t1\t2 1\n"]) for turns in dialogues), encoding="utf-8")
    return str(path)


def test_every_turn_but_the_first_is_a_reply(tmp_path):
    train = write(tmp_path / "train", ["a b", "c", "d", "e"], ["alone"], ["f", "", "g"])
    validation = write(tmp_path / "validation", ["a", "x"])
    corpus = load("dialogues", train=train, validation=validation, turns=2)
    assert corpus.train == (("a b", "c"), ("a b | c", "d"), ("c | d", "e"), ("f", "g"))
    assert corpus.validation == (("a", "x"),) and corpus.test == ()
    assert corpus.notes == (
        f"Read 3 dialogues from {train}, which make 4 pairs.",
        "Removed 1 empty turn.",
        "Left out 1 dialogue of fewer than two turns.",
        f"Read 1 dialogue from {validation}, which make 1 pair.",
    )
    (first, *_) = load("dialogues", train=train, validation=validation, turns=1, separator=" // ").train[1:]
    assert first == ("c", "d")


@pytest.mark.parametrize("given", ["path", "train"])
def test_a_dialogue_stands_on_one_side(tmp_path, given):
    dialogues = [[f"d{number} {turn}" for turn in range(4)] + ["Yes ."] for number in range(60)]
    corpus = load("dialogues", **{given: write(tmp_path / "all", *dialogues)}, validation_share=0.2)
    sides = [{pair[0].split()[0] for pair in side} for side in (corpus.train, corpus.validation, corpus.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and len(set.union(*sides)) == 60
    # An answer that recurs is no reason to leave a dialogue out.
    assert len(corpus.train) == 4 * len(sides[0]) and len(corpus.validation) == 4 * len(sides[1]) > 0
    assert (len(corpus.test) > 0) is (given == "path")


MISTAKES = {
    "nothing": ({}, "write either path, which is divided by shares, or train"),
    "both": ({"path": "x", "train": "x"}, "write either path, which is divided by shares, or train"),
    "turns": ({"path": "x", "turns": 0}, "turns is 0; a reply needs 1 or more before it"),
    "one_turn": ({"path": "x"}, "has no dialogue of two turns or more: write __eou__ behind every turn"),
    "share": ({"train": "x", "test_share": 0.3}, "test_share does nothing where the sides are given one by one"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(tmp_path, mistake):
    options, sentence = MISTAKES[mistake]
    file = write(tmp_path / "file", ["alone"])
    with pytest.raises(InputError, match=sentence):
        load("dialogues", **{key: file if value == "x" else value for key, value in options.items()})


MODULE = '''
@decorated
def one(x):
    """Add one to it.

    More about that.
    """
    # why
    return x + 1

class Some:
    async def two(self):
        """Do
        nothing."""
    def three(self): """Beside the code."""
    def four(self):
        return 4
    def five(self):
        """Before code."""; return 5
'''


def test_functions_and_what_they_do():
    assert dict(functions(MODULE)) == {
        "@decorated\ndef one(x):\n    # why\n    return x + 1": "Add one to it.",
        "async def two(self):": "Do nothing.",
    }


def test_docstrings_of_the_standard_library():
    corpus = load("docstrings", max_files=40)
    sides = [corpus.train, corpus.validation, corpus.test]
    assert corpus == load("docstrings", max_files=40) and corpus.kind == "pairs" and all(sides)
    for source, target in corpus.train:
        assert "def " in source and len(target.split()) >= 3 and "\n" not in target
    assert any("with a docstring" in note for note in corpus.notes)
    assert len(load("docstrings", max_files=40, min_words=8).train) < len(corpus.train)
    with pytest.raises(InputError, match="docstrings: max_files is 2; write 3 or more"):
        load("docstrings", max_files=2)
    with pytest.raises(InputError, match="min_words is 0; write 1 or more"):
        load("docstrings", min_words=0)


def test_references_of_the_test_side(tmp_path):
    rows = {
        "train": [{"text": "a long story", "told": "a story"}, {"text": "no answer", "told": " "}],
        "test": [{"text": "another", "one": "first", "two": "second"}],
    }
    files = {side: str(tmp_path / side) for side in rows}
    for side in rows:
        (tmp_path / side).write_text("\n".join(map(json.dumps, rows[side])), encoding="utf-8")
    given = {"source": "text", "target": "told", "test_targets": ["one", "two"]}
    corpus = load("jsonl", **files, validation=files["train"], **given)
    assert corpus.train == (("a long story", "a story"),) and corpus.test == (("another", "first", "second"),)
    assert "Removed 1 pair of the train side with an empty side." in corpus.notes
    with pytest.raises(InputError, match="has no field 'three'"):
        load("jsonl", **files, validation=files["train"], **{**given, "test_targets": ["three"]})
    with pytest.raises(InputError, match="test_targets does nothing but for pairs with a file for the test side"):
        load("jsonl", path=files["train"], **given)


def test_equal_targets_are_held_against_pairs_unless_they_recur():
    items = [(str(number), (f"source {number}", "target")) for number in range(20)]
    shares = {"validation_share": 0.1, "test_share": 0.1}
    recurring = Corpus.divided("pairs", items, **shares, targets_recur=True)
    assert len(recurring.train) + len(recurring.validation) + len(recurring.test) == 20
    with pytest.raises(InputError, match="the train side has no pairs"):
        Corpus.divided("pairs", items, **shares)
