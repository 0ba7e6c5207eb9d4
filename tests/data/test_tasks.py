"""Examples: what is predicted, how often, and how many bytes that is."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bareformers.data.corpus import Corpus, Labelled
from bareformers.data.examples import Collate, Spans, chunks, part
from bareformers.data.tasks import prepare
from bareformers.data.tokens import bytes_per_token
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


def framed(before, behind, **special):
    """A tokenizer of words that puts tokens around them."""
    names = [
        "<s>",
        "</s>",
        "[CLS]",
        "[SEP]",
        "?",
        *sorted({word for pair in PAIRS for side in pair for word in side.split()}),
    ]
    inside = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="?"))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = " ".join([*before, "$A", *behind])
    used = [(name, names.index(name)) for name in {*before, *behind}]
    if used:
        inside.post_processor = processors.TemplateProcessing(single=single, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=inside, unk_token="?", **special)


LABELLED = Corpus(
    "labelled",
    *(
        tuple(Labelled(pair[0], str(len(pair[0]) % 2)) for pair in PAIRS[part])
        for part in (slice(90), slice(90, 105), slice(105, 120))
    ),
)


@pytest.mark.parametrize(
    ("tokenizer", "before", "behind"),
    [
        (framed(["<s>"], ["</s>"], eos_token="</s>"), [0], [1]),
        (framed([], ["</s>"], eos_token="</s>"), [], [1]),
        (framed(["<s>"], [], eos_token="</s>"), [0], []),
        (framed([], [], eos_token="</s>"), [], []),  # as that of GPT-2
        (framed([], [], cls_token="[CLS]", sep_token="[SEP]"), [2], [3]),
        (framed(["<s>"], ["</s>"], eos_token="</s>", cls_token="[CLS]", sep_token="[SEP]"), [0], [1]),
    ],
)
def test_texts_are_framed_as_their_tokenizer_does_it(tokenizer, before, behind):
    data = prepare(LABELLED, "classification", 9, 8, "cut", tokenizer=tokenizer)
    for index, (text, _) in enumerate(data.test.texts):
        words = tokenizer.convert_tokens_to_ids(text.split())[: 8 - len(before) - len(behind)]
        assert data.test[index]["input_ids"].tolist() == [*before, *words, *behind]
    assert data.train.lengths.max() == 8
    assert any(f"(the longest has {12 + len(before) + len(behind)})" in note for note in data.notes)


def test_pairs_are_framed_as_their_tokenizer_does_it():
    for before, behind, wanted in ((["<s>"], ["</s>"], ([0], [1])), ([], [], ([], [1]))):
        data = prepare(PARALLEL, "translation", 9, 40, tokenizer=framed(before, behind, eos_token="</s>"))
        for index, texts in enumerate(data.test.texts):
            for key, text in zip(("input_ids", "labels"), texts, strict=True):
                words = data.tokenizer.convert_tokens_to_ids(text.split())
                assert data.test[index][key].tolist() == [*wanted[0], *words, *wanted[1]]


def test_references_are_made_of_the_tokens_of_targets():
    tokenizer = framed([], ["</s>"], eos_token="</s>")

    class Two(type(tokenizer)):
        """One that takes the letters of references apart, as Marian has another model for them."""

        def _switch_to_target_mode(self):
            self.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")

        def _switch_to_input_mode(self):
            self.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    tokenizer.__class__ = Two
    data = prepare(PARALLEL, "translation", 9, 99, tokenizer=tokenizer)
    for index, (source, target) in enumerate(data.test.texts):
        assert len(data.test[index]["input_ids"]) == len(source.split()) + 1
        assert data.test[index]["labels"].tolist() == [4] * len(target) + [1]
    tokenizer.separate_vocabs = True
    with pytest.raises(InputError, match="a vocabulary for each language"):
        prepare(PARALLEL, "translation", 9, 99, tokenizer=tokenizer)


@pytest.mark.parametrize("task", ["language_modelling", "translation"])
def test_parts_of_a_side(cache, task):
    corpus = CORPUS if task == "language_modelling" else PARALLEL
    data = prepare(corpus, task, 270, 24, cache=cache)
    sizes, whole = bytes_per_token(data.tokenizer), data.test
    some, others = np.arange(1, len(whole), 3), np.setdiff1d(np.arange(len(whole)), np.arange(1, len(whole), 3))
    first, second = part(whole, some, sizes), part(whole, others, sizes)
    assert first.num_bytes + second.num_bytes == whole.num_bytes and 0 < first.num_bytes < whole.num_bytes
    assert first.label_tokens.tolist() == whole.label_tokens[some].tolist() and len(first) == len(some)
    for at, row in enumerate(some.tolist()):
        assert all((first[at][key] == whole[row][key]).all() for key in ("input_ids", "labels"))
    assert first.texts == (tuple(whole.texts[row] for row in some) if whole.texts else ())
    alone = part(whole, np.array([2]), sizes)
    labels = whole[2]["labels"][1 if task == "language_modelling" else 0 :]
    assert alone.num_bytes == sizes[labels].sum()


def test_a_part_of_rows_with_masks(cache):
    data = prepare(CORPUS, "masked_language_modelling", 300, 24, cache=cache)
    rows = np.array([0, 3, 4])
    found = part(data.train, rows, bytes_per_token(data.tokenizer))
    assert len(found) == 3 and found.num_bytes == 0 and found.masking is data.train.masking
    for at, row in enumerate(rows.tolist()):
        assert (found.inputs[at] == data.train.inputs[row]).all()


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
