"""Scores on the scale of the data, and a classifier whose outputs are divided among several tasks."""

import pytest
import torch

from bareformers.errors import InputError
from bareformers.models import BareConfig, BareForSequenceClassification
from tests.models.sizes import build, small, tokens
from tests.reference import scores

TASKS = [
    {"name": "trec", "labels": ["place", "number", "person"]},
    {"name": "stsb", "score_mean": 2.7, "score_std": 1.5},
    {"name": "cola", "labels": ["wrong", "right"]},
]
LABELS, MEMBERS = torch.tensor([1.0, 3.5, 2.0, 0.0, 4.0]), torch.tensor([0, 1, 0, 2, 1])


@pytest.fixture
def several():
    config = small()
    config.give_members(TASKS)
    torch.manual_seed(0)
    return BareForSequenceClassification(config).eval()


def test_scores_are_those_of_the_data():
    net, plain = (build(BareForSequenceClassification, num_labels=1, **given) for given in (
        {"score_mean": 3.0, "score_std": 2.0}, {}
    ))  # fmt: skip
    logits, raw = net(tokens()).logits, plain(tokens()).logits
    torch.testing.assert_close(logits, 2 * raw + 3)
    labels = torch.tensor([0.5, 1.0, 5.0])
    torch.testing.assert_close(net(tokens(), labels=labels).loss, ((raw[:, 0] - (labels - 3) / 2) ** 2).mean())
    with pytest.raises(InputError, match="score_std is above 0, not 0"):
        small(score_std=0)


def test_each_has_outputs_of_its_own(several):
    config = several.config
    assert config.outputs_of == {"trec": slice(0, 3), "stsb": slice(3, 4), "cola": slice(4, 6)}
    assert list(config.id2label.values()) == [
        "trec/place", "trec/number", "trec/person", "stsb/score", "cola/wrong", "cola/right"
    ]  # fmt: skip
    assert config.label2id["stsb/score"] == 3 and several.classifier.out_features == config.num_labels == 6


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4], [1, 4], [0, 2]])
def test_a_row_counts_for_its_own_task_alone(several, chosen):
    ids, labels, members = tokens(5)[chosen], LABELS[chosen], MEMBERS[chosen]
    loss = several(ids, labels=labels, members=members).loss
    outputs = several.classifier(several.pool(several.stack(ids).last_hidden_state, None))
    expected = scores.summed_losses(outputs.tolist(), labels.tolist(), members.tolist(), TASKS)
    assert loss.item() == pytest.approx(expected / len(chosen), rel=1e-5)
    twice = several(ids, labels=labels, members=members, num_items_in_batch=2 * len(chosen)).loss
    torch.testing.assert_close(twice, loss / 2)
    loss.backward()
    learns = several.classifier.weight.grad.abs().sum(1) > 0
    own = {place for member in members.tolist() for place in range(6)[several.config.outputs_of[TASKS[member]["name"]]]}
    assert set(learns.nonzero().flatten().tolist()) == own
    shown = several(ids).logits
    torch.testing.assert_close(shown[:, 3], 1.5 * outputs[:, 3] + 2.7)
    torch.testing.assert_close(shown[:, [0, 1, 2, 4, 5]], outputs[:, [0, 1, 2, 4, 5]])


def test_the_loss_needs_to_know_whose_a_row_is(several):
    with pytest.raises(InputError, match=r"the loss of several tasks needs members \[batch\]"):
        several(tokens(5), labels=LABELS)


def test_a_saved_model_knows_its_tasks(several, tmp_path):
    several.save_pretrained(tmp_path)
    again = BareForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.members == TASKS and again.config.outputs_of == several.config.outputs_of
    assert torch.equal(again(tokens()).logits, several(tokens()).logits)


def test_one_task_alone(several, tmp_path):
    ids = tokens()
    for task in TASKS:
        alone = several.for_member(task["name"])
        whole = several(ids).logits[:, several.config.outputs_of[task["name"]]]
        torch.testing.assert_close(alone(ids).logits, whole)
        assert alone.config.members is None and several.config.members == TASKS and not alone.training
        alone.save_pretrained(tmp_path / task["name"])
        config = BareConfig.from_pretrained(tmp_path / task["name"])
        assert list(config.id2label.values()) == task.get("labels", ["score"])
    assert (config.problem_type, BareConfig.from_pretrained(tmp_path / "stsb").problem_type) == (None, "regression")
    with pytest.raises(InputError, match="unknown member 'rte'"):
        several.for_member("rte")
