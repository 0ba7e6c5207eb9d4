"""Budgets, checkpoints and what else a fair training promises."""

import math
import time

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from bareformers.errors import Diverged, InputError
from bareformers.measure.environment import bf16_pays
from bareformers.training.objectives import CrossEntropy
from bareformers.training.schedules import factor
from bareformers.training.trainer import Watch
from tests.training import tiny
from tests.training.tiny import Fall


def weights(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(first, second):
    assert set(first) == set(second)
    return all(torch.equal(first[name], second[name]) for name in first)


# Budgets


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps(text, tmp_path, accumulate):
    trainer = tiny.trainer(text, tmp_path, budget={"steps": 7}, accumulate=accumulate)
    trainer.fit()
    spent = trainer.ledger.spent
    batches = list(trainer.plan)
    assert len(batches) == 7 * accumulate and spent.steps == 7
    assert spent.tokens == trainer.plan.tokens == sum(int(text.train.label_tokens[batch].sum()) for batch in batches)


@pytest.mark.parametrize("task", ["text", "pairs"])
def test_tokens(request, tmp_path, task):
    data = request.getfixturevalue(task)
    trainer = tiny.trainer(data, tmp_path, budget={"tokens": 2000})
    trainer.fit()
    last = int(data.train.label_tokens[list(trainer.plan)[-1]].sum())
    assert 2000 <= trainer.ledger.spent.tokens < 2000 + last


def test_epochs(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, budget={"epochs": 0.1})
    trainer.fit()
    tenth = 0.1 * int(text.train.label_tokens.sum())
    assert tenth <= trainer.ledger.spent.tokens < tenth + 256


def test_minutes(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, budget={"minutes": 0.02})
    trainer.fit()
    spent = trainer.ledger.spent
    assert 1.2 <= spent.seconds < 4 and spent.steps > 5
    rows = tiny.metrics(tmp_path)
    assert sum("validation_loss" in row for row in rows) == 2
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert max(rates) == pytest.approx(1e-3) and rates[-1] < 2e-4, "the schedule ends with the clock"


def test_the_clock_leaves_validation_out(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, validate=lambda net: time.sleep(0.3) or 1.0, budget={"steps": 4})
    start = time.perf_counter()
    trainer.fit()
    assert time.perf_counter() - start - trainer.ledger.spent.seconds >= 0.6


# What is recorded


def test_rows(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, schedule="cosine", learning_rate=0.01, evaluations=3)
    trainer.fit()
    rows = tiny.metrics(tmp_path)
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, 13))
    rates = [0.01 * factor("cosine", step, step / 12, 4, 0.35) for step in range(12)]
    assert [row["learning_rate"] for row in trained] == pytest.approx(rates)
    assert [row["step"] for row in rows if "validation_loss" in row] == [4, 8, 12]
    assert trained[0]["loss"] == pytest.approx(math.log(300), rel=0.2) and trained[-1]["loss"] < trained[0]["loss"]
    assert rows[-1]["validation_loss"] == tiny.validation_loss(trainer.model, text)
    assert trained[-1]["tokens"] == trainer.ledger.spent.tokens


def test_smoothing_is_in_the_training_loss_alone(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, label_smoothing=0.5, learning_rate=1e-9)
    net = tiny.model(text)
    with torch.no_grad():
        for weight in (trainer.model.lm_head.weight, net.lm_head.weight):
            weight.mul_(5)
    batch = text.collate([text.train[index] for index in next(iter(trainer.plan))])
    plain, smoothed = (CrossEntropy(amount)(net, batch).item() for amount in (0.0, 0.5))
    trainer.fit()
    first, *_, last = tiny.metrics(tmp_path)
    assert first["loss"] == pytest.approx(smoothed, rel=1e-6) and first["loss"] != pytest.approx(plain, rel=1e-5)
    assert last["validation_loss"] == pytest.approx(tiny.validation_loss(net, text), rel=1e-6)


def test_every_variant_sees_the_same_batches(text, tmp_path):
    seen = {}
    for mixer in ("dot_product", "average"):
        batches = seen.setdefault(mixer, [])

        def collate(examples, batches=batches):
            batches.append(text.collate(examples))
            return batches[-1]

        tiny.trainer(text, tmp_path / mixer, mixer, collate=collate, validate=lambda net: 1.0).fit()
    ours, theirs = ([batch["input_ids"] for batch in batches] for batches in seen.values())
    assert len(ours) >= 12 and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_another_seed_sees_other_batches(text, tmp_path):
    plans = [list(tiny.trainer(text, tmp_path / str(seed), seed=seed).plan) for seed in (0, 1)]
    assert plans[0] != plans[1]


# Checkpoints


def run_and_fall(data, folder, step, **settings):
    with pytest.raises(Fall.Killed):
        tiny.trainer(data, folder, callbacks=[Fall(step)], **settings).fit()


def test_what_was_killed_ends_with_the_same_numbers(text, tmp_path, monkeypatch):
    """The checkpoint at step 8 falls between two rows of the metrics; dropout shows that its random state is kept."""
    monkeypatch.setattr(Watch, "LOGS", 10)
    settings = dict(budget={"steps": 30}, checkpoints=4, config={"dropout": 0.1}, validate=lambda net: 1.0)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    uninterrupted = tiny.trainer(text, whole, **settings)
    uninterrupted.fit()
    run_and_fall(text, resumed, 10, **settings)
    assert [row["step"] for row in tiny.metrics(resumed)][-1] < 30
    trainer = tiny.trainer(text, resumed, **settings)
    trainer.fit()
    assert same(weights(trainer.model), weights(uninterrupted.model))
    assert trainer.ledger.spent.tokens == uninterrupted.ledger.spent.tokens
    assert tiny.metrics(resumed) == tiny.metrics(whole)


def test_half_a_checkpoint_is_thrown_away(text, tmp_path):
    settings = dict(checkpoints=4, validate=lambda net: 1.0)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    uninterrupted = tiny.trainer(text, whole, **settings)
    uninterrupted.fit()
    run_and_fall(text, resumed, 8, **settings)
    half = resumed / "checkpoints" / "checkpoint-9"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"\0" * 100)
    trainer = tiny.trainer(text, resumed, **settings)
    assert trainer._last_whole_checkpoint().endswith("checkpoint-6") and not half.exists()
    trainer.fit()
    assert same(weights(trainer.model), weights(uninterrupted.model))


def test_without_a_whole_checkpoint_it_begins_again(text, tmp_path):
    run_and_fall(text, tmp_path, 3, checkpoints=2)
    (tmp_path / "checkpoints" / "checkpoint-6").mkdir(parents=True)
    trainer = tiny.trainer(text, tmp_path, checkpoints=2)
    trainer.fit()
    assert [row["step"] for row in tiny.metrics(tmp_path) if "loss" in row] == list(range(1, 13))


def test_what_is_finished_trains_no_step(text, tmp_path):
    first = tiny.trainer(text, tmp_path, average_checkpoints=2)
    first.fit()
    rows = tiny.metrics(tmp_path)
    again = tiny.trainer(text, tmp_path, average_checkpoints=2, callbacks=[Fall(12)])
    again.fit()
    assert same(weights(again.model), weights(first.model)) and tiny.metrics(tmp_path) == rows


def test_a_row_that_a_kill_cut_is_forgotten(text, tmp_path):
    run_and_fall(text, tmp_path, 8)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    tiny.trainer(text, tmp_path).fit()
    assert [row["step"] for row in tiny.metrics(tmp_path) if "loss" in row] == list(range(1, 13))


def test_the_last_checkpoints_are_averaged(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, checkpoints=4, average_checkpoints=3, learning_rate=0.03)
    trainer.fit()
    files = [load_file(path) for path in (tmp_path / "checkpoints").glob("checkpoint-*/model.safetensors")]
    assert len(files) == 3
    averaged = trainer.model.state_dict()
    for name in files[0]:
        mean = torch.stack([file[name].double() for file in files]).mean(0).float()
        torch.testing.assert_close(averaged[name], mean, rtol=0, atol=1e-6)
    assert not same({name: averaged[name] for name in files[0]}, files[-1])
    assert averaged["lm_head.weight"] is not None
    assert torch.equal(averaged["lm_head.weight"], averaged["decoder.embeddings.tokens.weight"])


def test_early_stopping_comes_back_to_the_best(text, tmp_path):
    losses, states = [3.0, 2.0, 1.0, 1.5, 1.2, 0.5], []

    def validate(net):
        states.append(weights(net))
        return losses[len(states) - 1]

    trainer = tiny.trainer(
        text, tmp_path, validate=validate, early_stopping=2, evaluations=10, budget={"steps": 20}, learning_rate=0.03
    )
    trainer.fit()
    assert len(states) == 5 and trainer.ledger.spent.steps == 10
    assert same(weights(trainer.model), states[2]) and not same(states[2], states[4])
    assert [row["validation_loss"] for row in tiny.metrics(tmp_path) if "validation_loss" in row] == losses[:5]


# Settings


class Given(Sampler):
    """Batches that a test has chosen."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


@pytest.mark.parametrize("task", ["text", "pairs"])
def test_two_halves_make_a_step(request, tmp_path, task):
    """Accumulated batches of unequal numbers of tokens give the loss of both at once."""
    data = request.getfixturevalue(task)
    settings = dict(budget={"steps": 6}, validate=lambda net: 1.0)
    halves = tiny.trainer(data, tmp_path / "halves", accumulate=2, **settings)
    batches = [batch[: 1 + len(batch) * (index % 3) // 2] for index, batch in enumerate(halves.plan)]
    halves.plan = Given(batches)
    whole = tiny.trainer(data, tmp_path / "whole", **settings)
    whole.plan = Given([one + other for one, other in zip(batches[::2], batches[1::2], strict=True)])
    found = []
    for trainer in (halves, whole):
        trainer.fit()
        found.append([row["loss"] for row in tiny.metrics(trainer.checkpoints.parent) if "loss" in row])
    assert len(found[0]) == 6 and found[0] == pytest.approx(found[1], rel=1e-4)
    assert halves.ledger.spent.tokens == whole.ledger.spent.tokens


def test_a_loss_that_is_no_number_ends_training(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(Diverged, match="tiny: the loss is nan at step 1; .* comes from decoder.embeddings.tokens$"):
        trainer.fit()


@pytest.mark.parametrize("task", ["text", "pairs"])
def test_gradient_checkpointing_changes_no_number(request, tmp_path, task):
    data, found = request.getfixturevalue(task), []
    for wanted in (False, True):
        trainer = tiny.trainer(
            data,
            tmp_path / str(wanted),
            config={"dropout": 0.1, "num_hidden_layers": 2},
            gradient_checkpointing=wanted,
            budget={"steps": 3},
        )
        assert trainer.model.is_gradient_checkpointing is wanted
        trainer.fit()
        found.append([row["loss"] for row in tiny.metrics(tmp_path / str(wanted)) if "loss" in row])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_precision(text, tmp_path, precision):
    """Whatever an earlier training in this process used."""
    trainer = tiny.trainer(text, tmp_path, precision=precision, budget={"steps": 2}, validate=lambda net: 1.0)
    dtypes = set()
    trainer.model.lm_head.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    trainer.fit()
    wanted = precision == "bf16" or precision == "auto" and bf16_pays(trainer.model.device)
    assert dtypes == {torch.bfloat16 if wanted else torch.float32}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_weight_decay_spares_norms_and_biases(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, weight_decay=0.1)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    decayed, spared = (
        {names[parameter] for group in trainer.create_optimizer().param_groups for parameter in group["params"]
         if bool(group["weight_decay"]) is wanted}
        for wanted in (True, False)
    )  # fmt: skip
    assert decayed and spared and not decayed & spared
    assert all(name.endswith("bias") or "norm" in name for name in spared)
    assert not any(name.endswith("bias") or "norm" in name for name in decayed)


class Tracker(TrainerCallback):
    seen: list[str] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.extend(logs)


def test_a_tracker_is_told(text, tmp_path, monkeypatch):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "made_up", Tracker)
    monkeypatch.setattr(Tracker, "seen", [])
    tiny.trainer(text, tmp_path, report_to=["made_up"]).fit()
    assert {"loss", "learning_rate", "eval_loss"} <= set(Tracker.seen)


def test_an_unknown_tracker_is_an_error(text, tmp_path):
    with pytest.raises(InputError, match="tensorbord") as raised:
        tiny.trainer(text, tmp_path, report_to=["tensorbord"])
    assert str(raised.value).startswith("training.report_to: ")
    assert "\n" not in str(raised.value)
