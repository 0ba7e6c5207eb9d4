"""What a trainer knows of blocks: which parameters decay, and where a run stopped giving numbers."""

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from bareformers.errors import Diverged
from bareformers.training.trainer import Watch, is_whole
from tests.laws.cases import each_layout
from tests.training import tiny


@each_layout
def test_weight_decay_spares_gains_norms_and_biases(text, tmp_path, layout):
    trainer = tiny.trainer(text, tmp_path, weight_decay=0.1, config={**layout, "num_hidden_layers": 2})
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    spared = {
        names[parameter]
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
        if not group["weight_decay"]
    }
    last = {name: name.rpartition(".")[2] for name in names.values()}
    assert spared == {name for name in last if "norm" in name or "gain" in last[name] or last[name] == "bias"}
    assert {names[parameter] for parameter in names if parameter.numel() == 1} <= spared


class Spoil(TrainerCallback):
    """Does something to the model before a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step - 1:
            self.action(model)


def diverged(data, folder, block, action):
    """A trainer whose model was spoilt before step 8 of 12, between two checkpoints, and what it said."""
    settings = dict(config={"block": block, "num_hidden_layers": 2}, validate=lambda net: 1.0)
    trainer = tiny.trainer(data, folder, callbacks=[Spoil(8, action)], **settings)
    with pytest.raises(Diverged) as raised:
        trainer.fit()
    assert "\n" not in str(raised.value)
    checkpoint = trainer.checkpoints / "checkpoint-6"
    assert is_whole(checkpoint) and [*trainer.checkpoints.glob("checkpoint-*")] == [checkpoint]
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        assert tensor.isfinite().all(), name
    again = tiny.trainer(data, folder, **settings)
    again.fit()
    assert again.ledger.spent.steps == 12
    return trainer, str(raised.value)


@pytest.fixture(autouse=True)
def few_logs(monkeypatch):
    """So that nobody looks at the loss of step 8 for the sake of a log."""
    monkeypatch.setattr(Watch, "LOGS", 1)


@pytest.mark.parametrize("block", ["pre_ln", "sas_p"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_found(text, tmp_path, block, value):
    def spoil(net):
        with torch.no_grad():
            net.decoder.blocks[1].ffn.outer.weight[0, 0] = value

    _, message = diverged(text, tmp_path, block, spoil)
    assert message.startswith("tiny: the loss is nan at step 8; ")
    assert "decoder.blocks.1.ffn" in message


@pytest.mark.parametrize("block", ["pre_ln", "sas_p"])
def test_a_gradient_that_is_no_number_is_found(text, tmp_path, block):
    """The loss is a number still, and the step is not taken."""

    def spoil(net):
        net.decoder.blocks[0].ffn.outer.weight.register_hook(lambda gradient: gradient * math.nan)

    trainer, message = diverged(text, tmp_path, block, spoil)
    assert message.startswith("tiny: ") and "at step 8" in message
    assert "gradient" in message and "decoder.blocks.0.ffn.outer" in message
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
