"""Parameters, state and memory, against formulas and allocations that are known."""

import pytest
import torch

from bareformers.measure.cost import num_embedding_parameters, num_parameters, peak_bytes, state_bytes
from bareformers.models import BareForCausalLM, BareForSeq2SeqLM
from tests.models.sizes import SMALL, build, tokens

WIDTH, LAYERS, FLOAT = SMALL["hidden_size"], SMALL["num_hidden_layers"], 4
CPU = torch.device("cpu")


def test_tied_parameters_count_once():
    net = build(BareForCausalLM, mixer="dot_product")
    attention, ffn = 4 * (WIDTH * WIDTH + WIDTH), 2 * WIDTH * 24 + WIDTH + 24
    norms = 2 * 2 * WIDTH
    assert num_embedding_parameters(net) == 23 * WIDTH
    assert num_parameters(net) == 23 * WIDTH + LAYERS * (attention + ffn + norms) + 2 * WIDTH


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [5, 20])
def test_the_state_of_dot_product_grows_with_length(rows, length):
    net = build(BareForCausalLM, mixer="dot_product")
    assert state_bytes(net, {"input_ids": tokens(rows, length)}) == LAYERS * 2 * length * WIDTH * FLOAT


@pytest.mark.parametrize("length", [1, 5, 20])
def test_the_state_of_average_does_not(length):
    net = build(BareForCausalLM, mixer="average")
    assert state_bytes(net, {"input_ids": tokens(2, length)}) == LAYERS * WIDTH * FLOAT


def test_without_mixing_there_is_none():
    assert state_bytes(build(BareForCausalLM, mixer="none"), {"input_ids": tokens()}) == 0


def test_cross_counts_the_context():
    net = build(BareForSeq2SeqLM, is_encoder_decoder=True)
    found = state_bytes(net, {"input_ids": tokens(2, 9), "decoder_input_ids": tokens(2, 4)})
    assert found == LAYERS * 2 * (9 + 4) * WIDTH * FLOAT


def test_half_the_precision_is_half_the_state():
    net = build(BareForCausalLM).bfloat16()
    assert state_bytes(net, {"input_ids": tokens(1, 6)}) == LAYERS * 2 * 6 * WIDTH * 2


def test_the_peak_of_a_known_allocation():
    def step():
        first = torch.ones(1_000_000)  # 4 MB
        second = first + 1  # 8 MB
        del first
        return second * 2  # 8 MB again

    assert 8e6 <= peak_bytes(step, CPU) < 8.1e6


def test_what_was_there_before_is_not_counted():
    kept = torch.ones(1_000_000)
    assert 4e6 <= peak_bytes(lambda: kept * 2, CPU) < 4.1e6


def test_the_peak_grows_with_the_batch():
    net = build(BareForCausalLM).train()

    def peak(rows):
        ids = tokens(rows, 16)

        def step():
            net(input_ids=ids, labels=ids).loss.backward()
            net.zero_grad()

        return peak_bytes(step, CPU)

    small, large = peak(4), peak(32)
    logits = 32 * 16 * 23 * FLOAT
    assert 4 * small < large < 9 * small and large > logits
