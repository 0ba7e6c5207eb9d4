"""What a config says to blocks, norms and mixers that do not go together: one sentence, with what to write instead."""

import pytest

from bareformers import registry
from bareformers.errors import InputError
from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM
from tests.models.sizes import build, small, tokens

MISTAKES = {
    "no_map": (dict(block="sas", mixer="linear"), "'sas'.* map .*'linear'.* dot_product"),
    "no_map_in_a_layer": (dict(block="sas_p", mixer=["dot_product", "delta"]), "'sas_p'.* map .*'delta'.* random"),
    "no_map_in_a_role": (dict(block="v_skipinit", decoder_mixer="fast_weights"), "'v_skipinit'.* map .*'fast_weights'"),
    "no_norm_in_post_ln": (dict(block="post_ln", norm="none"), "'post_ln'.* norm.* sas"),
    "no_norm_in_pre_ln": (dict(block="pre_ln", norm="none"), "'pre_ln'.* norm.* sas"),
    "no_norm_in_resi_dual": (dict(block="resi_dual", norm="none"), "'resi_dual'.* norm.* sas"),
    "misspelt_norm": (dict(block="sas", norm="nune"), "unknown norm 'nune'; did you mean 'none'"),
    "hopeless_norm": (dict(norm="batch"), "unknown norm 'batch'.* known are layer, none, rms"),
    "misspelt_block": (dict(block="sasp"), "unknown block 'sasp'; did you mean 'sas"),
    "deep_norm_elsewhere": (dict(block={"name": "pre_ln", "deep_norm": True}), "no option 'deep_norm'"),
    "misspelt_option": (dict(block={"name": "sas", "fnn_gain": 0.1}), "no option 'fnn_gain'; did you mean 'ffn_gain'"),
    "gain_of_nothing": (dict(block={"name": "sas_p", "ffn_gain": 0}), "ffn_gain.* above 0"),
    "scale_of_nothing": (dict(block={"name": "resi_dual", "scale": 0}), "scale above 0"),
    "option_of_another_type": (dict(block={"name": "v_skipinit", "centred": "often"}), "'v_skipinit'.*centred"),
    "misspelt_act": (dict(hidden_act="gegelu"), "unknown hidden_act 'gegelu'; did you mean 'geglu'"),
}


@pytest.mark.parametrize("given, words", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_is_answered_in_one_sentence(given, words):
    with pytest.raises(InputError, match=words) as raised:
        small(**given)
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)


def test_a_gated_feed_forward_network_halves_its_width():
    with pytest.raises(InputError, match="geglu.* intermediate_size.* 25") as raised:
        build(BareForCausalLM, hidden_act="geglu", intermediate_size=25)
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)


@pytest.mark.parametrize("block", [name for name, cls in registry.blocks if not cls.norm_free])
def test_every_block_that_needs_its_norms_says_so(block):
    with pytest.raises(InputError, match=f"'{block}'.* norm"):
        small(block=block, norm="none")


@pytest.mark.parametrize("block", [name for name, cls in registry.blocks if cls.needs_map])
def test_a_mixer_that_is_left_out_needs_no_map(block):
    net = build(BareForCausalLM, block=block, mixer=["none", "dot_product"])
    assert net(tokens()).logits.isfinite().all()


@pytest.mark.parametrize("block", [name for name, cls in registry.blocks if cls.needs_map])
def test_cross_mixers_need_no_map(block):
    net = build(BareForSeq2SeqLM, is_encoder_decoder=True, block=block, cross_mixer="linear")
    assert net(tokens(), labels=tokens(seed=1)).logits.isfinite().all()


@pytest.mark.parametrize("hidden_act", ["relu", "geglu"])
@pytest.mark.parametrize("norm", ["rms", "none"])
def test_what_stands_outside_of_blocks_takes_any_of_it(hidden_act, norm):
    """The head for masked tokens has an activation and a norm of its own."""
    net = build(BareForMaskedLM, block="sas_p", hidden_act=hidden_act, norm=norm, embedding_norm=True)
    assert net(tokens()).logits.isfinite().all()
