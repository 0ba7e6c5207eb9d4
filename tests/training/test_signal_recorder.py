"""The signal of a run: when it is measured, that it changes nothing, and what a kill leaves."""

import json
import time

import pytest
import torch

from bareformers.measure.signal import signal
from bareformers.training.signal_recorder import SignalRecorder, fixed_batch, unwrapped
from tests.training import tiny
from tests.training.tiny import Fall


def recorded(data, folder, **settings):
    trainer = tiny.trainer(data, folder, **settings)
    trainer.add_callback(SignalRecorder(trainer, batch_of(data), folder))
    return trainer


def batch_of(data):
    return fixed_batch(data.validation, data.collate)


def rows(folder):
    return [json.loads(line) for line in (folder / "signal.jsonl").read_text(encoding="utf-8").splitlines()]


def layers_of(net, data):
    return [layer.row() for layer in signal(net, batch_of(data))]


@pytest.mark.parametrize("task", ["text", "pairs"])
def test_at_the_start_and_at_every_evaluation(request, tmp_path, task):
    data = request.getfixturevalue(task)
    trainer = recorded(data, tmp_path, evaluations=3)
    trainer.fit()
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [0, 4, 8, 12]
    assert [row["tokens"] for row in found][0] == 0 and found[-1]["tokens"] == trainer.ledger.spent.tokens
    stacks = [""] if task == "text" else ["encoder", "decoder"]
    for row in found:
        assert [(layer["stack"], layer["layer"]) for layer in row["layers"]] == [
            (stack, layer) for stack in stacks for layer in (0, 1)
        ]
        assert all(layer["gradient_norm"] > 0 and layer["rms"] > 0 for layer in row["layers"])
    assert found[0]["layers"] == layers_of(tiny.model(data).to(trainer.model.device), data)
    assert found[-1]["layers"] == layers_of(trainer.model, data) != found[0]["layers"]


def test_training_is_what_it_would_be_without(text, tmp_path):
    settings = dict(config={"dropout": 0.1}, evaluations=3)
    plain = tiny.trainer(text, tmp_path / "plain", **settings)
    plain.fit()
    watched = recorded(text, tmp_path / "watched", **settings)
    watched.fit()
    ours, theirs = watched.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert tiny.metrics(tmp_path / "watched") == tiny.metrics(tmp_path / "plain")


def test_a_resumed_run_has_every_row_once(text, tmp_path):
    settings = dict(budget={"steps": 30}, checkpoints=3, evaluations=6, config={"dropout": 0.1})
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    recorded(text, whole, **settings).fit()
    with pytest.raises(Fall.Killed):
        recorded(text, resumed, callbacks=[Fall(17)], **settings).fit()
    assert [row["step"] for row in rows(resumed)] == [0, 5, 10, 15], "the last checkpoint is at step 10"
    with (resumed / "signal.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 17, "tokens": 1, "lay')
    recorded(text, resumed, **settings).fit()
    assert rows(resumed) == rows(whole) and [row["step"] for row in rows(whole)] == list(range(0, 31, 5))


def test_without_a_checkpoint_it_begins_again(text, tmp_path):
    settings = dict(checkpoints=1, evaluations=6)
    with pytest.raises(Fall.Killed):
        recorded(text, tmp_path, callbacks=[Fall(7)], **settings).fit()
    recorded(text, tmp_path, **settings).fit()
    assert [row["step"] for row in rows(tmp_path)] == list(range(0, 13, 2))


def test_what_is_finished_is_not_measured_again(text, tmp_path):
    recorded(text, tmp_path).fit()
    before = rows(tmp_path)
    recorded(text, tmp_path).fit()
    assert rows(tmp_path) == before


def test_mixed_precision_hides_no_gradient(text, tmp_path):
    """And what is measured is the model as it is saved."""
    settings = dict(budget={"steps": 2}, evaluations=1)
    found = {}
    for precision in ("bf16", "fp32"):
        trainer = recorded(text, tmp_path / precision, precision=precision, config={"block": "sas"}, **settings)
        trainer.fit()
        found[precision] = rows(tmp_path / precision)
        with unwrapped(trainer.model):
            assert found[precision][-1]["layers"] == layers_of(trainer.model, text)
    assert found["bf16"][0] == found["fp32"][0] and found["bf16"][1] != found["fp32"][1]
    assert all(layer["gradient_norm"] > 0 for row in found["bf16"] for layer in row["layers"])


def test_the_clock_leaves_it_out(text, tmp_path, monkeypatch):
    def slow(model, batch):
        time.sleep(0.3)
        return []

    monkeypatch.setattr("bareformers.training.signal_recorder.signal", slow)
    trainer = recorded(text, tmp_path, validate=lambda net: 1.0, budget={"steps": 4})
    start = time.perf_counter()
    trainer.fit()
    measured = len(rows(tmp_path))
    assert measured == 3 and time.perf_counter() - start - trainer.ledger.spent.seconds >= 0.3 * measured


def test_the_batch_is_small_and_always_the_same(text, pairs):
    assert fixed_batch(text.validation, text.collate, 20)["input_ids"].shape == (1, 20)
    assert fixed_batch(text.validation, text.collate, 100)["input_ids"].shape == (3, tiny.MAX_LENGTH)
    for data in (text, pairs):
        one, two = batch_of(data), batch_of(data)
        assert one["input_ids"].numel() <= 1024 and one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    everything = fixed_batch(pairs.validation, pairs.collate, 10**9)
    assert len(everything["input_ids"]) == len(pairs.validation)
