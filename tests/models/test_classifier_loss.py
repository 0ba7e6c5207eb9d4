"""The loss of a classifier as the trainer asks for it: smoothed, and over the texts of several batches."""

import pytest
import torch
import torch.nn.functional as F

from bareformers.models import BareForMaskedLM, BareForSequenceClassification
from bareformers.training.objectives import CrossEntropy
from tests.models.sizes import build, tokens

LABELS = torch.tensor([0, 2, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_classes(smoothing):
    net = build(BareForSequenceClassification, num_labels=3)
    batch = {"input_ids": tokens(), "labels": LABELS}
    logits = net(**batch).logits
    expected = F.cross_entropy(logits, LABELS, label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(smoothing)(net, batch), expected)
    over_twelve = CrossEntropy(smoothing)(net, batch, num_labels=torch.tensor(12))
    torch.testing.assert_close(over_twelve, expected / 4)


def test_regression_over_the_texts_of_several_batches():
    net = build(BareForSequenceClassification, num_labels=1)
    values = torch.tensor([0.5, 1.0, 2.0])
    whole = net(tokens(), labels=values).loss
    torch.testing.assert_close(net(tokens(), labels=values, num_items_in_batch=6).loss, whole / 2)


@pytest.mark.parametrize("act", ["gelu", "geglu"])
def test_a_masked_model_takes_any_activation(act):
    net = build(BareForMaskedLM, hidden_act=act)
    assert net(tokens()).logits.shape == (3, 8, 23)
