"""What is folded for inference computes what it did."""

import pytest
import torch

from tests.laws.cases import Case, close, each_layout, model, token_batch


def real_logits(net, inputs):
    with torch.no_grad():
        logits = net(**inputs).logits
    return logits if net.config.is_encoder_decoder else logits[inputs["attention_mask"].bool()]


@each_layout
@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_folding_changes_no_output(layout, encoder_decoder, tmp_path):
    net = model(Case("dot_product", "decoder", config=layout), encoder_decoder).double()
    inputs = token_batch(net, padding="left")
    before = real_logits(net, inputs)
    for _ in range(2):  # what is folded already stays as it is
        net.fold()
        close(real_logits(net, inputs), before, 1e-10)
    net.save_pretrained(tmp_path)
    close(real_logits(type(net).from_pretrained(tmp_path, dtype=torch.float64), inputs), before, 1e-10)


@each_layout
@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_folding_changes_no_generated_text(layout, encoder_decoder):
    net = model(Case("dot_product", "decoder", config=layout), encoder_decoder)
    inputs = token_batch(net, 7, "left")
    inputs.pop("decoder_input_ids", None)
    wanted = dict(max_new_tokens=6, eos_token_id=None, output_logits=True, return_dict_in_generate=True)
    before = net.generate(**inputs, **wanted)
    net.fold()
    after = net.generate(**inputs, **wanted)
    assert torch.equal(after.sequences, before.sequences)
    for found, expected in zip(after.logits, before.logits, strict=True):
        close(found, expected, 1e-5)


@pytest.mark.parametrize("block", ["v_skipinit", "sas", "sas_p"])
def test_what_only_multiplies_weights_is_folded(block):
    net = model(Case("dot_product", "cross"), block=block)
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    net.fold()
    for stack in ("encoder", "decoder"):
        for layer in range(2):
            prefix = f"{stack}.blocks.{layer}"
            gain = before[f"{prefix}.ffn.outer.gain"]
            folded = net.get_parameter(f"{prefix}.ffn.outer.weight")
            close(folded, gain * before[f"{prefix}.ffn.outer.weight"], 1e-6)
