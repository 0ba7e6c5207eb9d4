"""What a config accepts, and the sentence that it answers otherwise."""

import pytest
import torch

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers.base import MapMixer
from bareformers.models import BareConfig, BareForCausalLM, BareForSeq2SeqLM, BareForSequenceClassification
from bareformers.registry import mixer
from tests.models.sizes import build, small, tokens

MISTAKES = {
    "misspelt_mixer": (dict(mixer="gausian"), "did you mean 'gaussian'"),
    "hopeless_mixer": (dict(mixer="xyz"), "known are .*dot_product"),
    "misspelt_block": (dict(block="pre-ln"), "did you mean 'pre_ln'"),
    "misspelt_norm": (dict(norm="lyer"), "did you mean 'layer'"),
    "misspelt_act": (dict(hidden_act="gelo"), "did you mean 'gelu'"),
    "misspelt_position": (dict(position_embedding="sinusoid"), "did you mean 'sinusoidal'"),
    "heads": (dict(hidden_size=16, num_attention_heads=3), "not a multiple of num_attention_heads 3"),
    "odd_width": (dict(hidden_size=15, num_attention_heads=3), "even hidden_size"),
    "dropout": (dict(dropout=1.0), r"dropout is a probability in \[0, 1\)"),
    "attention_dropout": (dict(attention_dropout=-0.1), "attention_dropout is a probability"),
    "layer_outside": (dict(mixer={"default": "average", "layers": {2: "none"}}), "names layer 2, but there are 2"),
    "layer_below_the_first": (dict(mixer={"default": "average", "layers": {-9: "none"}}), "names layer -9"),
    "layer_named_twice": (dict(mixer={"default": "average", "layers": {-1: "none", 1: "none"}}), "names a layer twice"),
    "length_ratio": (dict(length_ratio=0), "length_ratio is above 0"),
    "per_layer_key": (dict(mixer={"default": "average", "layer": {0: "none"}}), "keys default and layers, not layer"),
    "empty_list": (dict(mixer=[]), "at least one"),
    "no_name": (dict(mixer={"std": 0.5}), "a mapping as in"),
    "number": (dict(mixer=3), "a name or a mapping"),
    "misspelt_option": (dict(mixer={"name": "gaussian", "sdt": 0.5}), "no option 'sdt'; did you mean 'std'"),
    "option_of_none": (dict(mixer={"name": "average", "std": 0.5}), "takes no options"),
    "option_value": (dict(mixer={"name": "gaussian", "std": 0}), "needs a std above 0"),
    "block_option": (dict(block={"name": "pre_ln", "x": 1}), "no option 'x'"),
    "encoder_only_in_its_role": (dict(encoder_mixer="avrage"), "did you mean 'average'"),
    "nested_layer": (dict(mixer={"default": "average", "layers": {1: "averag"}}), "did you mean 'average'"),
}


@pytest.mark.parametrize("given, words", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_is_answered_in_one_sentence(given, words):
    with pytest.raises(InputError, match=words) as raised:
        small(**given)
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(hiden_size=16), "unknown model key 'hiden_size'; did you mean 'hidden_size'"),
        (dict(hidden_size="wide"), "hidden_size"),
        (dict(vocab_size=8000.5), "vocab_size"),
        (dict(use_bias="yes"), "use_bias"),
        (dict(mixer="gausian"), "did you mean 'gaussian'"),
    ],
)
def test_a_recipe_is_held_to_the_fields(given, words):
    with pytest.raises(InputError, match=words) as raised:
        BareConfig.from_recipe(**given)
    assert "\n" not in str(raised.value)


def test_a_whole_number_is_a_float_too():
    assert BareConfig.from_recipe(dropout=0, attention_dropout=0).dropout == 0


@pytest.fixture
def encoder_only():
    @mixer("only_encodes", roles={"encoder"}, paper="none", parameters="2*d*d", state="0")
    class OnlyEncodes(MapMixer):
        """Sees both sides."""

    yield "only_encodes"
    registry.mixers._classes.pop("only_encodes")


def test_a_role_that_a_mixer_cannot_fill(encoder_only):
    with pytest.raises(InputError, match="'only_encodes' cannot be decoder_mixer of layer 0; these can: .*average"):
        BareForCausalLM(small(mixer=encoder_only))
    with pytest.raises(InputError, match="cannot be cross_mixer"):
        BareForSeq2SeqLM(small(cross_mixer=encoder_only, is_encoder_decoder=True))


def test_an_encoder_decoder_says_that_it_is_one():
    with pytest.raises(InputError, match="is_encoder_decoder: true"):
        BareForSeq2SeqLM(small())


def test_unknown_pooling():
    with pytest.raises(InputError, match="unknown classifier_pooling 'max'"):
        BareForSequenceClassification(small(classifier_pooling="max"))


def names(net, stack="decoder", slot="mixer"):
    return [getattr(getattr(block, slot), "name", None) for block in getattr(net, stack).blocks]


def test_a_list_is_tiled_over_depth():
    net = build(BareForCausalLM, mixer=["gaussian", "average", "none"], num_hidden_layers=5)
    assert names(net) == ["gaussian", "average", None, "gaussian", "average"]


def test_default_and_layers():
    spec = {"default": "average", "layers": {0: {"name": "gaussian", "std": 0.5}, "2": "none"}}
    net = build(BareForCausalLM, mixer=spec, num_hidden_layers=4)
    assert names(net) == ["gaussian", "average", None, "average"]
    assert net.decoder.blocks[0].mixer.options.std == 0.5


def test_roles_override():
    net = build(
        BareForSeq2SeqLM,
        is_encoder_decoder=True,
        mixer="average",
        encoder_mixer=["dot_product", "dense"],
        cross_mixer={"default": "none", "layers": {1: "dot_product"}},
        num_encoder_layers=3,
    )
    assert names(net, "encoder") == ["dot_product", "dense", "dot_product"]
    assert names(net) == ["average", "average"]
    assert names(net, slot="cross_mixer") == [None, "dot_product"]
    assert [block.mixer.slot.role for block in net.decoder.blocks] == ["decoder"] * 2


def test_a_list_of_offsets_is_as_good_as_a_tuple():
    net = build(BareForCausalLM, mixer={"name": "gaussian", "offsets": [-3, 0]})
    assert net.decoder.blocks[0].mixer.offsets == [-3, 0]


def test_a_config_survives_json(tmp_path):
    config = small(mixer={"default": "average", "layers": {1: {"name": "gaussian", "offsets": (-2, 0)}}})
    config.save_pretrained(tmp_path)
    loaded = BareConfig.from_pretrained(tmp_path)
    assert [loaded.mixer_spec("decoder", layer)["name"] for layer in range(2)] == ["average", "gaussian"]
    assert names(BareForCausalLM(loaded)) == ["average", "gaussian"]


@pytest.mark.parametrize("mixer_name", ["random", "dense"])
def test_a_fixed_length_ends(mixer_name):
    net = build(BareForCausalLM, mixer=mixer_name, max_position_embeddings=8)
    net(tokens(length=8))
    with pytest.raises(InputError, match="fixed length of 8 positions and was given 9"):
        net(tokens(length=9))
    with pytest.raises(InputError, match="fixed length of 8"):
        net.generate(tokens(length=6), max_new_tokens=6, eos_token_id=None)


def test_learned_positions_end():
    net = build(BareForCausalLM, position_embedding="learned", max_position_embeddings=8)
    net(tokens(length=8))
    with pytest.raises(InputError, match="learned positions end at 8 and the input has 9"):
        net(tokens(length=9))


@pytest.mark.parametrize("mixer_name", ["dot_product", "gaussian", "average"])
def test_without_a_fixed_length_there_is_no_end(mixer_name):
    net = build(BareForCausalLM, mixer=mixer_name, max_position_embeddings=8)
    assert net(tokens(length=20)).logits.isfinite().all()


def test_padding_between_tokens():
    net = build(BareForCausalLM)
    mask = torch.tensor([[1, 1, 0, 1]])
    with pytest.raises(InputError, match="padding between tokens"):
        net(tokens(1, 4), attention_mask=mask)
    encoder_decoder = build(BareForSeq2SeqLM, is_encoder_decoder=True)
    with pytest.raises(InputError, match="padding between tokens"):
        encoder_decoder(tokens(1, 4), attention_mask=mask, labels=tokens(1, 3))


def test_a_mask_of_another_length():
    with pytest.raises(InputError, match=r"shape \[3, 5\], but \[batch, 8\] is needed"):
        build(BareForCausalLM)(tokens(), attention_mask=torch.ones(3, 5))


def test_no_input_at_all():
    with pytest.raises(InputError, match="input_ids or inputs_embeds"):
        build(BareForCausalLM)()
    with pytest.raises(InputError, match="decoder_input_ids or labels"):
        build(BareForSeq2SeqLM, is_encoder_decoder=True)(tokens())
