"""The maps of models some of whose attention was replaced."""

import numpy as np
import pytest
import torch

from bareformers.measure import maps as measured
from bareformers.paring.drawing import maps
from bareformers.paring.families import positions
from bareformers.paring.surgery import swap
from bareformers.paring.teaching import places_of
from tests.paring.test_surgery import tiny
from tests.paring.test_teaching import ours

WORDS = {"encoder": list("abcde"), "decoder": list("fghi")}


def inputs():
    torch.manual_seed(1)
    return {"input_ids": torch.randint(3, 97, (1, 5)), "labels": torch.randint(3, 97, (1, 4))}


@pytest.mark.parametrize("name", ["bert", "marian", "gpt2"])
def test_maps_are_those_of_eager_attention(name):
    given = inputs() if name == "marian" else {"input_ids": inputs()["input_ids"]}
    alone = {"bert": "encoder", "gpt2": "decoder"}.get(name)
    words = {alone: WORDS["encoder"]} if alone else WORDS
    model, config = tiny(name).train(), tiny(name).config.to_dict()
    found = maps(model, given, words)
    expected = measured.maps(tiny(name, attention="eager"), given, words)
    assert set(found) == set(expected)
    for key, array in found.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected[key], atol=2e-3)
        else:
            assert (array == expected[key]).all()
    assert model.training and model.config.to_dict() == config


def test_mixers_without_a_map_show_what_moves_them():
    model = tiny("bert")
    swap(model, {"name": "alr", "size": "XS"}, 0)
    model.train()  # dropout, but not while maps are drawn
    given = {"input_ids": inputs()["input_ids"]}
    first, second = (maps(model, given, {"encoder": WORDS["encoder"]}) for _ in range(2))
    assert str(first["encoder/0/kind"]) == "jacobian" and first["encoder/0"].shape == (1, 5, 5)
    assert all((first[key] == second[key]).all() for key in first)


def test_where_attention_is():
    model = ours()
    assert [str(place) for place in places_of(model)][::2] == ["encoder layer 0", "decoder layer 0", "cross layer 0"]
    assert positions(tiny("bert")) == tiny("bert").config.max_position_embeddings
    roberta = tiny("roberta")
    assert positions(roberta) == roberta.config.max_position_embeddings - 2
    with torch.no_grad():
        roberta(torch.full((1, positions(roberta)), 5))
    swap(roberta, "dense", 0)
    assert roberta.config.bareformers["mixers"][0]["max_length"] == positions(roberta)
    assert len(places_of(roberta)) == 2
