"""What mixers learn in a few seconds, and what they cannot: made-up sequences, small models, fixed seeds."""

import pytest
import torch

from bareformers import registry
from bareformers.data.batching import evaluation_batches
from bareformers.data.tasks import prepare
from bareformers.measure import quality
from bareformers.models import BareConfig, BareForCausalLM

ROWS = 64
PREVIOUS = {"name": "gaussian", "offsets": [-1], "std": 0.4}
"""Hands each token the one before, so that a value comes with its key."""
RECALL = dict(pairs=4, value_symbols=4, queries=4)
OVERWRITING = dict(key_symbols=3, writes=3, value_symbols=8, queries=3)


def accuracy(source, options, num_steps, **sizes):
    """Right answers in percent on sequences that training has not seen."""
    corpus = registry.sources.get(source)(train=num_steps * ROWS, validation=100, test=0, **options).load()
    data = prepare(corpus, "recall", vocab_size=0, max_length=64)
    torch.manual_seed(0)
    config = BareConfig(
        vocab_size=len(data.tokenizer),
        num_hidden_layers=2,
        intermediate_size=128,
        max_position_embeddings=64,
        dropout=0.0,
        is_encoder_decoder=False,
        **sizes,
    )
    net = BareForCausalLM(config)
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(num_steps):
        rate = 0.005 * min(1, (step + 1) / 20, (num_steps - step) / (0.3 * num_steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = data.collate([data.train[index] for index in range(step * ROWS, (step + 1) * ROWS)])
        optimizer.zero_grad()
        net(**batch, loss_only=True).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    held_out = data.validation
    batches = evaluation_batches(held_out.lengths, 4096)
    rows = ((indices, data.collate([held_out[index] for index in indices])) for indices in batches)
    return quality.recalled(net, rows).accuracy


@pytest.mark.parametrize("source, mixer", [("copy", "dot_product"), ("copy", "random"), ("reverse", "dot_product")])
def test_words_are_said_again(source, mixer):
    sizes = dict(hidden_size=64, num_attention_heads=2, mixer=mixer)
    assert accuracy(source, dict(length=6, symbols=8), 120, **sizes) > 90


@pytest.mark.parametrize(
    "mixer, least, most",
    [
        ("dot_product", 95, 100),
        ("linear", 95, 100),
        ("gaussian", 0, 60),  # of four values: a quarter by guessing, more by what else is left to be asked
        ("random", 0, 60),
    ],
)
def test_recall_needs_content(mixer, least, most):
    sizes = dict(hidden_size=64, num_attention_heads=1, position_embedding="none", mixer=[PREVIOUS, mixer])
    assert least <= accuracy("associative_retrieval", RECALL, 200, **sizes) <= most


@pytest.mark.parametrize("mixer, least, most", [("delta", 95, 100), ("linear", 0, 50)])
def test_the_delta_rule_overwrites_and_the_sum_rule_cannot(mixer, least, most):
    """A sum knows the three values that a key was given, and not which came last: a third is right by guessing."""
    sizes = dict(hidden_size=32, num_attention_heads=1, position_embedding="none", mixer=[PREVIOUS, mixer])
    assert least <= accuracy("overwriting", OVERWRITING, 150, **sizes) <= most
