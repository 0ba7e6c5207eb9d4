"""Who sees whom, and where both sit."""

import pytest
import torch

from bareformers.mixers.masks import Mask

CPU = torch.device("cpu")
LEFT = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
RIGHT = LEFT.flip(1)


def mask(num_queries, num_keys, causal=True, keep=None, **kwargs):
    return Mask(num_queries, num_keys, causal=causal, device=CPU, keep=keep, **kwargs)


def test_positions_count_real_tokens_only():
    assert mask(4, 4, keep=LEFT).key_positions.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert mask(4, 4, keep=RIGHT).key_positions.tolist() == [[0, 1, 2, 3]]
    assert mask(4, 4).key_positions.tolist() == [[0, 1, 2, 3]]


def test_new_queries_are_the_last_positions():
    given = mask(2, 4, keep=LEFT)
    assert given.offset == 2
    assert given.query_positions.tolist() == [[0, 1], [2, 3]]


def test_cross_queries_have_positions_of_their_own():
    own = mask(1, 4, keep=LEFT)
    cross = mask(1, 4, causal=False, keep=RIGHT, query_positions=own.query_positions, query_keep=own.query_keep)
    assert cross.query_positions.tolist() == [[1], [3]]
    assert cross.key_positions.tolist() == [[0, 1, 2, 3]]
    assert cross.query_keep.tolist() == own.query_keep.tolist() == [[True], [True]]


def test_queries_are_real_where_their_keys_are():
    assert mask(3, 4, keep=LEFT).query_keep.tolist() == LEFT[:, 1:].tolist()
    assert mask(3, 4).query_keep is None
    assert mask(3, 4, causal=False, keep=RIGHT, query_positions=torch.arange(3)[None]).query_keep is None


@pytest.mark.parametrize(
    "keep, regular",
    [(None, True), (RIGHT, True), (LEFT, False), (torch.zeros(1, 3).bool(), False), (torch.ones(1, 1).bool(), True)],
    ids=["none", "right", "left", "all_padding", "one"],
)
def test_regular_rows_begin_with_their_tokens(keep, regular):
    assert mask(1, 4 if keep is None else keep.shape[1], keep=keep).regular is regular


def test_allowed_is_the_triangle_and_the_padding():
    assert mask(1, 4).allowed is None
    assert mask(2, 4, causal=False).allowed is None
    assert mask(2, 4).allowed[0, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask(4, 4, keep=LEFT).allowed[0, 0].int().tolist() == [[0] * 4, [0] * 4, [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask(1, 4, causal=False, keep=RIGHT).allowed[0, 0].int().tolist() == [[1, 1, 0, 0]]


def test_padding_behind_the_last_token_needs_no_mask_where_nobody_looks_ahead():
    assert mask(4, 4, keep=RIGHT).allowed.shape[0] == 1
    assert mask(4, 4, keep=RIGHT, causal=False).allowed.shape[0] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_softmax_is_at_least_as_exact_as_float32(dtype):
    weights = mask(4, 4, keep=LEFT).softmax(torch.zeros(2, 1, 4, 4, dtype=dtype))
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert weights[1, 0].tolist()[1] == [0.5, 0.5, 0, 0]
    assert weights[0, 0, 0].tolist() == [0.25] * 4, "a row that may see nothing is uniform"


def test_values_are_zero_at_padding():
    values = torch.ones(2, 1, 2, 3)
    kept = mask(2, 4, keep=torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1]]).bool()).keep_values(values)
    assert kept[:, 0, :, 0].tolist() == [[0, 1], [1, 1]]


def test_bias_masks_what_allowed_forbids():
    given = mask(4, 4, keep=LEFT)
    bias = given.bias(torch.float32)
    assert ((bias == 0) == given.allowed).all() and bias.isfinite().all()
    assert mask(1, 4).bias(torch.float32) is None
