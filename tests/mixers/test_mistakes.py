"""What a mixer says to options and places that do not fit: one sentence, with what to write instead."""

import pytest

from bareformers.errors import InputError
from bareformers.mixers import base
from tests.laws.cases import Case

ODD = dict(hidden_size=6, num_heads=2)
DROPS = dict(dropout=0.1)

MISTAKES = [
    # spec, role, sizes, words
    ({"name": "random", "max_offset": 3}, "cross", {}, "random has no max_offset in the cross role"),
    ({"name": "dense", "max_offset": 3}, "cross", {}, "dense has no max_offset in the cross role"),
    ({"name": "random", "max_offset": 0}, "decoder", {}, "max_offset is at least 1, not 0"),
    ({"name": "factorized_random", "rank": 0}, "decoder", {}, "rank of at least 1, not 0"),
    ({"name": "factorized_dense", "factors": (5, 7)}, "encoder", {}, r"5 and 7.* 132; write factors: \[11, 12\]"),
    ({"name": "factorized_dense", "factors": (11, 12)}, "cross", {}, r"11 and 12.* 130; write factors: \[10, 13\]"),
    ({"name": "dot_product", "positions": "rotary"}, "cross", {}, "no rotary positions between two sequences"),
    ({"name": "dot_product", "positions": "relative"}, "cross", {}, "no relative positions between two sequences"),
    ({"name": "dot_product", "positions": "rotary"}, "decoder", ODD, "even head size, not 3"),
    ({"name": "dot_product", "positions": "rotray"}, "decoder", {}, "positions"),
    (
        {"name": "dot_product", "rotary_base": 5e5},
        "decoder",
        {},
        "rotary_base .* positions is none; write positions: r",
    ),
    ({"name": "dot_product", "positions": "rotary", "rotary_base": 0}, "decoder", {}, "rotary_base is above 0, not 0"),
    ({"name": "dot_product", "num_heads": 3}, "decoder", {}, "hidden_size 16 among 3 heads"),
    ({"name": "dot_product", "num_heads": 0}, "decoder", {}, "at least one head, not num_heads: 0"),
    ({"name": "linear", "feature_map": "dpfp"}, "decoder", ODD, "even head size, not 3"),
    ({"name": "delta", "feature_map": "dpfp"}, "decoder", ODD, "even head size, not 3"),
    ({"name": "linear", "feature_map": "identity"}, "decoder", {}, "'identity'.* write normalize: false, or .* elu"),
    ({"name": "delta", "key_norm": "sum"}, "decoder", {}, "'identity'.* write key_norm: l2, or .* dpfp"),
    ({"name": "linear", "feature_map": "dpfpp"}, "decoder", {}, "feature map 'dpfpp'; did you mean 'dpfp'"),
    ({"name": "delta", "feature_map": {"name": "elu", "nu": 2}}, "decoder", {}, "no option 'nu'"),
    ({"name": "linear", "conv": 1}, "decoder", {}, "conv of at least 2 positions, or 0"),
    ({"name": "performer", "num_directions": 0}, "decoder", {}, "num_directions is at least 1"),
    ("linear", "encoder", DROPS, "'linear' has no map whose entries could drop; write attention_dropout: 0"),
    ("performer", "decoder", DROPS, "'performer' has no map whose entries could drop"),
    ("fast_weights", "cross", DROPS, "'fast_weights' has no map whose entries could drop"),
    ("delta", "decoder", DROPS, "'delta' has no map whose entries could drop"),
    ({"name": "mixture", "of": ["random"]}, "decoder", {}, "at least two"),
    ({"name": "mixture", "of": []}, "decoder", {}, "at least two"),
    ("mixture", "decoder", {}, "'mixture'.* needs of"),
    ("random+random", "decoder", {}, "names random twice"),
    ("random+gaussian", "decoder", {}, "cannot hold gaussian, which has no logits; these have: .*dot_product"),
    ("random+randon", "decoder", {}, "unknown mixer 'randon'; did you mean 'random'"),
    ({"name": "random+dense", "max_offset": 3}, "decoder", {}, r"no options of its own; write \{name: mixture, of:"),
    (
        {"name": "mixture", "of": ["random", {"name": "dot_product", "num_heads": 1}]},
        "decoder",
        {},
        "share their heads; leave num_heads out of dot_product",
    ),
    ({"name": "gaussian", "std": [1.0, 0.0]}, "encoder", {}, "std above 0"),
    ({"name": "gaussian", "length_ratio": 1.1}, "encoder", {}, "length_ratio in the cross role only"),
    ({"name": "gaussian", "length_ratio": 0}, "cross", {}, "length_ratio above 0"),
]


@pytest.mark.parametrize("spec, role, sizes, words", MISTAKES, ids=[f"{row[0]}-{row[1]}" for row in MISTAKES])
def test_a_mistake_is_answered_in_one_sentence(spec, role, sizes, words):
    with pytest.raises(InputError, match=words) as raised:
        base.build(spec, Case("", role).slot(**sizes))
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)
