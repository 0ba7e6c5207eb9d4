"""How alike positions become with depth before any training: the table that explains why skipless blocks work.

The table is of single runs at width 256, 8 heads, 64 positions, causal, weights of standard deviation 1/sqrt(256), RMS
norms and inputs from N(0, 1), rounded to two digits. Where the feed-forward network is damped, ours spread by 0.01 over
seeds (standard deviation, at depth 18), and the mean of four is taken. Elsewhere runs of an independent program spread
by 0.03 at depth 1 and by 0.05 below, but in Post-LN by 0.03 and 0.01, since less is left to spread. There ours is the
mean of two: two standard deviations of the difference are 2.4 of these, and the tolerance is that and the rounding.
"""

import functools
import math

import pytest
import torch

from bareformers.models import BareForCausalLM
from tests.laws.cases import noise
from tests.models.sizes import small

WIDTH, LENGTH = 256, 64
DEPTHS = (1, 8, 18)
NOISY, DAMPED = (0.08, 0.13, 0.13), (0.015, 0.015, 0.02)

ROWS = {
    # block, norm, mean cosines at DEPTHS, tolerances
    "pre_ln": ("pre_ln", "rms", (0.23, 0.63, 0.71), NOISY),
    "post_ln": ("post_ln", "rms", (0.25, 0.96, 0.998), (0.08, 0.08, 0.03)),
    "sas": ("sas", "rms", (0.006, 0.05, 0.11), DAMPED),
    "sas_p": ("sas_p", "rms", (0.008, 0.05, 0.11), DAMPED),
    "sas_p undamped": ({"name": "sas_p", "ffn_gain": 1.0}, "rms", (0.22, 0.68, 0.83), NOISY),
    "sas_p norm-free": ("sas_p", "none", (0.01, 0.05, 0.10), DAMPED),
}


@functools.cache
def hidden_states(row, seed):
    """The hidden states [T, D] that enter the first block and leave each, in float64."""
    block, norm, _, _ = ROWS[row]
    torch.manual_seed(seed)
    config = small(
        block=block,
        norm=norm,
        hidden_size=WIDTH,
        num_attention_heads=8,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=max(DEPTHS),
        max_position_embeddings=LENGTH,
        initializer_range=WIDTH**-0.5,
        position_embedding="none",
        scale_embedding=False,
        use_bias=False,
    )
    with torch.no_grad():
        out = BareForCausalLM(config).eval()(
            inputs_embeds=noise(1, LENGTH, WIDTH, seed=seed), output_hidden_states=True
        )
    return [each[0].double() for each in out.hidden_states]


def mean_cosine(x):
    """Over all pairs of positions of [T, D]."""
    x = x / x.norm(dim=-1, keepdim=True)
    return ((x @ x.T).sum().item() - len(x)) / (len(x) * (len(x) - 1))


@pytest.mark.parametrize("row", ROWS)
def test_positions_become_alike_as_in_the_table(row):
    _, _, expected, tolerances = ROWS[row]
    runs = [hidden_states(row, seed) for seed in range(4 if tolerances is DAMPED else 2)]
    found = [sum(mean_cosine(states[depth]) for states in runs) / len(runs) for depth in DEPTHS]
    for depth, ours, theirs, tolerance in zip(DEPTHS, found, expected, tolerances, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance), f"at depth {depth}"


def closed_form(gain):
    """Mean cosines by depth where attention is the identity: c' = (c + k g^2 J(c)) / (1 + k g^2) from c = 0.

    J is the kernel of relu, and k = 2 the variance of a network of width 4d with weights of variance 1/d.
    """
    c, scale = 0.0, 2 * gain**2
    while True:
        yield c
        c = (c + scale * (math.sqrt(1 - c**2) + (math.pi - math.acos(c)) * c) / math.pi) / (1 + scale)


@pytest.mark.parametrize("row", ["sas", "sas_p"])
def test_positions_become_alike_as_the_closed_form_says(row):
    found = torch.tensor([[mean_cosine(x) for x in hidden_states(row, seed)] for seed in range(4)]).mean(0)
    for depth, (ours, expected) in enumerate(zip(found.tolist(), closed_form(0.1), strict=False)):
        assert ours == pytest.approx(expected, abs=0.01), f"at depth {depth}"


def test_without_norms_the_signal_grows_as_the_closed_form_says():
    """Each layer adds 2 ffn_gain^2 = 2 % to the variance."""
    for depth, x in enumerate(hidden_states("sas_p norm-free", 0)):
        assert x.square().mean().sqrt().item() == pytest.approx(1.02 ** (depth / 2), rel=0.02), f"at depth {depth}"
