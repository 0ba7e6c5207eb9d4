"""Pairs of texts, and scores: where they are read from, what stands around them, and how they are cut."""

import json

import pytest
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bareformers.data.corpus import Corpus, Labelled
from bareformers.data.sources.jsonl import take
from bareformers.data.tasks import prepare, training_texts
from bareformers.data.tasks.encoding import PairFrame, pair_frame_of
from bareformers.errors import InputError
from bareformers.registry import checked, sources
from tests.training import tiny

COLUMNS = {"format": "tsv", "text": 1, "second": 2, "label": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def load(name="labelled_text", **given):
    return checked(sources.get(name), given, f"source {name!r}").load()


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return str(path)


# Sources


def test_columns(tmp_path):
    file = write(tmp_path / "a.tsv", "one \t two\t0\nthree\tfour\t1\nfive\t\t1\n")
    corpus = load(train=file, validation=file, **COLUMNS)
    assert corpus.kind == "labelled" and corpus.train == (Labelled("one", "0", "two"), Labelled("three", "1", "four"))
    assert "Removed 1 labelled text of the train side without text." in corpus.notes
    assert corpus.train[0].whole == "one ‖ two" and Labelled("one", "0").whole == "one"
    named = write(tmp_path / "b.tsv", "label\tsentence2\tsentence1\n0\ttwo\tone\n")
    given = {"format": "tsv", "text": "sentence1", "second": "sentence2", "label": "label"}
    assert load(train=named, validation=named, **given).train == (Labelled("one", "0", "two"),)


def test_a_pair_is_another_where_one_text_is():
    items = (Labelled("a", "0", "b"), Labelled("a", "1", "c"))
    corpus = Corpus.given("labelled", items, items, (Labelled("a", "0", "c"), Labelled("a", "0", "d")))
    assert corpus.notes == ("Of 2 test labelled texts, 1 also stand in the training side.",)
    assert list(training_texts(corpus)) == ["a", "b", "a", "c"] == list(corpus.documents().train)


def test_nothing_of_the_test_is_learnt():
    """Where a file is divided, pairs that share a text with a pair of the test are not trained on."""
    pairs = [Labelled(f"first {index}", str(index % 2), f"second {index % 40}") for index in range(400)]
    corpus = Corpus.divided("labelled", [(item.text, item) for item in pairs], validation_share=0.05, test_share=0.05)
    held_out = {item.second for item in (*corpus.validation, *corpus.test)}
    assert held_out.isdisjoint(item.second for item in corpus.train)
    assert any("sharing text with the test or validation side" in note for note in corpus.notes)


def test_a_pair_turned_around_is_the_same_text():
    """What is learnt holds no text of the test, whether it stood first or second."""
    names = [f"text {index}" for index in range(60)]
    pairs = [Labelled(one, "0", two) for one, two in zip(names, names[1:], strict=False)]
    pairs += [Labelled(two, "1", one) for one, two in zip(names, names[1:], strict=False)]
    corpus = Corpus.divided("labelled", [(item.text, item) for item in pairs], validation_share=0.05, test_share=0.05)
    held_out = {text for item in (*corpus.validation, *corpus.test) for text in (item.text, item.second)}
    assert corpus.test and held_out.isdisjoint(text for item in corpus.train for text in (item.text, item.second))


def test_few_labels_of_pairs():
    pairs = tuple(Labelled(f"first {index}", str(index % 2), f"second {index}") for index in range(20))
    corpus = Corpus("labelled", pairs, pairs).withholding(4, 0)
    assert len(corpus.train) == 4 and len(corpus.unlabelled) == 32
    assert {f"{kind} 0" for kind in ("first", "second")} <= set(training_texts(corpus))


def test_scores(tmp_path):
    file = write(tmp_path / "a.tsv", "one\ttwo\t3.5\nthree\tfour\t-1e-1\n")
    corpus = load(train=file, validation=file, scores=True, **COLUMNS)
    assert corpus.kind == "scored" and [item.label for item in corpus.train] == ["3.5", "-1e-1"]
    assert corpus.notes[0].startswith("Read scored texts: 2 from")
    bad = write(tmp_path / "b.tsv", "one\ttwo\t3.5\nthree\tfour\tgood\n")
    for value in ("good", "nan", "inf"):
        write(tmp_path / "b.tsv", f"one\ttwo\t3.5\nthree\tfour\t{value}\n")
        with pytest.raises(InputError, match=rf"b\.tsv, line 2: the score '{value}' is no number; write one as in"):
            load(train=bad, validation=file, scores=True, **COLUMNS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"second": 2}, "second does nothing with lines of `label text`"),
        ({**COLUMNS, "second": 0}, "columns are counted from 1, so there is none 0"),
        ({"scores": True, "label_names": ["a", "b"]}, "label_names does nothing with scores, which are no classes"),
        ({"scores": True, "labels_kept": 10}, "labels_kept does nothing with scores"),
    ],
)
def test_what_is_wrong_with_the_options(given, message):
    with pytest.raises(InputError, match=message):
        load(train="a", **given)


def test_json_lines(tmp_path):
    lines = [{"a": "one", "b": "two", "score": 2.5}, {"a": "three", "b": "four", "score": 3}]
    file = write(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    given = {"train": file, "validation": file, "text": "a", "second": "b", "label": "score"}
    corpus = load("jsonl", **given, scores=True)
    assert corpus.train == (Labelled("one", "2.5", "two"), Labelled("three", "3", "four"))
    with pytest.raises(InputError, match="line 1: the field 'score' holds float, not text"):
        load("jsonl", **given)
    with pytest.raises(InputError, match="here, field 's': the score 'x' is no number"):
        take({"a": "one", "s": "x"}, "scored", ("a", "s"), "here")
    for key, value in (("second", "b"), ("scores", True)):
        with pytest.raises(InputError, match=f"{key} does nothing without label"):
            load("jsonl", train=file, validation=file, text="a", **{key: value})


# What stands around a pair


def tokenizer(template=None, **special):
    """Words, with what BERT, or another model, puts around them."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
    inside = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="[UNK]"))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        numbered = [("[CLS]", 2), ("[SEP]", 3)]
        inside.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair=template, special_tokens=numbered
        )
    return hf.PreTrainedTokenizerFast(tokenizer_object=inside, pad_token="[PAD]", unk_token="[UNK]", **special)


SEGMENTS = ["input_ids", "token_type_ids", "attention_mask"]
FRAMED = {"model_input_names": SEGMENTS, "cls_token": "[CLS]", "sep_token": "[SEP]"}


def test_frames(cache):
    bert = tokenizer("[CLS] $A [SEP] $B:1 [SEP]:1", **FRAMED)
    assert pair_frame_of(bert) == PairFrame([2], [3], [3], (0, 1))
    assert pair_frame_of(tokenizer("[CLS] $A [SEP] [SEP] $B [SEP]", **FRAMED)) == PairFrame([2], [3, 3], [3])
    assert pair_frame_of(tokenizer(**FRAMED)) == PairFrame([2], [3], [3], (0, 1))
    gpt = pair_frame_of(tokenizer(eos_token="[SEP]"))
    assert (gpt.before, gpt.between, gpt.behind) == ([], [3], [])
    ours = pair_frame_of(tiny.labelled_data(cache).tokenizer)
    assert (ours.before, ours.between, ours.behind) == ([2], [2], [2])


def test_segments_are_those_of_the_tokenizer():
    bert = tokenizer("[CLS] $A [SEP] $B:1 [SEP]:1", **FRAMED)
    items = (Labelled("a b", "0", "c"), Labelled("c", "1", "d a b"), Labelled("d", "0"))
    data = prepare(Corpus("labelled", items, items), "classification", 300, 16, tokenizer=bert, reads_segments=True)
    expected = [bert("a b", "c"), bert("c", "d a b"), bert("d")]
    for index, wanted in enumerate(expected):
        example = data.train[index]
        assert example["input_ids"].tolist() == wanted["input_ids"]
        assert example["token_type_ids"].tolist() == wanted["token_type_ids"]
    batch = data.collate([data.train[index] for index in range(3)])
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1], [0] * 7]
    unread = prepare(Corpus("labelled", items, items), "classification", 300, 16, tokenizer=bert)
    assert "token_type_ids" not in unread.collate([unread.train[0]])


@pytest.mark.parametrize(
    ("sizes", "kept"), [((10, 2), (6, 2)), ((2, 10), (2, 6)), ((10, 9), (4, 4)), ((5, 3), (5, 3)), ((9, 4), (4, 4))]
)
def test_the_longer_one_is_cut_first(sizes, kept):
    frame = PairFrame([0], [1], [2], (0, 1))
    ids, segments = frame.around([10] * sizes[0], [11] * sizes[1], 11)
    assert ids == [0, *[10] * kept[0], 1, *[11] * kept[1], 2] and len(segments) == len(ids)
    assert sum(segments) == kept[1] + 1


def test_pairs_that_are_too_long(cache):
    items = (Labelled("x" * 30, "a", "y" * 30), *(Labelled("xy", label, "yx") for label in "abab"))
    given = Corpus("labelled", items, items)
    dropped, cut = (prepare(given, "classification", 260, 16, how, cache) for how in ("drop", "cut"))
    assert len(dropped.train) == 4 and len(cut.train) == len(dropped.validation) == 5
    assert cut.train.lengths.max() == 16 and cut.train.texts[0] == (f"{'x' * 30} ‖ {'y' * 30}", "a")
    with pytest.raises(InputError, match="max_length 4 leaves nothing of a pair: write 5 or more"):
        prepare(given, "classification", 260, 4, "cut", cache)


# Scores as a task


def test_the_task(cache):
    train, rest = tuple(tiny.scored_pairs(100, 0)), tuple(tiny.scored_pairs(20, 1))
    data = prepare(Corpus("scored", train, rest), "regression", 290, 32, cache=cache)
    scores = [float(item.label) for item in train]
    mean = sum(scores) / 100
    assert data.scale.score_mean == pytest.approx(mean)
    assert data.scale.score_std == pytest.approx((sum((each - mean) ** 2 for each in scores) / 100) ** 0.5)
    batch = data.collate([data.train[index] for index in range(7)])
    assert batch["labels"].tolist() == scores[:7] and batch["labels"].is_floating_point()
    assert data.validation.texts[3] == (rest[3].whole, rest[3].label) and not data.has_classes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("2.5", "2.5"), "all training texts have the score 2.5: a regression needs scores that differ"),
        (("2.5", "x"), "the train side: the score 'x' is no number"),
        (("2.5", "-100"), "the train side has the score -100, which stands for none; shift all scores"),
    ],
)
def test_what_cannot_be_prepared(cache, labels, message):
    items = tuple(Labelled(f"word {label}", label) for label in labels)
    with pytest.raises(InputError, match=message):
        prepare(Corpus("scored", items, items), "regression", 260, 16, cache=cache)
    with pytest.raises(InputError, match="regression needs scored texts and the source gives labelled texts"):
        prepare(Corpus("labelled", items, items), "regression", 260, 16, cache=cache)
