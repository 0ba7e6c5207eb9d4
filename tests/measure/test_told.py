"""Masked tokens and classes that are told right, against the same counted by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bareformers.measure.quality import Classified, Likelihood, classified, likelihood, num_predicted, recalled
from bareformers.models import BareForMaskedLM, BareForSequenceClassification
from tests.models.sizes import build, right_padded, tokens


def test_what_counts_as_predicted():
    labels = torch.tensor([[5, -100, 6], [-100, -100, 7]])
    assert num_predicted(labels, causal=False) == 3 and num_predicted(labels, causal=True) == 2
    assert num_predicted(torch.tensor([0, 2, 1]), causal=False) == 3


def masked_batches():
    """Two, neither in the order of the examples; the first is ragged."""
    mask = right_padded(8, 8, 5)
    ragged = torch.where(right_padded(8, 3, 1) == 1, tokens(2, 8, seed=1), -100)
    whole = torch.full((1, 6), -100)
    whole[0, 5] = 9
    return [
        ([2, 0], {"input_ids": tokens(2, 8) * mask, "attention_mask": mask, "labels": ragged}),
        ([1], {"input_ids": tokens(1, 6, seed=2), "labels": whole}),
    ]


def test_masked_tokens_are_told_where_they_stand():
    net = build(BareForMaskedLM)
    found = recalled(net, masked_batches(), causal=False)
    answers, nats, right = {}, 0.0, 0
    for indices, batch in masked_batches():
        with torch.no_grad():
            probabilities = net(**batch).logits.log_softmax(-1)
        for row, index in enumerate(indices):
            places = (batch["labels"][row] != -100).nonzero()[:, 0].tolist()
            true = batch["labels"][row, places].tolist()
            answers[index] = probabilities[row, places].argmax(-1).tolist()
            nats -= sum(probabilities[row, place, label].item() for place, label in zip(places, true, strict=True))
            right += sum(one == other for one, other in zip(answers[index], true, strict=True))
    assert found.answers == [answers[index] for index in range(3)] and [len(row) for row in found.answers] == [1, 1, 3]
    assert found.likelihood.num_tokens == 5 and found.likelihood.nats == pytest.approx(nats, rel=1e-5)
    assert found.num_right == right
    same = likelihood(net, (batch for _, batch in masked_batches()))
    assert same.nats == pytest.approx(nats, rel=1e-5) and same.num_tokens == 5


class First(nn.Module):
    """A classifier that takes the first token for the class."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, labels, attention_mask=None):
        logits = 3 * F.one_hot(input_ids[:, 0], 4).float()
        return SimpleNamespace(logits=logits, loss=F.cross_entropy(logits, labels))


def told(*rows):
    """A batch of (true, guessed) classes."""
    true, guessed = zip(*rows, strict=True)
    return {"input_ids": torch.tensor(guessed)[:, None], "labels": torch.tensor(true)}


def test_classes_by_hand():
    """Of class 0 one of two is found; of 1 both, and once it is guessed wrongly; 2 is missed, and 3 is nowhere."""
    batches = [([3, 0], told((2, 0), (0, 0))), ([1, 2, 4], told((0, 1), (1, 1), (1, 1)))]
    found = classified(First().train(), batches)
    assert (found.true, found.guessed) == ([0, 0, 1, 2, 1], [0, 1, 1, 0, 1])
    assert found.accuracy == pytest.approx(60)
    assert found.f1 == pytest.approx(100 * (2 / (2 + 1 + 1) + 4 / (4 + 1 + 0) + 0) / 3)
    total = math.log(math.exp(3) + 3)
    assert found.likelihood.num_tokens == 5
    assert found.likelihood.nats == pytest.approx(3 * (total - 3) + 2 * total, rel=1e-5)


def test_all_right_and_all_wrong():
    assert Classified(Likelihood(0.0, 2), [0, 1], [0, 1]).f1 == Classified(Likelihood(0.0, 2), [0, 1], [0, 1]).accuracy
    assert Classified(Likelihood(0.0, 2), [0, 1], [1, 0]).f1 == 0


def test_a_classifier_is_left_as_it_was():
    net = build(BareForSequenceClassification, num_labels=3).train()
    batch = {"input_ids": tokens(), "attention_mask": right_padded(8, 8, 5, 2), "labels": torch.tensor([0, 2, 1])}
    found = classified(net, [([0, 1, 2], batch)])
    assert net.training and len(found.guessed) == 3 and set(found.guessed) <= {0, 1, 2}
    net.eval()
    assert found.likelihood.loss == pytest.approx(net(**batch).loss.item(), rel=1e-6)
    assert likelihood(net, [batch]).nats == pytest.approx(found.likelihood.nats, rel=1e-6)
