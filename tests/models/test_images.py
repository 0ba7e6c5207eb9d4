"""The classifier of images: patches, class token, normalisation, and what it says to images that do not fit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForImageClassification

from bareformers.errors import InputError
from bareformers.mixers import base
from bareformers.models import BareConfig, BareForCausalLM, BareForImageClassification
from bareformers.training.objectives import CrossEntropy
from tests.laws.cases import Case, batch, close
from tests.models.sizes import build, small
from tests.reference.equations import naive

IMAGES = dict(image_size=[8, 12], patch_size=4, num_channels=3, num_labels=5, position_embedding="learned")
TOKENS = dict(vocab_size=1, pad_token_id=None, bos_token_id=None, eos_token_id=None, decoder_start_token_id=None)
STATISTICS = dict(image_mean=[0.2, 0.4, 0.6], image_std=[0.5, 1.0, 2.0])
poolings = pytest.mark.parametrize("pooling", ["mean", "first"])


def model(**given):
    return build(BareForImageClassification, **{**IMAGES, **TOKENS, **given})


def images(rows=2):
    return torch.rand(rows, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def test_a_patch_is_what_a_convolution_sees():
    net = model(**STATISTICS)
    embedding = net.get_input_embeddings()
    weight = embedding.projection.weight.view(-1, 3, 4, 4)
    mean, std = (torch.tensor(STATISTICS[key])[:, None, None] for key in ("image_mean", "image_std"))
    expected = F.conv2d((images() - mean) / std, weight, embedding.projection.bias, stride=4)
    torch.testing.assert_close(net.embed(images()), expected.flatten(2).transpose(1, 2))


@poolings
def test_what_is_pooled(pooling):
    net = model(classifier_pooling=pooling)
    out = net(images(), output_hidden_states=True, output_attentions=True)
    length = 6 + (pooling == "first")
    assert out.logits.shape == (2, 5) and out.attentions[0].shape[-2:] == (length, length)
    hidden = net.encoder(inputs_embeds=net.embed(images())).last_hidden_state
    pooled = hidden.mean(1) if pooling == "mean" else hidden[:, 0]
    torch.testing.assert_close(out.logits, net.classifier(pooled))
    assert (net.get_input_embeddings().class_token is not None) is (pooling == "first")


@poolings
@pytest.mark.parametrize("mixer", ["random", "alr", {"name": "gaussian_2d", "width": 3}])
def test_save_is_load(pooling, mixer, tmp_path):
    net = model(classifier_pooling=pooling, mixer=mixer, **STATISTICS)
    net.save_pretrained(tmp_path)
    found = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(found) is BareForImageClassification and found.config.image_mean == STATISTICS["image_mean"]
    assert torch.equal(found(images()).logits, net(images()).logits)


def test_loss_and_sizes():
    net = model()
    labels = torch.tensor([1, 4])
    given = {"pixel_values": images(), "labels": labels}
    expected = F.cross_entropy(net(images()).logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropy(0.1)(net, given), expected)
    torch.testing.assert_close(CrossEntropy(0.1)(net, given, num_labels=8), expected / 4)
    assert net.main_input_name == "pixel_values" and not net.can_generate()
    assert not any(isinstance(module, nn.Embedding) and module.num_embeddings == 1 for module in net.modules())
    whole = net(inputs_embeds=net.embed(images())).logits
    assert torch.equal(whole, net(images()).logits)


def test_positions_start_as_wide_as_patches():
    assert 0.8 < float(model().stack.embeddings.positions.weight.detach().std()) < 1.2
    of_text = build(BareForCausalLM, position_embedding="learned").stack.embeddings.positions.weight
    assert float(of_text.detach().std()) < 0.4


def test_a_square_is_one_number():
    config = small(**{**IMAGES, **TOKENS, "image_size": 8})
    assert config.pixels == (8, 8) and config.grid == (2, 2) and config.num_leading == 0


@pytest.mark.parametrize("shape", [(2, 3, 12, 8), (2, 1, 8, 12), (3, 8, 12), (2, 3, 16, 12)])
def test_an_image_of_another_size(shape):
    with pytest.raises(InputError, match="reads images of 8 × 12 pixels and 3 channels, so .* got .*; scale them"):
        model()(torch.zeros(shape))


MISTAKES = {
    "patch": ({"patch_size": 5}, r"multiples of patch_size 5, not \[8, 12\]"),
    "size": ({"image_size": [8, 12, 3]}, "image_size is the height and the width"),
    "nothing": ({"image_size": 0}, "image_size is the height and the width"),
    "no_patch": ({"patch_size": None}, "needs patch_size and num_channels of 1 or more, not None, 3"),
    "channels": ({"num_channels": 0}, "not 4, 0"),
    "mean": ({"image_mean": [0.5]}, r"image_mean has a number for each of the 3 channels, not \[0.5\]"),
    "std": ({"image_std": [1.0, 0.0, 1.0]}, "image_std is above 0"),
    "length": ({"max_position_embeddings": 5}, "is less than the 2 × 3 patches of an image; write 6"),
    "token": (
        {"max_position_embeddings": 6, "classifier_pooling": "first"},
        "less than the 2 × 3 patches and the class token of an image; write 7",
    ),
    "width": (
        {"mixer": {"name": "gaussian_2d", "width": 4}},
        "gaussian_2d has width 4, and the images have 3 patches in a row; write width: 3",
    ),
}


@pytest.mark.parametrize("given, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(given, words):
    with pytest.raises(InputError, match=words) as raised:
        model(**given)
    assert "\n" not in str(raised.value)


def test_it_needs_images_and_knows_it():
    with pytest.raises(InputError, match="needs image_size, patch_size and num_channels in its config"):
        build(BareForImageClassification)
    with pytest.raises(InputError, match=r"needs pixel_values \[batch, channels, height, width\]"):
        model()()
    assert BareConfig().image_size is None


# The class token in front of a grid


def leading(**options):
    """A `gaussian_2d` behind one position, in float64."""
    return Case("gaussian_2d", "encoder", {"width": 3, **options}).build(torch.float64, num_leading=1)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_position_in_front_of_a_grid(padding, normalize):
    mixer = leading(normalize=normalize)
    given = batch(Case("gaussian_2d", "encoder"), 13, 1, padding, torch.float64)
    y, weights = given.run(mixer, want_weights=True)
    close(given.real(y), given.real(naive(mixer, given.x, given.keep)), 1e-9)
    if padding == "none":
        assert (weights[..., 1:, 0] == 0).all(), "nothing reads it"
        torch.testing.assert_close(weights[0, 0, 0], torch.tensor([0.0] + [1 / 12] * 12, dtype=torch.float64))


def test_neighbours_in_a_grid():
    """The default heads look above, below, left and right; an edge has nothing beyond it."""
    slot = base.Slot(role="encoder", layer=0, hidden_size=16, num_heads=4, max_length=9, max_context_length=9)
    mixer = base.build({"name": "gaussian_2d", "width": 3, "std": 0.3}, slot)
    x = torch.zeros(1, 9, 16)
    mask = batch(Case("gaussian_2d", "encoder"), 9, 1, "none").mask()
    weights = mixer.weights(x, mask, None, None)[0]
    assert weights[:, 4].argmax(-1).tolist() == [1, 7, 3, 5]
    assert weights[2, 3].sum() < 0.1 * weights[2, 4].sum(), "a row does not go on in the one above"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"width": 0}, "needs a width of 1 or more"),
        ({"width": 3, "std": 0.0}, "needs a std above 0 for every head"),
        ({"width": 3, "offsets": []}, "needs at least one offset"),
        ({}, "needs width"),
    ],
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(InputError, match=words):
        base.build({"name": "gaussian_2d", **options}, Case("gaussian_2d", "encoder").slot())


def test_it_is_no_decoder():
    with pytest.raises(InputError, match="'gaussian_2d' cannot be decoder_mixer of layer 0; these can: "):
        base.build({"name": "gaussian_2d", "width": 3}, Case("gaussian_2d", "decoder").slot())
