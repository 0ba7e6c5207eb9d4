"""What a kill and Ctrl-C leave behind, and that the same command ends with the same numbers."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from bareformers import run as running
from bareformers.errors import Interrupted
from bareformers.recipe import load
from bareformers.training.trainer import is_whole
from tests.training import tiny

RUN = Path("dot_product", "seed0")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """One variant, and enough steps to be in time for stopping it."""
    return tiny.language_modelling(tmp_path_factory.mktemp("recipe"), "dot_product")


def overrides(folder):
    return [
        "training.budget.steps=150",
        "training.checkpoints=10",
        "training.evaluations=4",
        "model.dropout=0.1",
        f"output={folder}",
    ]


def finish(recipe, folder):
    """The same command, to its end, in this process."""
    running.run(load(recipe, overrides(folder)), "bareformers run", log=lambda sentence: None)
    return load_file(folder / RUN / "model" / "model.safetensors"), tiny.metrics(folder / RUN)


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    return finish(recipe, tmp_path_factory.mktemp("uninterrupted") / "run")


def checkpoints(folder):
    """Those that are whole."""
    return [path for path in (folder / RUN).glob("checkpoints/checkpoint-*") if is_whole(path)]


def stopped(recipe, folder, number):
    """Start the command in a process of its own, and send it a signal when its first checkpoint is whole."""
    words = ["run", str(recipe), *overrides(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bareformers", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 120
        while process.poll() is None and not checkpoints(folder):
            assert time.monotonic() < end, "no checkpoint in two minutes"
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return words, process.returncode, out, err


def same(first, second):
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_kill_and_run_again(recipe, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    _, code, _, _ = stopped(recipe, folder, signal.SIGKILL)
    assert code == -signal.SIGKILL and not (folder / RUN / "result.json").exists()
    weights, rows = finish(recipe, folder)
    assert same(weights, uninterrupted[0])
    assert rows == uninterrupted[1]
    assert not (folder / RUN / "checkpoints").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(recipe, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    words, code, out, err = stopped(recipe, folder, signal.SIGINT)
    assert code == 2 and "Traceback" not in err + out
    said = [line for line in err.splitlines() if line.startswith("bareformers: ")]
    assert len(said) == 1 and err.splitlines()[-1] == said[0]
    assert re.search(r"stopped at \d+% of the budget of dot_product seed 0, with a checkpoint", said[0])
    assert shlex.split(said[0].partition("resume with: ")[2]) == ["bareformers", *words]
    assert checkpoints(folder)
    weights, rows = finish(recipe, folder)
    assert same(weights, uninterrupted[0])
    validated = [[row for row in each if "validation_loss" in row] for each in (rows, uninterrupted[1])]
    assert validated[0] == validated[1] and len(validated[0]) == 4


class Press(TrainerCallback):
    """Ctrl-C after a step."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def test_the_step_at_hand_is_finished(text, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    trainer = tiny.trainer(text, tmp_path, callbacks=[Press(4)])
    with pytest.raises(Interrupted, match="stopped at 42% of the budget of tiny, with a checkpoint"):
        trainer.fit()
    assert trainer.ledger.spent.steps == 5 and is_whole(trainer.checkpoints / "checkpoint-5")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait(text, tmp_path):
    trainer = tiny.trainer(text, tmp_path, callbacks=[Press(4, times=2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.ledger.spent.steps == 4


def test_at_the_last_step_nothing_is_left_to_train(text, tmp_path):
    with pytest.raises(Interrupted, match="stopped at 100% of the budget"):
        tiny.trainer(text, tmp_path, callbacks=[Press(11)]).fit()
    rows = tiny.metrics(tmp_path)
    tiny.trainer(text, tmp_path, callbacks=[Press(12)]).fit()
    assert tiny.metrics(tmp_path) == rows and rows[-1]["step"] == 12


def test_the_checkpoint_of_ctrl_c_is_not_averaged(text, tmp_path):
    """The mean is over the marks of the budget, wherever a run was stopped."""
    settings = dict(budget={"steps": 20}, checkpoints=5, average_checkpoints=3, learning_rate=0.03)
    whole = tiny.trainer(text, tmp_path / "whole", **settings)
    whole.fit()
    with pytest.raises(Interrupted):
        tiny.trainer(text, tmp_path / "stopped", callbacks=[Press(17)], **settings).fit()
    resumed = tiny.trainer(text, tmp_path / "stopped", **settings)
    resumed.fit()
    assert same(resumed.model.state_dict(), whole.model.state_dict())
