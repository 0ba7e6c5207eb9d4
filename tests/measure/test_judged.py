"""Matthews' correlation of classes, and correlations of scores, against their definitions."""

import numpy as np
import pytest
import torch

from bareformers.measure.quality import Classified, Judged, Likelihood, Regressed, judged
from bareformers.models import BareForSequenceClassification
from tests.models.sizes import build, right_padded, tokens
from tests.reference import scores


@pytest.fixture
def drawn():
    """Scores that go along, with some that are equal."""
    random = np.random.default_rng(0)
    true = random.integers(0, 6, 40).astype(float)
    return true.tolist(), (true + random.normal(0, 2, 40)).round(1).tolist()


def test_correlations(drawn):
    found = Regressed(0.0, *drawn)
    assert found.pearson == pytest.approx(100 * scores.pearson(*drawn))
    assert found.spearman == pytest.approx(100 * scores.spearman(*drawn))
    assert found.constant == ""


def test_what_is_constant_has_no_correlation(drawn):
    same = [2.5] * len(drawn[0])
    told, true = Regressed(0.0, drawn[0], same), Regressed(0.0, same, drawn[0])
    assert told.pearson == told.spearman == true.pearson == true.spearman == 0
    assert (told.constant, true.constant) == ("what is told", "what is true")


def test_matthews():
    random = np.random.default_rng(0)
    true = random.integers(0, 2, 60)
    guessed = np.where(random.random(60) < 0.3, 1 - true, true)
    pairs = (true.tolist(), guessed.tolist())
    assert Classified(Likelihood(0, 60), *pairs).matthews == pytest.approx(100 * scores.matthews(*pairs))
    assert Classified(Likelihood(0, 60), pairs[0], [1] * 60).matthews == 0 == scores.matthews(pairs[0], [1] * 60)


def test_what_is_told_stands_in_the_order_of_the_inputs():
    net = build(BareForSequenceClassification, num_labels=1, score_mean=3.0, score_std=2.0)
    mask = right_padded(8, 8, 5)
    batches = [
        ([2, 0], {"input_ids": tokens(2, 8) * mask, "attention_mask": mask, "labels": torch.tensor([1.0, 4.0])}),
        ([1], {"input_ids": tokens(1, 6, seed=2), "labels": torch.tensor([2.0])}),
    ]
    found = judged(net, batches).regressed()
    assert found.true == [4.0, 2.0, 1.0]
    with torch.no_grad():
        alone = [float(net(**{**batch, "labels": None}).logits[row]) for batch, row in
                 ((batches[0][1], 1), (batches[1][1], 0), (batches[0][1], 0))]  # fmt: skip
    assert found.told == pytest.approx(alone, rel=1e-5)
    errors = [((told - true) / 2.0) ** 2 for told, true in zip(found.told, found.true, strict=True)]
    assert found.loss == pytest.approx(sum(errors) / 3, rel=1e-5)


def test_a_part_of_what_is_told():
    whole = Judged(1.0, torch.tensor([0.0, 2.5, 1.0]), torch.tensor([[1.0, 2, 9], [3, 4, 8], [6, 5, 7]]))
    assert whole.of(torch.tensor([0, 2]), slice(0, 2)).classified().guessed == [1, 0]
    assert whole.of(torch.tensor([1]), slice(2, 3)).regressed().told == [8.0]
