"""Maps: whose they are, their shapes and their rows."""

import numpy as np
import pytest
import torch

from bareformers.measure.maps import maps
from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM
from tests.models.sizes import build, tokens

SOURCE, TARGET = list("abcde"), list("uvwxyz")


def of_language_model(mixer):
    net = build(BareForCausalLM, mixer=mixer, num_hidden_layers=2)
    return maps(net, {"input_ids": tokens(1, 5)}, {"decoder": SOURCE})


def of_encoder_decoder(**mixers):
    net = build(BareForSeq2SeqLM, is_encoder_decoder=True, num_hidden_layers=2, **mixers)
    inputs = {"input_ids": tokens(1, 5), "labels": tokens(1, 6)}
    return maps(net, inputs, {"encoder": SOURCE, "decoder": TARGET})


def test_a_language_model_has_one_role():
    found = of_language_model("dot_product")
    assert set(found) == {"decoder/0", "decoder/1", "decoder/queries", "decoder/keys"}
    assert found["decoder/0"].shape == (2, 5, 5) and found["decoder/0"].dtype == np.float16
    assert found["decoder/queries"].tolist() == found["decoder/keys"].tolist() == SOURCE


def test_an_encoder_decoder_has_three():
    found = of_encoder_decoder()
    shapes = {name: array.shape for name, array in found.items() if name.endswith(("/0", "/1"))}
    sizes = {"encoder": (2, 5, 5), "decoder": (2, 6, 6), "cross": (2, 6, 5)}
    assert shapes == {f"{role}/{layer}": sizes[role] for role in sizes for layer in (0, 1)}
    assert found["cross/queries"].tolist() == found["decoder/queries"].tolist() == TARGET
    assert found["cross/keys"].tolist() == found["encoder/keys"].tolist() == SOURCE


@pytest.mark.parametrize("mixer", ["dot_product", "average"])
def test_rows_sum_to_one(mixer):
    for name, array in of_encoder_decoder(mixer=mixer).items():
        if array.dtype == np.float16:
            np.testing.assert_allclose(array.astype(float).sum(-1), 1, atol=4e-3, err_msg=name)


def test_nobody_reads_what_comes_later():
    found = of_language_model("dot_product")["decoder/0"]
    assert (np.triu(found, 1) == 0).all() and (np.tril(found)[..., 1:, 0] > 0).all()


def test_the_floor_reads_all_alike():
    found = of_language_model("average")["decoder/1"].astype(float)
    np.testing.assert_allclose(found[0], np.tril(1 / np.arange(1, 6)[:, None] * np.ones(5)), atol=1e-3)


def test_what_has_no_map_is_left_out():
    assert of_language_model("none") == {}
    mixed = of_encoder_decoder(encoder_mixer=["none", "dot_product"])
    assert "encoder/0" not in mixed and "encoder/1" in mixed and "cross/0" in mixed


def test_an_encoder_alone():
    net = build(BareForMaskedLM)
    assert "encoder/0" in maps(net, {"input_ids": tokens(1, 5)}, {"encoder": SOURCE})


def test_only_the_first_row_is_drawn():
    net = build(BareForCausalLM)
    one, many = (maps(net, {"input_ids": ids}, {"decoder": SOURCE}) for ids in (tokens(3, 5)[:1], tokens(3, 5)))
    np.testing.assert_allclose(one["decoder/0"], many["decoder/0"], atol=2e-3)
    assert not any(isinstance(array, torch.Tensor) for array in many.values())
