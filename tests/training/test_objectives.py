"""The loss that is minimised, against the same written out."""

import pytest
import torch
import torch.nn.functional as F
import transformers as hf

from bareformers.training.objectives import CrossEntropy, Imitation, OpenImitation
from tests.training import tiny


def batch_of(data, count=5):
    return data.collate([data.validation[index] for index in range(count)])


def expected(net, batch, smoothing, reduction="mean"):
    logits, labels = net(**batch).logits, batch["labels"]
    if not net.config.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction=reduction)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", ["text", "pairs"])
def test_cross_entropy(task, smoothing, request):
    data = request.getfixturevalue(task)
    net, batch = tiny.model(data), batch_of(data)
    loss = CrossEntropy(smoothing)(net, batch)
    torch.testing.assert_close(loss, expected(net, batch, smoothing))
    summed = expected(net, batch, smoothing, "sum")
    torch.testing.assert_close(CrossEntropy(smoothing)(net, batch, num_labels=torch.tensor(200)), summed / 200)


@pytest.mark.parametrize("num_labels", [None, torch.tensor(200)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", ["text", "pairs"])
def test_open_imitation(task, smoothing, num_labels, request):
    """Of models of ours it is what the other one is, which they help."""
    data = request.getfixturevalue(task)
    net, teacher, batch = tiny.model(data), tiny.model(data, "gaussian"), batch_of(data)
    causal = not net.config.is_encoder_decoder
    for share in (0.0, 0.4, 1.0):
        told = (teacher, causal, share, 2.0, smoothing)
        one, other = (cls(*told)(net, batch, num_labels) for cls in (Imitation, OpenImitation))
        torch.testing.assert_close(one, other)
    alone = OpenImitation(lambda **given: pytest.fail("the teacher was asked"), causal, 0.0, 1.0, smoothing)
    torch.testing.assert_close(alone(net, batch, num_labels), CrossEntropy(smoothing)(net, batch, num_labels))


def test_open_imitation_of_classes():
    """Labels of whole rows, of a model of `transformers`."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    net, teacher = (hf.BertForSequenceClassification(hf.BertConfig(**sizes, num_labels=3)).eval() for _ in range(2))
    batch = {"input_ids": torch.randint(30, (4, 5)), "labels": torch.tensor([0, 2, 1, 1])}
    found = OpenImitation(teacher, False, 0.25, 2.0, 0.0)(net, batch)
    mine, theirs = (model(batch["input_ids"]).logits for model in (net, teacher))
    taught = (theirs / 2).softmax(-1)
    divergence = (taught * (taught.log() - (mine / 2).log_softmax(-1))).sum(-1).mean() * 4
    torch.testing.assert_close(found, 0.75 * F.cross_entropy(mine, batch["labels"]) + 0.25 * divergence)
