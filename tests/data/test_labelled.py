"""Texts with classes: where they are read from, and what a classifier sees of them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bareformers.data.corpus import Corpus, Labelled
from bareformers.data.sources.hub import label_names
from bareformers.data.sources.jsonl import take
from bareformers.data.tasks import prepare
from bareformers.errors import InputError
from bareformers.measure.quality import num_predicted
from bareformers.registry import checked, sources
from tests.training import tiny


def load(name="labelled_text", **given):
    return checked(sources.get(name), given, f"source {name!r}").load()


def write(folder, **files):
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return {name: str(folder / name.replace("_", ".")) for name in files}


# Sources


def test_lines(tmp_path):
    files = write(tmp_path, train="1 a  good film .\n\n0 bad\n1 \n", dev="0\tso so\n", test="1 bad\n")
    corpus = load(train=files["train"], validation=files["dev"], test=files["test"])
    assert corpus.kind == "labelled" and corpus.train == (Labelled("a  good film .", "1"), Labelled("bad", "0"))
    assert (corpus.validation, corpus.test) == ((Labelled("so so", "0"),), (Labelled("bad", "1"),))
    assert "Removed 1 labelled text of the train side without text." in corpus.notes
    assert "Of 1 test labelled texts, 1 also stand in the training side." in corpus.notes
    named = load(train=files["train"], validation=files["dev"], label_names=["negative", "positive"])
    assert [item.label for item in named.train] == ["positive", "negative"] and named.labels == ("negative", "positive")


def test_validation_is_taken_from_the_training_texts(tmp_path):
    lines = "".join(f"{index % 3} text number {index // 2}\n" for index in range(400))
    files = write(tmp_path, train=lines, test="0 other\n")
    corpus = load(train=files["train"], test=files["test"])
    assert len(corpus.train) + len(corpus.validation) == 400 and 20 <= len(corpus.validation) <= 60
    assert {item.text for item in corpus.train}.isdisjoint(item.text for item in corpus.validation)
    assert f"Took {len(corpus.validation)} training texts for validation, chosen by hash." in corpus.notes
    assert corpus == load(train=files["train"], test=files["test"])
    assert len(load(train=files["train"], validation_share=0.5).validation) > 150


def test_files_are_divided_together(tmp_path):
    files = write(
        tmp_path, a="".join(f"a first {i}\n" for i in range(100)), b="".join(f"b other {i}\n" for i in range(99))
    )
    corpus = load(path=[files["a"], files["b"]])
    sides = [corpus.train, corpus.validation, corpus.test]
    assert all(sides) and sum(map(len, sides)) == 199 and {item.label for item in corpus.train} == {"a", "b"}
    assert any("Divided by hash into" in note and "labelled texts" in note for note in corpus.notes)


def test_columns(tmp_path):
    files = write(
        tmp_path,
        glue_tsv='sentence\tlabel\nhe said "no\t1\n\nshe said\t0\n',
        plain_tsv="x\tfirst text\tyes\ny\tsecond\tno\n",
        comma_csv='label,text\n1,"one, two\nand ""three"""\n0,four\n',
    )
    both = {"train": files["glue_tsv"], "validation": files["glue_tsv"], "format": "tsv"}
    named = load(**both, text="sentence", label="label")
    assert named.train == (Labelled('he said "no', "1"), Labelled("she said", "0"))
    both = {"train": files["plain_tsv"], "validation": files["plain_tsv"], "format": "tsv"}
    assert load(**both, text=2, label=3).train == (Labelled("first text", "yes"), Labelled("second", "no"))
    both = {"train": files["comma_csv"], "validation": files["comma_csv"], "format": "csv"}
    quoted = load(**both, text="text", label=1)
    assert quoted.train == (Labelled('one, two\nand "three"', "1"), Labelled("four", "0"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "write either path, .* or train"),
        ({"path": "a", "train": "b"}, "write either path, .* or train"),
        ({"path": "a", "test": "b"}, "write either path, .* or train"),
        ({"validation": "a"}, "write either path, .* or train"),
        ({"train": "a", "validation": "b", "validation_share": 0.2}, "validation_share does nothing where there is a"),
        ({"train": "a", "test_share": 0.2}, "test_share does nothing where the sides are given"),
        ({"train": "a", "text": 1}, "text does nothing with lines of `label text`"),
        ({"train": "a", "format": "tsv"}, "tsv needs text and label, the columns"),
        ({"train": "a", "format": "csv", "text": 1}, "csv needs text and label"),
        ({"train": "a", "format": "tsv", "text": 0, "label": 1}, "columns are counted from 1, so there is none 0"),
        ({"train": "a", "format": "xml"}, "format: .*'lines', 'tsv' or 'csv', not 'xml'"),
        ({"train": "a", "label_names": ["x", "x"]}, "label_names gives two classes one name"),
        ({"train": "nowhere.txt"}, "cannot read nowhere.txt"),
    ],
)
def test_what_is_wrong_with_the_options(given, message):
    with pytest.raises(InputError, match=message) as raised:
        load(**given)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        ("0 a\n3 b\n", {"label_names": ["x", "y"]}, "line 2: the label '3' is no number of one of the 2 label_names"),
        ("0 a\nyes b\n", {"label_names": ["x", "y"]}, "line 2: the label 'yes' is no number of one of the 2"),
        ("a\t0\nb\n", {"format": "tsv", "text": 1, "label": 2}, "line 2: there is no column 2, only 1"),
        ("a\t0\nb\t \n", {"format": "tsv", "text": 1, "label": 2}, "line 2: there is no label"),
        ("text\tclass\n", {"format": "tsv", "text": "text", "label": "label"}, "no column 'label' .* text, class"),
        ('0,"a\n', {"format": "csv", "text": 2, "label": 1}, r"file\.txt, line 1: not CSV"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path, content, given, message):
    file = write(tmp_path, file_txt=content)["file_txt"]
    with pytest.raises(InputError, match=message) as raised:
        load(train=file, **given)
    assert "\n" not in str(raised.value)


def test_json_lines(tmp_path):
    lines = [{"data": {"text": f"t{i}"}, "label": i % 2} for i in range(3)] + [{"data": {"text": "t"}, "label": "odd"}]
    files = write(tmp_path, train="".join(json.dumps(line) + "\n" for line in lines))
    sides = {"train": files["train"], "validation": files["train"]}
    corpus = load("jsonl", **sides, text="data.text", label="label")
    assert corpus.kind == "labelled" and [item.label for item in corpus.train] == ["0", "1", "0", "odd"]
    assert corpus.notes[0].startswith("Read labelled texts: 4 from")
    for given in ({"label": "label"}, {"source": "a", "target": "b", "label": "label"}):
        with pytest.raises(InputError, match=r"write text, the field with the documents \(and label"):
            load("jsonl", **sides, **given)
    with pytest.raises(InputError, match="here: the field 'label' holds float, not text"):
        take({"text": "a", "label": 2.5}, "labelled", ("text", "label"), "here")
    assert take({"text": "a", "label": True}, "labelled", ("text", "label"), "here") == Labelled("a", "true")


def test_names_of_classes_on_the_hub():
    features = {"label": SimpleNamespace(names=["negative", "positive"]), "text": SimpleNamespace()}
    assert label_names(features, "label") == ("negative", "positive")
    assert label_names(features, "text") == label_names(None, "label") == label_names(features, None) == ()


@pytest.fixture
def sentences():
    folder = os.environ.get("BAREFORMERS_DATA")
    if not folder:
        pytest.skip("BAREFORMERS_DATA names no folder with data sets")
    return Path(folder) / "sentence_classification"


def test_sst2(sentences):
    sides = {"train": "train", "validation": "dev", "test": "test"}
    corpus = load(**{side: str(sentences / f"stsa.binary.{stem}.txt") for side, stem in sides.items()})
    assert [len(getattr(corpus, side)) for side in sides] == [6920, 872, 1821]


def test_trec(sentences):
    files = {side: str(sentences / f"TREC.{side}.all.txt") for side in ("train", "test")}
    corpus = load(**files)
    assert len(corpus.train) + len(corpus.validation) == 5452 and len(corpus.test) == 500
    assert {item.label for item in corpus.test} == set("012345")


# As a task


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def corpus(*labels, **given):
    """A word for each label, thrice for training and once for the other sides."""
    items = tuple(Labelled(f"word{index}", label) for index, label in enumerate(labels))
    return Corpus("labelled", 3 * items, items, items, **given)


def test_the_task(cache):
    data = tiny.labelled_data(cache)
    items = tiny.labelled(40, seed=2)
    assert data.labels == ("0", "1", "2") and len(data.train) == 200 and set(data.train.label_tokens.tolist()) == {1}
    assert data.test.texts == tuple((item.text, item.label) for item in items)
    for index, item in enumerate(items):
        ids, labels = data.test[index]["input_ids"].tolist(), data.test[index]["labels"].tolist()
        assert ids[0] == ids[-1] == data.tokenizer.eos_token_id and labels == [int(item.label)]
        assert data.tokenizer.decode(ids[1:-1]) == item.text
    assert any(note.startswith("Encoded 200 train texts, 30 validation texts, 40 test texts") for note in data.notes)


def test_a_batch(cache):
    data = tiny.labelled_data(cache)
    batch = data.collate([data.train[index] for index in range(5)])
    assert batch["labels"].shape == (5,) and batch["labels"].tolist() == data.train.labels.ids[:5].tolist()
    assert num_predicted(batch["labels"], causal=False) == 5
    assert batch["attention_mask"].sum(1).tolist() == data.train.inputs.lengths[:5].tolist()
    assert "attention_mask" not in data.collate([data.train[0]])


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (("10", "9", "1"), ("1", "9", "10")),
        (("b", "a", "2"), ("2", "a", "b")),
    ],
)
def test_classes_are_in_order(cache, labels, order):
    data = prepare(corpus(*labels), "classification", 260, 16, cache=cache)
    assert data.labels == order
    assert [order[data.train[index]["labels"][0]] for index in range(3)] == list(labels)
    given = prepare(corpus(*labels, labels=labels), "classification", 260, 16, cache=cache)
    assert given.labels == labels and [given.train[index]["labels"][0] for index in range(3)] == [0, 1, 2]


def test_texts_that_are_too_long(cache):
    long = (Labelled("x" * 30, "a"), *corpus("a", "b").train)
    given = Corpus("labelled", long, long)
    dropped, cut = (prepare(given, "classification", 260, 16, how, cache) for how in ("drop", "cut"))
    assert len(dropped.train) == 6 and len(dropped.validation) == len(cut.train) == 7
    for data in (dropped, cut):
        assert data.validation.lengths.max() == 16 and data.validation.texts[0] == ("x" * 30, "a")
        assert data.validation[0]["input_ids"][-1] == data.tokenizer.eos_token_id
    assert any(note.startswith("Dropped 1 train text longer than 16 tokens") for note in dropped.notes)
    with pytest.raises(InputError, match="1 train text longer than 16 tokens .* write a larger task.max_length"):
        prepare(given, "classification", 260, 16, "error", cache)
    with pytest.raises(InputError, match="all training texts are longer than max_length 3"):
        prepare(given, "classification", 260, 3, "drop", cache)
    given = Corpus("labelled", (Labelled("x" * 30, "c"), *corpus("a", "b").train), long)
    words = "no training text with the label 'c' is within max_length 16: write a larger one, or too_long: cut"
    with pytest.raises(InputError, match=words):
        prepare(given, "classification", 260, 16, "drop", cache)
    assert prepare(given, "classification", 260, 16, "cut", cache).labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (corpus("a"), "all training texts have the label 'a': a classification needs two classes or more"),
        (corpus("a", "b", labels=("a", "b", "c")), "no training text has the label 'c'"),
        (
            Corpus("labelled", corpus("a", "b").train, (Labelled("x", "c"),)),
            "the validation side has the label 'c', and the training side only a, b",
        ),
        (Corpus("documents", ("a",), ("b",)), "classification needs labelled texts and the source gives documents"),
    ],
)
def test_what_cannot_be_prepared(cache, given, message):
    with pytest.raises(InputError, match=message):
        prepare(given, "classification", 260, 16, cache=cache)


def test_other_tasks_say_what_labelled_texts_are_for(cache):
    with pytest.raises(
        InputError, match="translation needs pairs and the source gives labelled texts: .* classification"
    ):
        prepare(corpus("a", "b"), "translation", 260, 16, cache=cache)
    with pytest.raises(InputError, match="max_length 2 leaves nothing to predict: write 3 or more"):
        prepare(corpus("a", "b"), "classification", 260, 2, cache=cache)
