"""A model with any mixer saves, decodes, exports and trains like any other model of `transformers`."""

import pytest
import torch
from torch import nn

from tests.laws.cases import IN_BLOCKS, OTHER_FORMS, Case, cases, close, disturb, model, token_batch


def kinds(case: Case) -> list[bool]:
    """Which models have this role, as `is_encoder_decoder`."""
    return [False, True] if case.role == "decoder" else [True]


@cases(also=IN_BLOCKS)
def test_saved_is_loaded_exactly(case, tmp_path):
    net = model(case, position_embedding="sinusoidal")
    net.save_pretrained(tmp_path)
    loaded = type(net).from_pretrained(tmp_path)
    before, after = net.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    for (name, buffer), (_, other) in zip(net.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name
    inputs = token_batch(net, padding="left")
    assert torch.equal(net(**inputs).logits, loaded(**inputs).logits)


WAYS = {
    "beam": dict(num_beams=3, num_return_sequences=2, length_penalty=0.6),
    "sample": dict(do_sample=True, top_k=8),  # greedy decoding takes the same steps
}


@cases(variants=False, also=(*OTHER_FORMS, *IN_BLOCKS))
@pytest.mark.parametrize("way", WAYS)
def test_generation_with_state_equals_without(case, way):
    for encoder_decoder in kinds(case):
        net = model(case, encoder_decoder)
        inputs = token_batch(net, length=7, padding="left")
        inputs.pop("decoder_input_ids", None)
        outputs = []
        for use_cache in (True, False):
            torch.manual_seed(7)
            outputs.append(
                net.generate(
                    **inputs,
                    **WAYS[way],
                    use_cache=use_cache,
                    max_new_tokens=6,
                    output_logits=True,
                    output_scores=True,
                    return_dict_in_generate=True,
                )
            )
        with_state, without = outputs
        assert with_state.past_key_values is not None
        assert torch.equal(with_state.sequences, without.sequences)
        for name in ("logits", "scores"):
            for step, (found, expected) in enumerate(zip(with_state[name], without[name], strict=True)):
                visible = expected.isfinite()
                assert torch.equal(found.isfinite(), visible)
                close(found[visible], expected[visible], 1e-5, f"{name} of step {step}")
        if way == "beam":
            close(with_state.sequences_scores, without.sequences_scores, 1e-5, "scores of sequences")


def is_plain(case: Case) -> bool:
    """Whether it has its block as it comes: enough for graphs, which take their time."""
    return list(case.config) == ["block"] and isinstance(case.config["block"], str)


class Logits(nn.Module):
    """A model as a function from tensors to one tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.net(**inputs, use_cache=False).logits


@cases(variants=False, absent=False, also=(*OTHER_FORMS, *(case for case in IN_BLOCKS if is_plain(case))))
def test_exported_equals_eager(case):
    others = {"mixer": "none", **({"cross_mixer": "average"} if case.role == "encoder" else {})}  # small graphs
    net = model(case, num_hidden_layers=1, **others)
    program = torch.export.export(Logits(net), (), token_batch(net), strict=False).module()
    for padding in ("right", "left"):
        inputs = token_batch(net, padding=padding)
        found, expected = program(**inputs), net(**inputs).logits
        real = slice(None) if net.config.is_encoder_decoder else inputs["attention_mask"].bool()
        close(found[real], expected[real], 1e-5, padding)


@cases(variants=False, also=IN_BLOCKS)
def test_checkpointing_changes_no_gradient(case):
    net = model(case).train()
    inputs = token_batch(net, padding="right")
    labels = inputs.pop("decoder_input_ids", inputs["input_ids"]).clone()
    losses, gradients = [], []
    for checkpointed in (False, True):
        if checkpointed:
            net.gradient_checkpointing_enable()
            assert all(block.gradient_checkpointing for block in net.decoder.blocks)
        net.zero_grad(set_to_none=True)
        loss = net(**inputs, labels=labels).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    assert torch.equal(*losses)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient, 1e-6, name)


def test_disturbing_leaves_nothing_at_zero():
    linear = nn.Linear(3, 3)
    nn.init.zeros_(linear.bias)
    disturb(linear)
    assert (linear.bias != 0).all()
