"""Training with masks that change: the same ones for every variant, and for a run that was killed."""

import pytest
import torch

from bareformers.training.trainer import Watch
from tests.training import tiny
from tests.training.test_trainer import run_and_fall, same, weights


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return tiny.masked_data(tmp_path_factory.mktemp("cache"))


def seen(data, folder, mixer="dot_product", **settings):
    """The batches of a training, in order."""
    batches = []

    def collate(examples):
        batches.append(data.collate(examples))
        return batches[-1]

    tiny.trainer(data, folder, mixer, collate=collate, validate=lambda net: 1.0, **settings).fit()
    return batches


def test_every_variant_sees_the_same_masks(masked, tmp_path):
    ours, theirs = (seen(masked, tmp_path / mixer, mixer) for mixer in ("dot_product", "average"))
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("input_ids", "labels"))


def test_another_epoch_and_another_seed_have_other_masks(masked, tmp_path):
    """By the text below the masks, rows of two epochs, and of two seeds, are brought together."""

    def by_text(batches):
        found = {}
        for batch in batches:
            hidden = batch["labels"] != -100
            whole = torch.where(hidden, batch["labels"], batch["input_ids"])
            for text, asked in zip(whole.tolist(), hidden.tolist(), strict=True):
                found.setdefault(tuple(text), []).append(tuple(asked))
        return found

    ours, theirs = (by_text(seen(masked, tmp_path / str(seed), seed=seed, budget={"epochs": 2})) for seed in (0, 1))
    assert len(ours) == len(masked.train)
    for text, masks in ours.items():
        assert len(masks) >= 2 and masks[0] != masks[1] and masks[0] != theirs[text][0]


def test_what_was_killed_ends_with_the_same_numbers(masked, tmp_path, monkeypatch):
    """Thirty steps are several epochs, and the checkpoint does not stand between two of them."""
    monkeypatch.setattr(Watch, "LOGS", 10)
    settings = dict(budget={"steps": 30}, checkpoints=4, config={"dropout": 0.1})
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    uninterrupted = tiny.trainer(masked, whole, **settings)
    assert uninterrupted.plan.epochs > 2
    uninterrupted.fit()
    run_and_fall(masked, resumed, 17, **settings)
    trainer = tiny.trainer(masked, resumed, **settings)
    trainer.fit()
    assert same(weights(trainer.model), weights(uninterrupted.model))
    assert tiny.metrics(resumed) == tiny.metrics(whole)


def test_a_budget_counts_masked_tokens(masked, tmp_path):
    trainer = tiny.trainer(masked, tmp_path, budget={"tokens": 300})
    trainer.fit()
    assert 300 <= trainer.ledger.spent.tokens == trainer.plan.tokens < 300 + 64


@pytest.mark.parametrize("accumulate", [1, 2])
def test_labelled_texts_count_one_each(tmp_path, accumulate):
    data = tiny.labelled_data(tmp_path / "cache")
    trainer = tiny.trainer(data, tmp_path / "run", budget={"epochs": 1}, accumulate=accumulate, label_smoothing=0.1)
    trainer.fit()
    assert trainer.ledger.spent.tokens == len(data.train) == 200
    losses = [row["loss"] for row in tiny.metrics(tmp_path / "run") if "loss" in row]
    assert losses[0] == pytest.approx(1.4, abs=0.6), "three classes, of which a fresh head prefers one"
