"""The numbers of parameters that papers give, at their sizes: what stands beside values and output projection."""

import pytest
import torch

from bareformers.mixers import base
from bareformers.mixers.base import Slot

D, H, N = 512, 8, 512

PARAMETERS = {
    # Tay et al. 2021, table 1, the maps of every head counted.
    "dot_product": 2 * D**2,
    "random": H * N**2,
    "fixed_random": 0,
    "dense": D**2 + D * N,
    "factorized_dense": D**2 + D * (16 + 32),
    "factorized_random": H * 2 * N * 8,
    "random+dot_product": H * N**2 + 2 * D**2 + 2,
    "dense+random": D**2 + D * N + H * N**2 + 2,
    # You et al. 2020: no queries, no keys.
    "gaussian": 0,
    # Linear attention has what dot-product attention has; the programmer of 1991 reads with the input itself.
    "linear": 2 * D**2,
    "performer": 2 * D**2,
    "fast_weights": D**2,
    # Yang et al. 2024: a rate for each head, four taps for each channel of q, k and v, a norm shared by the heads.
    "delta": 2 * D**2 + D * H + 3 * 4 * D + D // H,
    "average": 0,
}
VARIANTS = [
    ({"name": "random", "max_offset": 64}, H * 129),
    ({"name": "dense", "max_offset": 64}, D**2 + D * 129),
    ({"name": "factorized_random", "rank": 2}, H * 2 * N * 2),
    # Dai et al. 2019: W_r, u and v.
    ({"name": "dot_product", "positions": "relative"}, 3 * D**2 + 2 * D),
    ({"name": "dot_product", "positions": "rotary", "num_heads": 1}, 2 * D**2),
]


@pytest.mark.parametrize("spec, expected", [*PARAMETERS.items(), *VARIANTS], ids=str)
def test_parameters_are_those_of_the_paper(spec, expected):
    slot = Slot("encoder", 0, hidden_size=D, num_heads=H, max_length=N, max_context_length=N, use_bias=False)
    with torch.device("meta"):
        mixer = base.build(spec, slot)
    assert sum(parameter.numel() for parameter in mixer.parameters()) == 2 * D**2 + expected
