"""Masked language modelling: which tokens are hidden, how often, and when they are others."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bareformers.assessment import with_blanks
from bareformers.data.batching import BatchPlan, Visit
from bareformers.data.corpus import Corpus
from bareformers.data.examples import IGNORED, Masked, Masking, Spans, packed
from bareformers.data.tasks import prepare
from bareformers.errors import InputError
from bareformers.measure.quality import num_predicted
from tests.training import tiny

PAD, START, EOS, MASK = range(4)
ORDINARY = np.arange(4, 1000, dtype=np.int32)


def rows(count=200, length=100, share=0.15):
    """Random tokens with a `</s>` at every tenth place."""
    ids = np.random.default_rng(0).integers(4, 1000, count * length).astype(np.int32)
    ids[::10] = EOS
    starts = np.arange(0, count * length, length)
    return Masked(Spans(ids, starts, starts + length), Masking(share, MASK, EOS, ORDINARY))


def drawn(examples, seed, epoch):
    """All examples of an epoch: what is read and what is to be told, [rows, T]."""
    found = [examples[Visit(index, seed, epoch)] for index in range(len(examples))]
    return np.stack([each["input_ids"] for each in found]), np.stack([each["labels"] for each in found])


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_shares(share):
    examples = rows(share=share)
    before = np.stack([examples.inputs[index] for index in range(len(examples))])
    ids, labels = drawn(examples, 0, 0)
    asked = labels != IGNORED
    assert (asked.sum(1) == round(100 * share)).all() and (examples.label_tokens == round(100 * share)).all()
    assert (labels[asked] == before[asked]).all() and (ids[~asked] == before[~asked]).all()
    assert (before[asked] != EOS).all(), "the end of a document is never to be told"
    masked, same = (ids[asked] == MASK).mean(), (ids[asked] == before[asked]).mean()
    assert masked == pytest.approx(0.8, abs=0.03) and same == pytest.approx(0.1, abs=0.02)
    others = ids[asked & (ids != MASK) & (ids != before)]
    assert others.min() >= 4 and len(set(others.tolist())) > 0.5 * min(len(others), 900)


def test_every_place_comes_to_be_asked():
    examples = rows(count=1)
    asked = sum(drawn(examples, 0, epoch)[1][0] != IGNORED for epoch in range(300))
    assert asked[::10].sum() == 0 and asked[np.arange(100) % 10 > 0].min() > 20


def test_masks_follow_from_seed_epoch_and_index():
    examples, again = rows(), rows()
    first = drawn(examples, 3, 1)
    assert all((one == other).all() for one, other in zip(first, drawn(again, 3, 1), strict=True))
    for seed, epoch in ((3, 2), (4, 1)):
        ids, labels = drawn(examples, seed, epoch)
        assert 0.7 < ((labels == IGNORED) == (first[1] == IGNORED)).mean() < 0.85
    places = {tuple(np.flatnonzero(row != IGNORED)) for row in first[1]}
    assert len(places) == len(examples), "no two rows have the same masks"


def test_under_a_plain_index_masks_stay():
    examples = rows()
    for index in (0, 7):
        one, other = examples[index], examples[np.int64(index)]
        assert all((one[key] == other[key]).all() for key in one)


def test_the_global_random_state_has_no_part():
    examples = rows()
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    one = examples[Visit(3, 0, 0)]
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(1)
    assert (examples[Visit(3, 0, 0)]["labels"] == one["labels"]).all()


def test_at_least_one_token_is_asked_and_no_more_than_there_are():
    ids = np.array([EOS, 5, EOS, EOS, EOS, EOS, 6, 7, 8, EOS], np.int32)
    starts, stops = np.array([0, 3, 6]), np.array([3, 6, 10])
    few = Masked(Spans(ids, starts, stops), Masking(0.01, MASK, EOS, ORDINARY))
    assert len(few) == 2 and few.label_tokens.tolist() == [1, 1], "a row of nothing but </s> is left out"
    assert few[0]["labels"].tolist() == [IGNORED, 5, IGNORED]
    many = Masked(Spans(ids, starts, stops), Masking(0.99, MASK, EOS, ORDINARY))
    assert many.label_tokens.tolist() == [1, 3] and many[1]["labels"].tolist() == [6, 7, 8, IGNORED]


def test_rows_hold_every_token_once():
    spans = packed([[10, 11, 12], [13], [14, 15]], EOS, 4)
    found = [spans[index].tolist() for index in range(len(spans))]
    assert found == [[EOS, 10, 11, 12], [EOS, 13, EOS, 14], [15, EOS]]
    assert len(packed([], EOS, 4)) == 1


def test_the_plan_says_when_it_draws():
    plan = list(BatchPlan(np.full(6, 4), np.ones(6), 12, 5, epochs=2))
    assert [{visit.epoch for visit in batch} for batch in plan] == [{0}, {0}, {1}, {1}]
    assert {visit.seed for batch in plan for visit in batch} == {5}
    assert sorted(plan[0] + plan[1]) == list(range(6)) and ORDINARY[plan[0]].tolist() == [4 + i for i in plan[0]]


# As a task


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(cache):
    return tiny.masked_data(cache)


def test_the_task(data):
    assert set(data.train.lengths.tolist()) == {tiny.MAX_LENGTH}
    assert set(data.train.label_tokens.tolist()) == {8} and data.train.num_bytes == 0
    assert any("chunks of 32 tokens, of which 25 % are masked and predicted" in note for note in data.notes)
    text = "".join(data.tokenizer.decode(data.test.inputs[index]) for index in range(len(data.test)))
    assert text.startswith("</s>") and text.replace("</s>", "") == "".join(tiny.paragraphs(16)[-2:])


def test_a_batch(data):
    plan = BatchPlan(data.train.lengths, data.train.label_tokens, 256, 0, steps=3)
    batches = [data.collate([data.train[index] for index in indices]) for indices in plan]
    assert sum(num_predicted(batch["labels"], causal=False) for batch in batches) == plan.tokens
    for batch in batches:
        assert set(batch) == {"input_ids", "labels"} and batch["input_ids"].shape == batch["labels"].shape
        assert ((batch["labels"] != IGNORED).sum(1) == 8).all()
        assert (batch["input_ids"] == data.tokenizer.mask_token_id).any()


def test_a_shorter_row_is_padded(data):
    short = {name: ids[:5] for name, ids in data.test[0].items()}
    batch = data.collate([data.test[0], short])
    assert batch["attention_mask"].sum(1).tolist() == [32, 5]
    assert (batch["labels"][1, 5:] == IGNORED).all() and (batch["input_ids"][1, 5:] == PAD).all()


def test_held_out_masks_are_fixed(cache, data):
    again = tiny.masked_data(cache)
    for side in ("validation", "test"):
        one, other = (getattr(each, side) for each in (data, again))
        for index in range(len(one)):
            assert all((one[index][key] == other[index][key]).all() for key in ("input_ids", "labels"))


def test_what_cannot_be_prepared(cache):
    corpus = Corpus("documents", ("one two three",), ("four",))
    with pytest.raises(InputError, match="the training side has only [0-9]+ tokens, less than one chunk"):
        prepare(corpus, "masked_language_modelling", 260, 64, cache=cache)
    pairs = Corpus("pairs", (("a", "b"),), (("a", "b"),))
    with pytest.raises(InputError, match="masked_language_modelling needs documents and the source gives pairs"):
        prepare(pairs, "masked_language_modelling", 260, 64)
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"</s>": 0})), eos_token="</s>")
    with pytest.raises(InputError, match="has no mask token: give it a mask_token"):
        prepare(corpus, "masked_language_modelling", 260, 64, tokenizer=plain)


def test_documents_are_parted_as_by_bert():
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "?", *tiny.vocabulary()]
    inside = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?"))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", unk_token="?")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inside, **special)
    corpus = Corpus("documents", *(tuple(tiny.paragraphs(9, seed)) for seed in range(3)))
    data = prepare(corpus, "masked_language_modelling", 9, 16, tokenizer=tokenizer)
    assert tokenizer.eos_token is None and (data.train.inputs.ids == 2).sum() == 10
    for index in range(len(data.test)):
        example = data.test[index]
        asked = example["labels"] != IGNORED
        assert (example["labels"][asked] > 3).all() and (example["input_ids"] == 2).sum() == (
            data.test.inputs[index] == 2
        ).sum()
    shown = with_blanks(data, data.test.inputs.ids)
    assert shown.count("⏎") == 8 and "[SEP]" not in shown
