"""Reading, dividing and cleaning text."""

import subprocess
import sys

import pytest

from bareformers.data.corpus import Corpus, assign_parts, cache_folder, counted, read_lines, read_text
from bareformers.errors import InputError


def test_only_line_feeds_end_a_line(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_bytes("\ufeffone\r\ntwo\u2028still two\x85\n\nfour".encode())
    assert read_lines(file) == ["one", "two\u2028still two\x85", "", "four"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"fine\nfine\ncaf\xe9\n", r"bad\.txt, line 3: byte 0xe9"), (b"", "empty"), (b" \n\n", "empty")],
)
def test_unusable_files_are_named(tmp_path, content, message):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_text(file)
    assert str(file) in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent\.txt: No such file"):
        read_text(tmp_path / "absent.txt")


def test_keys_keep_their_part_when_others_come():
    few, many = [f"file{index}.py" for index in range(300)], [f"file{index}.py" for index in range(3000)]
    parts = assign_parts(many, 0.1, 0.2)
    assert assign_parts(few, 0.1, 0.2).items() <= parts.items()
    assert [list(parts.values()).count(part) / 3000 for part in ("train", "validation", "test")] == pytest.approx(
        [0.7, 0.1, 0.2], abs=0.02
    )


def test_parts_are_the_same_on_every_machine():
    assert assign_parts(["abc.py", "os.py", "re/__init__.py", "this.py"], 0.25, 0.25) == {
        "re/__init__.py": "test",  # hash 0.199
        "this.py": "validation",  # 0.623: the next, for none is between 0.25 and 0.5
        "abc.py": "train",
        "os.py": "train",
    }


def test_every_wanted_part_gets_a_key():
    assert sorted(assign_parts("abc", 1e-9, 1e-9).values()) == ["test", "train", "validation"]
    assert set(assign_parts("abc", 1e-9, 0).values()) == {"train", "validation"}


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.1), (0.1, 1.0)])
def test_shares_must_leave_a_training_side(shares):
    with pytest.raises(InputError, match="sum is below 1"):
        assign_parts("abc", *shares)


def test_dividing_lets_nothing_leak():
    pairs = [(f"s{index % 70}", f"t{index % 90}") for index in range(400)]
    corpus = Corpus.divided("pairs", ((pair[0], pair) for pair in pairs), validation_share=0.1, test_share=0.1)
    sides = [corpus.train, corpus.validation, corpus.test]
    for index, side in enumerate(sides):
        for other in sides[index + 1 :]:
            for column in (0, 1):
                assert {pair[column] for pair in side}.isdisjoint(pair[column] for pair in other)
    removed = len(pairs) - sum(map(len, sides))
    assert removed > 0
    assert any(f"Removed {counted(removed, 'pair')} sharing text" in note for note in corpus.notes)


def test_given_sides_stay_but_for_empty_items():
    corpus = Corpus.given("pairs", [(" a ", "b"), ("", "x"), ("y", " ")], [("c", "d")], [("a", "z"), ("e", "f")])
    assert (corpus.train, corpus.test) == ((("a", "b"),), (("a", "z"), ("e", "f")))
    assert corpus.notes == (
        "Removed 2 pairs of the train side with an empty side.",
        "Of 2 test sources, 1 also stand in the training side.",
    )


def test_training_and_validation_are_never_empty():
    with pytest.raises(InputError, match="the validation side has no documents"):
        Corpus.given("documents", ["text"], ["  "])


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    monkeypatch.setenv("BAREFORMERS_CACHE", "$SOMEWHERE/cache")
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("BAREFORMERS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/bareformers"


def test_sources_need_no_torch():
    code = (
        "import sys; from bareformers.registry import sources; print(*sources.names());"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text = ["dialogues", "docstrings", "hub", "jsonl", "labelled_text", "libreoffice_help", "mixture", "parallel"]
    text += ["python_stdlib", "text"]
    made_up = ["associative_retrieval", "copy", "multi_query_recall", "overwriting", "reverse"]
    assert done.stdout.split() == sorted([*text, *made_up, "images"])
