"""Parameters at the sizes of the papers, and what decoding remembers."""

import pytest
import torch

from bareformers import registry
from bareformers.models import BareConfig, BareForCausalLM, BareForMaskedLM
from tests.laws.cases import Case, model, token_batch

# He & Hofmann 2024, appendices D.1 and D.2, with the learned positions of their code.
DECODER = dict(
    vocab_size=50_000,
    hidden_size=768,
    num_hidden_layers=18,
    num_attention_heads=12,
    intermediate_size=3072,
    max_position_embeddings=1024,
    position_embedding="learned",
    use_bias=False,
)
ENCODER = {
    **DECODER,
    "vocab_size": 32_768,
    "num_hidden_layers": 16,
    "hidden_act": "geglu",
    "max_position_embeddings": 128,
    "position_embedding": "sinusoidal",
}
NORM_FREE = {"block": "sas_p", "norm": "none"}


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize(
    "layout, expected",
    [({"block": "pre_ln"}, 167), ({"block": "sas"}, 146), ({"block": "sas_p"}, 146), (NORM_FREE, 146)],
    ids=str,
)
def test_parameters_of_the_decoder_of_the_paper(layout, expected):
    with torch.device("meta"):
        net = BareForCausalLM(BareConfig(**DECODER, **layout))
    assert millions(net) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "layout, expected",
    [
        ({"block": "pre_ln"}, 120),
        ({"block": "parallel"}, 120),
        ({"block": "v_skipinit"}, 120),
        ({"block": "sas"}, 101),
        ({"block": "sas_p"}, 101),
        (NORM_FREE, 101),
    ],
    ids=str,
)
def test_parameters_of_the_encoder_of_the_paper(layout, expected):
    """Its output is its embeddings, without the transform of BERT's head."""
    with torch.device("meta"):
        net = BareForMaskedLM(BareConfig(**ENCODER, **layout))
    assert millions(net.encoder) == pytest.approx(expected, rel=0.01)


T, D, H = 11, 16, 2


def remembered(block, mixer="dot_product", options=None, length=T):
    """The numbers that each layer remembers of a sequence, and the bytes of all."""
    net = model(Case(mixer, "decoder", options or {}), block=block, num_hidden_layers=3)
    ids, state = token_batch(net, length)["input_ids"], net.new_state()
    with torch.no_grad():
        for position in range(length):
            net(ids[:1, position : position + 1], past_key_values=state)
    layers = [layer["self"] for layer in state.layers]
    assert sum(layer.num_bytes() for layer in layers) == 4 * sum(layer.num_numbers() for layer in layers)
    return [layer.num_numbers() for layer in layers]


def is_with_sum(numbers, most):
    """Whether there is a running sum of the values beside `most`, and perhaps a count a head, but nothing else."""
    return D <= numbers - most <= D + H


@pytest.mark.parametrize("block", ["sas", "sas_p"])
def test_inputs_are_remembered_in_place_of_keys_and_values(block):
    """In the first layer values are not the inputs."""
    assert remembered("pre_ln") == [2 * T * D] * 3
    first, *others = remembered(block)
    assert is_with_sum(first, 2 * T * D)
    assert all(is_with_sum(numbers, T * D) for numbers in others)


@pytest.mark.parametrize("block", ["sas", "sas_p"])
def test_rotated_keys_are_remembered(block):
    assert all(is_with_sum(numbers, 2 * T * D) for numbers in remembered(block, options={"positions": "rotary"}))


@pytest.mark.parametrize("block", ["v_skipinit", "sas", "sas_p"])
@pytest.mark.parametrize("mixer", ["random", "dense"])
def test_maps_without_keys_remember_values(block, mixer):
    assert all(is_with_sum(numbers, T * D) for numbers in remembered(block, mixer))


@pytest.mark.parametrize("block", registry.blocks.names())
@pytest.mark.parametrize("mixer", ["average", "gaussian"])
def test_what_was_constant_stays_constant(block, mixer):
    assert remembered(block, mixer, length=12) == remembered(block, mixer, length=7)


@pytest.mark.parametrize("block", ["resi_dual", "parallel", "post_ln"])
def test_streams_and_norms_remember_nothing(block):
    assert remembered(block) == remembered("pre_ln")
    assert is_with_sum(remembered("v_skipinit")[1], 2 * T * D)
