"""Training texts of which only some keep their labels."""

from collections import Counter

import pytest

from bareformers.data.corpus import shared_out
from bareformers.data.tasks import prepare
from bareformers.errors import InputError
from bareformers.registry import checked, sources


@pytest.fixture
def file(tmp_path):
    """A hundred texts: 60 a, 38 b, 2 c."""
    path = tmp_path / "train.txt"
    kinds = ["a"] * 60 + ["b"] * 38 + ["c"] * 2
    path.write_text("".join(f"{kind} text number {index} here\n" for index, kind in enumerate(kinds)), encoding="utf-8")
    return path


@pytest.fixture
def load(file, tmp_path):
    validation = tmp_path / "validation.txt"
    validation.write_text("".join(f"{kind} something else {kind}\n" for kind in "abc"), encoding="utf-8")

    def load(**given):
        sides = {"train": str(file), "validation": str(validation)}
        return checked(sources.get("labelled_text"), {**sides, **given}, "source").load()

    return load


def test_classes_keep_their_shares(load):
    whole, few = load(), load(labels_kept=10)
    assert Counter(item.label for item in few.train) == {"a": 6, "b": 3, "c": 1}
    assert len(few.unlabelled) == 90 and whole.unlabelled == ()
    assert set(few.train) <= set(whole.train)
    assert {item.text for item in few.train} | set(few.unlabelled) == {item.text for item in whole.train}
    assert "Of 100 training texts, 10 keep their labels, chosen by hash." in few.notes
    assert load(labels_kept=10) == few and load(labels_kept=10, labels_seed=1).train != few.train
    assert few.validation == whole.validation, "which keep theirs"


def test_fewer_are_among_more(load):
    few, more = load(labels_kept=10), load(labels_kept=50)
    assert set(few.train) < set(more.train) and len(more.train) == 50
    assert load(labels_kept=100).unlabelled == () and load(labels_kept=100).train == load().train


def test_a_share_has_a_text_of_each_class(load, tmp_path):
    corpus = load()
    shares = [corpus.less(share) for share in (0.01, 0.1, 0.3, 1)]
    assert Counter(item.label for item in shares[0].train) == {"a": 1, "b": 1, "c": 1}
    for one, other in zip(shares, shares[1:], strict=False):
        assert set(one.train) < set(other.train) and len({item.label for item in one.train}) == 3
    assert [len(one.train) for one in shares[1:]] == [pytest.approx(size, abs=3) for size in (10, 30, 100)]
    assert "Of the training side, 1 % is read: 3 of 100 labelled texts, chosen by hash." in shares[0].notes
    assert prepare(corpus, "classification", 270, 16, cache=tmp_path, share=0.01).labels == ("a", "b", "c")


@pytest.mark.parametrize("total", range(3, 101))
def test_largest_remainders(total):
    sizes = {"a": 60, "b": 38, "c": 2}
    found = shared_out(total, sizes)
    assert sum(found.values()) == total and all(1 <= found[name] <= sizes[name] for name in sizes)
    assert all(abs(found[name] - total * sizes[name] / 100) < 2 for name in sizes)


def test_language_models_and_tokenizers_read_all(load, tmp_path):
    few = prepare(load(labels_kept=3), "language_modelling", 270, 16, cache=tmp_path)
    whole = prepare(load(), "language_modelling", 270, 16, cache=tmp_path)
    assert few.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
    assert len(few.train) == len(whole.train) > 10 and any("Labels are not read" in note for note in few.notes)
    labelled = prepare(load(labels_kept=3), "classification", 270, 16, cache=tmp_path)
    assert len(labelled.train) == 3 and labelled.tokenizer.get_vocab() == whole.tokenizer.get_vocab()


@pytest.mark.parametrize(
    "given, words",
    [
        (
            {"labels_kept": 2},
            "labels_kept is 2, and there are 100 training texts of 3 classes: write a number from 3 to",
        ),
        ({"labels_kept": 101}, "labels_kept is 101, and there are 100 training texts"),
        ({"labels_seed": 1}, "labels_seed does nothing where all texts keep their labels"),
    ],
)
def test_what_is_wrong(load, given, words):
    with pytest.raises(InputError, match=words):
        load(**given)
