"""Parameters, products, state and memory, against formulas and allocations that are known."""

import pytest
import torch

from bareformers.measure.cost import multiply_adds, num_embedding_parameters, num_parameters, peak_bytes, state_bytes
from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM, BareForSequenceClassification
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


def expected_products(queries, keys, *, cross=None):
    """Multiply-adds of one Pre-LN layer of `SMALL` with dot product: linear maps, scores and values."""

    def attention(queries, keys):
        return WIDTH * (2 * queries + 2 * keys) * WIDTH + 2 * queries * keys * WIDTH

    total = attention(queries, keys) + 2 * queries * WIDTH * SMALL["intermediate_size"]
    return total if cross is None else total + attention(queries, cross)


@pytest.mark.parametrize("rows, length", [(1, 5), (3, 20)])
def test_multiply_adds_are_those_of_the_arithmetic(rows, length):
    net = build(BareForCausalLM, mixer="dot_product")
    head = length * WIDTH * SMALL["vocab_size"]
    assert multiply_adds(net, {"input_ids": tokens(rows, length)}) == (
        LAYERS * expected_products(length, length) + head
    )


def test_multiply_adds_of_both_halves_and_between_them():
    net = build(BareForSeq2SeqLM, is_encoder_decoder=True)
    found = multiply_adds(net, {"input_ids": tokens(2, 9), "decoder_input_ids": tokens(2, 4)})
    layers = expected_products(9, 9) + expected_products(4, 4, cross=9)
    assert found == LAYERS * layers + 4 * WIDTH * SMALL["vocab_size"]


@pytest.mark.parametrize("cls", [BareForMaskedLM, BareForSequenceClassification])
def test_a_fused_kernel_counts_as_the_products_it_stands_for(cls):
    net = build(cls, max_position_embeddings=200)
    short, long = (multiply_adds(net, {"input_ids": tokens(1, length)}) for length in (20, 200))
    body = [LAYERS * expected_products(length, length) for length in (20, 200)]
    head = long - body[1]
    assert net.training is False and 0 < head
    assert short - body[0] == (head if cls is BareForSequenceClassification else head // 10)


def test_without_mixing_only_linear_maps_are_left():
    net = build(BareForCausalLM, mixer="none")
    per_token = LAYERS * 2 * WIDTH * SMALL["intermediate_size"] + WIDTH * SMALL["vocab_size"]
    assert multiply_adds(net, {"input_ids": tokens(2, 7)}) == 7 * per_token


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_what_is_made_of_weights_alone_is_not_counted(rows):
    """Of a network only its products with a sentence, however many there are and whatever was kept before."""
    net = build(BareForSequenceClassification, mixer={"name": "alr", "width": 10})
    bare = build(BareForSequenceClassification, mixer="none")
    given = {"input_ids": tokens(rows, 7)}
    found = [multiply_adds(net, given) - multiply_adds(bare, given) for _ in range(2)]
    assert found == [LAYERS * (2 * 7 * WIDTH * 10 + 7 * WIDTH * WIDTH)] * 2


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
