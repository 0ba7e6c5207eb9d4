"""The recall task: what of a made-up sequence is predicted, from where, and how answers are counted."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer

from bareformers.data.corpus import Corpus, WordSequence
from bareformers.data.examples import Collate, recalls
from bareformers.data.tasks import prepare
from bareformers.data.tokens import word_tokenizer
from bareformers.errors import InputError
from bareformers.measure.quality import likelihood, num_predicted, recalled
from bareformers.models import BareForCausalLM
from bareformers.registry import sources
from tests.models.sizes import build

EOS, IGNORED = 2, -100


def retrieval(**given):
    """Four pairs and two queries in 14 words."""
    options = {"pairs": 4, "queries": 2, "train": 12, "validation": 4, "test": 4, **given}
    return sources.get("associative_retrieval")(**options).load()


@pytest.fixture(scope="module")
def data():
    return prepare(retrieval(), "recall", 8000, 15)


# Words and ids


def test_words_are_tokens():
    tokenizer = word_tokenizer(["k0", "v0", "?"])
    assert len(tokenizer) == 8
    assert tokenizer.convert_ids_to_tokens(list(range(8))) == "<pad> <s> </s> <mask> <unk> k0 v0 ?".split()
    assert tokenizer(" k0  v0\n? k0")["input_ids"] == [5, 6, 7, 5]
    assert tokenizer("k0 v00")["input_ids"] == [5, 4] and tokenizer.unk_token_id == 4
    assert tokenizer.decode([EOS, 5, 6, 7, 5, 0], skip_special_tokens=True) == "k0 v0 ? k0"


def test_saved_and_loaded_they_are_the_same(tmp_path):
    tokenizer = word_tokenizer(["k0", "v0", "?"])
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab() and loaded.special_tokens_map["unk_token"] == "<unk>"
    assert loaded("? k0")["input_ids"] == [7, 5] and loaded.decode([7, 5]) == "? k0"


def test_the_vocabulary_is_that_of_the_source(data):
    assert len(data.tokenizer) == 5 + 4 + 4 + 1
    few = prepare(retrieval(train=1, validation=1, test=0), "recall", 8000, 15)
    assert few.tokenizer.get_vocab() == data.tokenizer.get_vocab() and len(few.test) == 0
    assert "The vocabulary has 14 words, special tokens included." in data.notes
    assert any("12 train sequences (24 predicted tokens)" in note and "15 tokens" in note for note in data.notes)


# What is predicted


def test_only_answers_are_labelled(data):
    for side, examples in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        sequences = getattr(retrieval(), side)
        assert len(examples) == len(sequences) and examples.num_bytes == 0
        assert set(examples.lengths.tolist()) == {15} and set(examples.label_tokens.tolist()) == {2}
        for index, sequence in enumerate(sequences):
            ids, labels = (examples[index][key].tolist() for key in ("input_ids", "labels"))
            assert ids[0] == EOS and data.tokenizer.decode(ids[1:]) == " ".join(sequence.words)
            places = [place for place, label in enumerate(labels) if label != IGNORED]
            assert places == [position + 1 for position in sequence.answers]
            assert [labels[place] for place in places] == [ids[place] for place in places]


def test_a_batch_of_one_length_needs_no_mask(data):
    batch = data.collate([data.train[0], data.train[1], data.train[2]])
    assert set(batch) == {"input_ids", "labels"} and batch["labels"].shape == (3, 15)
    assert num_predicted(batch["labels"], causal=True) == 6


def test_sequences_of_a_plugin_may_differ_in_length():
    given = (WordSequence(("a", "b", "a"), (2,)), WordSequence(("b", "b"), (1,)))
    data = prepare(Corpus("sequences", given, given, vocabulary=("a", "b")), "recall", 8000, 9)
    batch = data.collate([data.train[0], data.train[1]])
    assert batch["input_ids"].tolist() == [[EOS, 5, 6, 5], [EOS, 6, 6, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, IGNORED, 5], [IGNORED, IGNORED, 6, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_the_model_predicts_an_answer_from_the_word_before(data):
    net = build(BareForCausalLM)
    batch = data.collate([data.train[index] for index in range(4)])
    with torch.no_grad():
        probabilities = net(batch["input_ids"]).logits.log_softmax(-1)
        loss = net(**batch).loss.item()
    surprises = [
        -probabilities[row, place - 1, label].item()
        for row, labels in enumerate(batch["labels"].tolist())
        for place, label in enumerate(labels)
        if label != IGNORED
    ]
    assert len(surprises) == 8 and loss == pytest.approx(sum(surprises) / 8, rel=1e-5)


@pytest.mark.parametrize("position", [0, 3, -1])
def test_answers_stand_inside_their_sequence(position):
    with pytest.raises(ValueError, match="an answer stands outside its sequence"):
        recalls([[EOS, 5, 6], [EOS, 5, 6]], [[position], [1]])
    with pytest.raises(ValueError, match="a sequence has no answers"):
        recalls([[EOS, 5, 6], [EOS, 5, 6]], [[1], []])


def test_what_cannot_be_prepared(data):
    with pytest.raises(InputError, match="sequences of 15 tokens, .* task.max_length is 14: write 15 or more"):
        prepare(retrieval(), "recall", 8000, 14)
    with pytest.raises(InputError, match="needs documents and the source gives sequences: write task.name: recall"):
        prepare(retrieval(), "language_modelling", 8000, 15)
    with pytest.raises(InputError, match="recall needs sequences and the source gives pairs: .* translation"):
        prepare(Corpus("pairs", (("a", "b"),), (("a", "b"),)), "recall", 8000, 15)
    unnamed = (WordSequence(("a", "b"), (1,)),)
    with pytest.raises(InputError, match="the train side has the word 'b', which the vocabulary lacks"):
        prepare(Corpus("sequences", unnamed, unnamed, vocabulary=("a",)), "recall", 8000, 15)
    with pytest.raises(InputError, match="the train side has the word '[kv]4'"):
        prepare(retrieval(pairs=5), "recall", 8000, 99, tokenizer=data.tokenizer)


# How answers are counted


class Successor(nn.Module):
    """A model that takes every next token to be one larger."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, labels, attention_mask=None):
        logits = 3 * F.one_hot(input_ids + 1, 12).float()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return SimpleNamespace(logits=logits, loss=loss)


ANSWERED = [
    ([EOS, 5, 6, 7, 9], [2, 4]),  # the first right, the second taken for 8
    ([EOS, 4, 5, 6, 7], [3, 4]),
    ([EOS, 3, 3, 8, 9], [4]),
    ([EOS, 5, 6], [2]),
]


def batches():
    """Two, neither in the order of the examples; the second is ragged."""
    examples = recalls([ids for ids, _ in ANSWERED], [places for _, places in ANSWERED])
    collate = Collate(pad=0, labels="below")
    return [(indices, collate([examples[index] for index in indices])) for indices in ([2, 0], [3, 1])]


def test_accuracy_by_hand():
    found = recalled(Successor(), batches())
    assert found.answers == [[6, 8], [6, 7], [9], [6]]
    assert (found.num_right, found.likelihood.num_tokens, found.num_whole) == (5, 6, 3)
    assert found.accuracy == pytest.approx(100 * 5 / 6) and found.exact == 75
    total = math.log(math.exp(3) + 11)
    assert found.likelihood.nats == pytest.approx(5 * (total - 3) + total, rel=1e-5)


def test_likelihood_is_that_of_any_causal_model():
    net = build(BareForCausalLM).train()
    found = recalled(net, batches())
    same = likelihood(net, (batch for _, batch in batches()), causal=True)
    assert net.training and found.likelihood.num_tokens == same.num_tokens == 6
    assert found.likelihood.nats == pytest.approx(same.nats, rel=1e-5)
    net.eval()
    for (ids, places), answers in zip(ANSWERED, found.answers, strict=True):
        with torch.no_grad():
            likeliest = net(torch.tensor([ids])).logits[0].argmax(-1)
        assert answers == [int(likeliest[place - 1]) for place in places]
