"""Examples: what is predicted, how often, and how many bytes that is."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bareformers.data.corpus import Corpus
from bareformers.data.examples import Collate, Spans, chunks
from bareformers.data.tasks import prepare
from bareformers.errors import InputError

DOCUMENTS = tuple(f"{index} Äpfel und\n  {index * 7} Birnen </s>\n" * (1 + index % 3) for index in range(80))
PAIRS = tuple(
    (
        " ".join(f"wort{word * index % 99}" for word in range(1 + index % 12)),
        " ".join(f"word{word + index}" for word in range(1 + index % 5)),
    )
    for index in range(120)
)
CORPUS = Corpus("documents", DOCUMENTS[:60], DOCUMENTS[60:70], DOCUMENTS[70:], ("Read.",))
PARALLEL = Corpus("pairs", PAIRS[:90], PAIRS[90:105], PAIRS[105:], languages=("de", "en"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_chunks_predict_every_token_once():
    examples = chunks([[10, 11, 12], [], [13, 14]], eos=2, length=4, byte_sizes=np.arange(20))
    rows = [examples[index]["input_ids"].tolist() for index in range(len(examples))]
    assert rows == [[2, 10, 11, 12], [12, 2, 2, 13], [13, 14, 2]]
    assert [token for row in rows for token in row[1:]] == [10, 11, 12, 2, 2, 13, 14, 2]
    assert examples.label_tokens.tolist() == [3, 3, 2]
    assert examples.num_bytes == 10 + 11 + 12 + 13 + 14 + 3 * 2


@pytest.mark.parametrize("length", [2, 5, 9, 10, 11, 300])
def test_chunks_of_any_length_cover_the_stream(length):
    examples = chunks([range(100, 108), [7]], eos=2, length=length, byte_sizes=np.zeros(200, np.int64))
    predicted = [token for index in range(len(examples)) for token in examples[index]["labels"][1:].tolist()]
    assert predicted == [*range(100, 108), 2, 7, 2]
    assert examples.lengths.max() <= length and examples.lengths.min() >= 2


def test_language_modelling(cache):
    data = prepare(CORPUS, "language_modelling", 300, 32, cache=cache)
    assert set(data.train.lengths) == {32}
    for examples, documents in ((data.validation, CORPUS.validation), (data.test, CORPUS.test)):
        assert examples.num_bytes == sum(len(text.encode()) for text in documents)
        predicted = np.concatenate([examples[index]["labels"][1:] for index in range(len(examples))])
        assert len(predicted) == examples.label_tokens.sum()
        decoded = [data.tokenizer.decode(ids[:-1]) for ids in np.split(predicted, np.flatnonzero(predicted == 2) + 1)]
        assert tuple(decoded[:-1]) == documents
    assert data.notes[0] == "Read." and any("fill no chunk" in note for note in data.notes)
    left_out = sum(len(text.encode()) for text in CORPUS.train) - data.train.num_bytes
    assert 0 < left_out < 32 * 10


def test_translation(cache):
    data = prepare(PARALLEL, "translation", 270, 200, cache=cache)
    assert data.test.texts == PARALLEL.test and data.languages == ("de", "en")
    for index, (source, target) in enumerate(data.test.texts):
        example = data.test[index]
        assert example["input_ids"][-1] == example["labels"][-1] == data.tokenizer.eos_token_id
        assert data.tokenizer.decode(example["input_ids"][:-1]) == source
        assert data.tokenizer.decode(example["labels"][:-1]) == target
        assert data.test.lengths[index] == max(len(example["input_ids"]), len(example["labels"]))
        assert data.test.label_tokens[index] == len(example["labels"])
    assert data.test.num_bytes == sum(len(target.encode()) for _, target in PARALLEL.test)
    totals = [sum(len(data.train[index][key]) for index in range(90)) for key in ("input_ids", "labels")]
    assert data.length_ratio == pytest.approx(totals[0] / totals[1])


def test_too_long_pairs(cache):
    dropped = prepare(PARALLEL, "translation", 270, 16, "drop", cache)
    cut = prepare(PARALLEL, "translation", 270, 16, "cut", cache)
    assert len(cut.train) == 90 > len(dropped.train) == len(dropped.train.texts)
    assert cut.train.lengths.max() == dropped.train.lengths.max() == 16
    for data in (dropped, cut):
        assert len(data.test) == 15 and data.test.texts == PARALLEL.test
        assert all(data.test[index]["input_ids"][-1] == 2 for index in range(15))
    assert any(note.startswith(f"Dropped {90 - len(dropped.train)} train pairs") for note in dropped.notes)
    assert any(note.startswith("Cut ") and "test pairs longer than 16" in note for note in dropped.notes)
    with pytest.raises(InputError, match="train pairs longer than 16 tokens .* write a larger task.max_length"):
        prepare(PARALLEL, "translation", 270, 16, "error", cache)
    with pytest.raises(InputError, match="all training pairs are longer"):
        prepare(PARALLEL, "translation", 270, 2, "drop", cache)


def test_the_vocabulary_comes_from_the_training_side_alone(cache):
    other = Corpus("pairs", PARALLEL.train, (("völlig", "anders"),), (("ganz", "neu"),))
    first, second = (prepare(corpus, "translation", 270, 64, cache=cache) for corpus in (PARALLEL, other))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def test_a_given_tokenizer(cache):
    trained = prepare(CORPUS, "language_modelling", 300, 32, cache=cache)
    backend = trained.tokenizer.backend_tokenizer
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", clean_up_tokenization_spaces=False)
    given = prepare(CORPUS, "language_modelling", 9, 32, tokenizer=plain)
    assert given.tokenizer is plain and given.collate.pad == plain.eos_token_id
    assert given.test.num_bytes == trained.test.num_bytes
    assert (given.test.inputs.ids == trained.test.inputs.ids).all()

    words = Tokenizer(models.WordLevel({"</s>": 0, "?": 1, "▁Äpfel": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    other = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="?")
    assert prepare(CORPUS, "language_modelling", 9, 32, tokenizer=other).test.num_bytes == 0
    with pytest.raises(InputError, match="has no end-of-sequence token"):
        prepare(CORPUS, "language_modelling", 9, 32, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))


def test_an_empty_test_side(cache):
    for corpus, task in ((CORPUS, "language_modelling"), (PARALLEL, "translation")):
        data = prepare(Corpus(corpus.kind, corpus.train, corpus.validation), task, 265, 64, cache=cache)
        assert len(data.test) == data.test.num_bytes == 0


@pytest.mark.parametrize(
    ("corpus", "task", "length", "message"),
    [
        (
            PARALLEL,
            "language_modelling",
            32,
            "needs documents and the source gives pairs: write task.name: translation",
        ),
        (CORPUS, "translation", 32, "needs pairs and the source gives documents: write task.name: language_modelling"),
        (CORPUS, "translate", 32, "did you mean 'translation'"),
        (CORPUS, "language_modelling", 1, "max_length 1"),
        (CORPUS, "language_modelling", 10**6, "write task.max_length: [0-9]+ or less"),
    ],
)
def test_what_cannot_be_prepared(cache, corpus, task, length, message):
    with pytest.raises(InputError, match=message):
        prepare(corpus, task, 265, length, cache=cache)


def row(*ids, labels=None):
    return {"input_ids": np.array(ids, np.int32), "labels": np.array(ids if labels is None else labels, np.int32)}


def test_collate_pads_language_modelling_only_where_needed():
    even = Collate(pad=0, labels="below")([row(5, 6), row(7, 8)])
    assert set(even) == {"input_ids", "labels"} and even["input_ids"].dtype == torch.long
    ragged = Collate(pad=0, labels="below")([row(5, 6, 7), row(8)])
    assert ragged["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert ragged["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]
    assert ragged["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    left = Collate(pad=0, labels="below", padding_side="left")([row(5, 6), row(8)])
    assert (left["input_ids"].tolist(), left["labels"].tolist()) == ([[5, 6], [0, 8]], [[5, 6], [-100, 8]])


def test_collate_pads_translation():
    batch = Collate(pad=0, labels="beside", padding_side="left")([row(5, 2, labels=[9, 2]), row(2, labels=[2])])
    assert batch["input_ids"].tolist() == [[5, 2], [0, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert batch["labels"].tolist() == [[9, 2], [2, -100]]
    assert "attention_mask" in Collate(pad=0, labels="beside")([row(5, 2)])


def test_spans_join_nothing():
    assert len(Spans.join([])) == 0 and Spans.join([[], [4]]).lengths.tolist() == [0, 1]
