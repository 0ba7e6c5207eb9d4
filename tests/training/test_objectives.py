"""The loss that is minimised, against the same written out."""

import pytest
import torch
import torch.nn.functional as F

from bareformers.training.objectives import CrossEntropy
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
