"""Whether a step gave numbers."""

from __future__ import annotations

import math

import pytest
import torch

from bareformers.training.divergence import is_finite


@pytest.mark.parametrize("entry", [1.0, 1e30, -3e38])
def test_large_numbers_are_numbers(entry):
    """The squares of the last two are none."""
    assert is_finite([torch.zeros(3), torch.tensor([0.0, entry])])


@pytest.mark.parametrize("entry", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_found(entry):
    tensor = torch.zeros(5, 7)
    tensor[3, 2] = entry
    assert not is_finite([torch.full((4,), 1e30), tensor])
