"""Every source on small files, and on the real data where it is there."""

import json
import os
import sysconfig
from pathlib import Path

import pytest

from bareformers.errors import InputError
from bareformers.registry import checked, sources


def load(name, **given):
    return checked(sources.get(name), given, f"source {name!r}").load()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def data():
    folder = os.environ.get("BAREFORMERS_DATA")
    if not folder:
        pytest.skip("BAREFORMERS_DATA names no folder with data sets")
    return Path(folder)


# python_stdlib


@pytest.fixture
def library(tmp_path, monkeypatch):
    files = {f"module{index:02}.py": f"x = {index}\n" for index in range(40)}
    files |= {"copy.py": "x = 0\n", "latin.py": b"# caf\xe9\n", "empty.py": "", "pkg/test/test_x.py": "y = 1\n"}
    files |= {"site-packages/other.py": "z = 1\n", "notes.txt": "no code"}
    write(tmp_path, files)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))


def test_stdlib_takes_each_module_once(library):
    corpus = load("python_stdlib")
    documents = corpus.train + corpus.validation + corpus.test
    assert sorted(documents) == sorted(f"x = {index}\n" for index in range(40))
    said = " ".join(corpus.notes)
    for expected in ("Read 43 files", "Skipped 1 file not", "Removed 1 duplicate", "Removed 1 document without text"):
        assert expected in said
    assert "y = 1\n" in load("python_stdlib", include_tests=True).train


def test_stdlib_of_a_few_files(library):
    corpus = load("python_stdlib", max_files=12)
    assert 9 <= len(corpus.train + corpus.validation + corpus.test) <= 12
    assert corpus.validation and corpus.test
    with pytest.raises(InputError, match="max_files is 2; write 3 or more"):
        load("python_stdlib", max_files=2)


def test_stdlib_of_this_python():
    corpus = load("python_stdlib", max_files=60)
    assert corpus == load("python_stdlib", max_files=60)
    assert sum(map(len, corpus.train)) > 100_000


# text


def test_text_in_paragraphs_lines_and_files(tmp_path):
    book = "".join(f"line {index} a\n  line {index} b\n \n\n" for index in range(30))
    write(tmp_path, {"book.txt": book, "deep/second.txt": "of another file\n", "deep/other.md": "not text"})
    (tmp_path / "deep/third.txt").write_text("third\n\nfile\n")

    def everything(**given):
        corpus = load("text", **given)
        return sorted(corpus.train + corpus.validation + corpus.test)

    paragraphs = everything(path=str(tmp_path / "book.txt"))
    assert paragraphs == sorted(f"line {index} a\n  line {index} b" for index in range(30))
    assert len(everything(path=str(tmp_path / "book.txt"), documents="lines")) == 60
    assert everything(path=str(tmp_path)) == sorted([book, "of another file\n", "third\n\nfile\n"])
    assert len(everything(path=[str(tmp_path / "book.txt"), str(tmp_path / "deep")])) == 32


def test_text_with_given_sides(tmp_path, monkeypatch):
    write(tmp_path, {"a.txt": "one\n\ntwo", "b.txt": "three", "c.txt": "two"})
    monkeypatch.setenv("TEXTS", str(tmp_path))
    corpus = load("text", train="$TEXTS/a.txt", validation="$TEXTS/b.txt", test="$TEXTS/c.txt")
    assert (corpus.train, corpus.validation, corpus.test) == (("one", "two"), ("three",), ("two",))
    assert "Of 1 test documents, 1 also stand in the training side." in corpus.notes


def test_text_without_validation(tmp_path):
    write(tmp_path, {"a.txt": "".join(f"document {index}\n\n" for index in range(300)), "b.txt": "other"})
    given = {"train": str(tmp_path / "a.txt"), "test": str(tmp_path / "b.txt")}
    corpus = load("text", **given)
    assert len(corpus.train) + len(corpus.validation) == 300 and 4 <= len(corpus.validation) <= 25
    assert not set(corpus.train) & set(corpus.validation) and corpus.test == ("other",)
    assert f"Took {len(corpus.validation)} training documents for validation, chosen by hash." in corpus.notes
    assert corpus == load("text", **given)
    assert len(load("text", train=given["train"], validation_share=0.5).validation) > 100


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "write either path, .* or train"),
        ({"path": "a", "train": "b"}, "write either path, .* or train"),
        ({"validation": "b"}, "write either path, .* or train"),
        ({"train": "a", "validation": "b", "validation_share": 0.2}, "validation_share does nothing where there is a"),
        ({"train": "a", "test_share": 0.2}, "test_share does nothing where the sides are given"),
        ({"path": "a", "documents": "line"}, "'lines' or 'files', not 'line'"),
        ({"path": "nowhere.txt"}, "cannot read nowhere.txt"),
    ],
)
def test_text_says_what_is_wrong(given, message):
    with pytest.raises(InputError, match=message):
        load("text", **given)


def test_text_folder_without_texts(tmp_path):
    with pytest.raises(InputError, match=r"has no \*\.txt files"):
        load("text", path=str(tmp_path))


# parallel


def test_parallel_files(tmp_path):
    write(tmp_path, {"train.de": "eins\n\nzwei \n", "train.en": "one\nx\ntwo\n"})
    write(tmp_path, {"val.de": "drei", "val.en": "three\n", "last.de": "vier\n", "last.en": "four\n"})
    corpus = load("parallel", root=str(tmp_path), test="last")
    assert corpus.train == (("eins", "one"), ("zwei", "two"))
    assert (corpus.validation, corpus.test, corpus.languages) == (
        (("drei", "three"),),
        (("vier", "four"),),
        ("de", "en"),
    )
    assert "Removed 1 pair of the train side with an empty side." in corpus.notes
    turned = load("parallel", root=str(tmp_path), source="en", target="de", test=None)
    assert (turned.train[0], turned.test) == (("one", "eins"), ())


def test_parallel_files_of_different_length(tmp_path):
    write(tmp_path, {"train.de": "eins\nzwei\n", "train.en": "one\ntwo\nthree\n"})
    with pytest.raises(InputError, match=r"train\.de has 2 lines and .*train\.en has 3"):
        load("parallel", root=str(tmp_path))


def test_parallel_file_with_a_bad_byte(tmp_path):
    write(tmp_path, {"train.de": b"eins\nf\xfcnf\n", "train.en": "one\nfive\n"})
    with pytest.raises(InputError, match=r"train\.de, line 2: byte 0xfc"):
        load("parallel", root=str(tmp_path))


def test_parallel_tsv(tmp_path):
    lines = [f"sentence {index // 3}\tSatz {index}\tmore" for index in range(600)]
    file = write(tmp_path, {"pairs.tsv": "\n".join(lines)}) / "pairs.tsv"
    corpus = load("parallel", tsv=str(file), source="de", target="en", columns=[2, 1], test_share=0.1)
    sides = [corpus.train, corpus.validation, corpus.test]
    english = [{target for _, target in side} for side in sides]
    assert all(sides) and all(source.startswith("Satz") for source, _ in corpus.train)
    assert not english[0] & english[1] and not english[0] & english[2] and not english[1] & english[2]
    with pytest.raises(InputError, match=r"pairs\.tsv, line 1: there is no column 4"):
        load("parallel", tsv=str(file), columns=[1, 4])
    with pytest.raises(InputError, match="counted from 1"):
        load("parallel", tsv=str(file), columns=[0, 1])


def test_parallel_wants_one_place(tmp_path):
    for given in ({}, {"root": "a", "tsv": "b"}):
        with pytest.raises(InputError, match="either root"):
            load("parallel", **given)


def test_multi30k(data):
    corpus = load("parallel", root=str(data / "multi30k"))
    assert [len(side) for side in (corpus.train, corpus.validation, corpus.test)] == [29_000, 1_014, 1_000]


def test_tatoeba(data):
    corpus = load("parallel", tsv=str(data / "tatoeba_en-de/tatoeba.en-de.tsv"), source="en", target="de")
    assert len(corpus.train) > 150_000
    assert {pair[0] for pair in corpus.train}.isdisjoint(pair[0] for pair in corpus.test)


# jsonl and hub


def records(part, count=3):
    return "".join(
        json.dumps(
            {"id": index, "text": f"{part} {index}", "translation": {"de": f"{part} {index}", "en": f"e {index}"}}
        )
        + "\n"
        for index in range(count)
    )


def test_jsonl_documents_and_pairs(tmp_path):
    write(tmp_path, {"a.jsonl": records("a"), "b.jsonl": records("b") + "\n", "all.jsonl": records("x", 100)})
    sides = {"train": str(tmp_path / "a.jsonl"), "validation": str(tmp_path / "b.jsonl")}
    assert load("jsonl", **sides, text="text").validation == ("b 0", "b 1", "b 2")
    pairs = load("jsonl", **sides, source="translation.de", target="translation.en")
    assert pairs.train[1] == ("a 1", "e 1")
    divided = load("jsonl", path=str(tmp_path / "all.jsonl"), text="text")
    assert len(divided.train + divided.validation + divided.test) == 100


@pytest.mark.parametrize(
    ("line", "given", "message"),
    [
        ('{"text": ', {"text": "text"}, r"bad\.jsonl, line 2: not JSON"),
        ('{"body": "x"}', {"text": "text"}, r"bad\.jsonl, line 2 has no field 'text': known are body"),
        ('{"text": 3}', {"text": "text"}, "line 2: the field 'text' holds int, not text"),
        ('["x"]', {"text": "text"}, "it is not an object"),
        ("{}", {}, "write text, the field with the documents"),
        ("{}", {"text": "a", "source": "b"}, "write text, the field"),
        ("{}", {"source": "b"}, "write text, the field"),
    ],
)
def test_jsonl_says_what_is_wrong(tmp_path, line, given, message):
    file = write(tmp_path, {"bad.jsonl": f'{{"text": "fine"}}\n{line}\n'}) / "bad.jsonl"
    with pytest.raises(InputError, match=message):
        load("jsonl", path=str(file), **given)


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return write(tmp_path / "set", {f"{part}.jsonl": records(part) for part in ("train", "validation", "test")})


def test_hub_loads_a_local_folder(offline_hub):
    corpus = load("hub", dataset=str(offline_hub), source="translation.de", target="translation.en")
    assert (corpus.test[0], corpus.languages) == (("test 0", "e 0"), ("de", "en"))
    assert load("hub", dataset=str(offline_hub), text="text", test=None).test == ()
    with pytest.raises(InputError, match="split 'dev': "):
        load("hub", dataset=str(offline_hub), text="text", validation="dev")
    with pytest.raises(InputError, match="has no field 'body': known are id, text, translation"):
        load("hub", dataset=str(offline_hub), text="body")


def test_hub_without_network(offline_hub):
    with pytest.raises(InputError, match="^hub: cannot load 'nobody/nothing', split 'train': ") as caught:
        load("hub", dataset="nobody/nothing", text="text")
    assert "\n" not in str(caught.value)
