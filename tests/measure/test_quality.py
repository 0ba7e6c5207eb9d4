"""Likelihood, decoding and scores, against the same done by hand."""

import math
from types import SimpleNamespace

import pytest
import sacrebleu
import torch

from bareformers.measure.quality import Likelihood, decode, distinct, likelihood, rouge, translation_scores
from bareformers.models import BareForCausalLM, BareForSeq2SeqLM
from tests.models.sizes import build, right_padded, tokens
from tests.reference import overlap


def batches(causal):
    """Two batches; the rows of the first are of unequal length."""
    mask = right_padded(8, 8, 5, 2)
    labels, real = (tokens(), mask) if causal else (tokens(3, 6, seed=1), right_padded(6, 6, 4, 1))
    whole = {"input_ids": tokens(2, 5, seed=2), "labels": tokens(2, 5, seed=2) if causal else tokens(2, 3, seed=3)}
    return [
        {"input_ids": tokens() * mask, "attention_mask": mask, "labels": labels.masked_fill(real == 0, -100)},
        whole,
    ]


def directly(net, rows, causal):
    """The sum of -log p over every label, token by token."""
    nats, count = 0.0, 0
    for batch in rows:
        probabilities = net(**batch).logits.log_softmax(-1)
        for row, labels in enumerate(batch["labels"].tolist()):
            for position, label in enumerate(labels):
                if label != -100 and not (causal and position == 0):
                    nats -= probabilities[row, position - causal, label].item()
                    count += 1
    return nats, count


@pytest.mark.parametrize("causal", [True, False])
def test_likelihood_is_the_sum_over_real_labels(causal):
    net = build(BareForCausalLM) if causal else build(BareForSeq2SeqLM, is_encoder_decoder=True)
    found = likelihood(net, batches(causal), causal=causal)
    nats, count = directly(net, batches(causal), causal)
    assert found.num_tokens == count and found.nats == pytest.approx(nats, rel=1e-5)
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found.bits_per_byte is None


def test_padding_more_changes_nothing():
    net, (batch, _) = build(BareForCausalLM), batches(causal=True)
    wider = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 3)),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 3)),
        "labels": torch.nn.functional.pad(batch["labels"], (0, 3), value=-100),
    }
    narrow, wide = (likelihood(net, [each], causal=True) for each in (batch, wider))
    assert narrow.num_tokens == wide.num_tokens and narrow.nats == pytest.approx(wide.nats, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    net = build(BareForCausalLM, dropout=0.5).train(training)
    first, again = (likelihood(net, batches(True), causal=True).nats for _ in range(2))
    assert first == again and net.training is training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_bits_per_byte_by_hand():
    """Eight labels of which each costs ln 23 under a model that knows nothing, for a text of five bytes."""
    net = build(BareForCausalLM)
    with torch.no_grad():
        net.lm_head.weight.zero_()
    ids = tokens(1, 9)
    found = likelihood(net, [{"input_ids": ids, "labels": ids}], num_bytes=5, causal=True)
    assert found.num_tokens == 8 and found.loss == pytest.approx(math.log(23)) and found.perplexity == pytest.approx(23)
    assert found.bits_per_byte == pytest.approx(8 * math.log2(23) / 5)
    assert Likelihood(nats=12 * math.log(2), num_tokens=3, num_bytes=4).bits_per_byte == pytest.approx(3)


def test_a_hopeless_model_has_a_perplexity_too():
    assert Likelihood(nats=1e6, num_tokens=1).perplexity == math.exp(700)


EOS = 2


class Echo:
    """A model that says its input again, and ends it unless it begins with 9."""

    device = torch.device("cpu")

    def __init__(self, is_encoder_decoder):
        self.config = SimpleNamespace(is_encoder_decoder=is_encoder_decoder)
        self.asked = []

    def eval(self):
        return self

    def generate(self, input_ids, attention_mask=None, **settings):
        self.asked.append(settings)
        ends = torch.where(input_ids[:, :1] == 9, 9, EOS)
        said = torch.cat([input_ids, ends], 1)
        start = torch.ones_like(ends)
        return torch.cat([start, said] if self.config.is_encoder_decoder else [input_ids, said], 1)


TOKENIZER = SimpleNamespace(
    eos_token_id=EOS,
    batch_decode=lambda ids, skip_special_tokens: [
        " ".join(str(token) for token in row if token > 2) for row in ids.tolist()
    ],
)


@pytest.mark.parametrize("is_encoder_decoder", [True, False])
def test_texts_come_back_in_the_order_of_the_inputs(is_encoder_decoder):
    """The batches are sorted by length, the longest first."""
    rows = [[3], [4, 5, 6], [9, 7], [8, 8, 8], [9, 5]]
    plan = [[1, 3], [2, 4], [0]]
    model = Echo(is_encoder_decoder)
    given = ((indices, {"input_ids": torch.tensor([rows[index] for index in indices])}) for indices in plan)
    decoded = decode(model, TOKENIZER, given, max_new_tokens=7, beams=3, length_penalty=0.6)
    expected = [" ".join(map(str, row)) for row in rows]
    expected[2], expected[4] = "9 7 9", "9 5 9"
    assert decoded.texts == expected and decoded.num_unfinished == 2
    assert model.asked == [dict(max_new_tokens=7, num_beams=3, length_penalty=0.6, do_sample=False)] * 3


def test_a_real_model_decodes_each_row_as_if_alone():
    net = build(BareForSeq2SeqLM, is_encoder_decoder=True)
    ids, mask = tokens(), right_padded(8, 8, 5, 3)
    together = decode(net, TOKENIZER, [([2, 0, 1], {"input_ids": ids * mask, "attention_mask": mask})], 6, beams=2)
    alone = [
        decode(net, TOKENIZER, [([0], {"input_ids": ids[row : row + 1, :length]})], 6, beams=2).texts[0]
        for row, length in ((1, 5), (2, 3), (0, 8))
    ]
    assert together.texts == alone


def test_scores_are_those_of_sacrebleu():
    references = ["The cat sat on the mat.", "It rains in Zürich today, doesn't it?", "Hello world!"]
    outputs = ["The cat sat on a mat.", "It rained in Zürich today, does it?", "Hello, world!"]
    found = translation_scores(outputs, [[reference] for reference in references])
    assert found.bleu == sacrebleu.corpus_bleu(outputs, [references]).score
    assert found.chrf == sacrebleu.corpus_chrf(outputs, [references]).score
    assert found.signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert 0 < found.bleu < 100
    assert translation_scores(references, [[reference] for reference in references]).bleu == pytest.approx(100)


def test_some_outputs_have_more_references():
    outputs = ["the cat sat on a mat today", "it rained in town"]
    found = translation_scores(outputs, [["the dog lay down", "the cat sat on a mat today"], ["it rained in town"]])
    assert found.bleu == pytest.approx(100) and found.signature.startswith("nrefs:var|")


OUTPUTS = ("a b c d b c", "red fox", "", "one two three")
REFERENCES = (("b c d", "a b x d"), ("blue sky",), ("nothing came",), ("three two one two", "one", "two three four"))


def test_rouge_is_that_of_its_definition():
    found = rouge(OUTPUTS, REFERENCES)
    for name, score in found.items():
        rows = zip(OUTPUTS, REFERENCES, strict=True)
        best = [max(overlap.rouge(name, output, one) for one in those) for output, those in rows]
        assert score == pytest.approx(100 * sum(best) / len(OUTPUTS)), name
    assert found["rouge_1"] > found["rouge_2"] > 0
    assert rouge(["It rained!"], [["it rains"]])["rouge_1"] == pytest.approx(100)  # letters small, words stemmed


def test_distinct_words_and_pairs():
    assert distinct(OUTPUTS) == pytest.approx(overlap.distinct(OUTPUTS))
    assert distinct(["a b", "a b"]) == {"distinct_1": 50.0, "distinct_2": 50.0}
    assert distinct([""]) == {"distinct_1": 0.0, "distinct_2": 0.0}
