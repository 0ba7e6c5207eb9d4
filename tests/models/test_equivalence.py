"""With dot product and copied weights, the two classic blocks are Marian, BERT and GPT-2."""

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, MarianConfig, MarianMTModel

from bareformers.models import BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM
from tests.models.sizes import build, right_padded, tokens

TOLERANCE = 1e-5


def random_biases(net: nn.Module) -> nn.Module:
    """Noise on every parameter, so that no bias stays 0 and no norm stays 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def copy(target: nn.Module, source: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def copy_linear(target: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    target.load_state_dict({"weight": weight, "bias": bias})


def copy_attention(mixer, query, key, value, output) -> None:
    for target, source in zip(
        (mixer.query, mixer.key, mixer.value, mixer.output), (query, key, value, output), strict=True
    ):
        copy(target, source)


def same(ours: torch.Tensor, theirs: torch.Tensor, keep: torch.Tensor) -> None:
    keep = keep.bool()
    assert (ours[keep] - theirs[keep]).abs().max() < TOLERANCE


def test_marian():
    theirs = random_biases(
        MarianMTModel(
            MarianConfig(
                vocab_size=23,
                d_model=16,
                encoder_layers=2,
                decoder_layers=3,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=24,
                decoder_ffn_dim=24,
                max_position_embeddings=24,
                activation_function="swish",
                scale_embedding=True,
                pad_token_id=0,
                decoder_start_token_id=1,
                forced_eos_token_id=None,
                attn_implementation="eager",
            )
        )
    )
    ours = build(
        BareForSeq2SeqLM,
        is_encoder_decoder=True,
        block="post_ln",
        hidden_act="swish",
        num_encoder_layers=2,
        num_hidden_layers=3,
    )
    # Its sinusoids are parameters that do not train, and noise on them is no sinusoid.
    fresh = MarianMTModel(theirs.config)
    for name in ("encoder", "decoder"):
        copy(getattr(theirs.model, name).embed_positions, getattr(fresh.model, name).embed_positions)
    copy(ours.decoder.embeddings.tokens, theirs.model.shared)
    for side in ("encoder", "decoder"):
        for block, layer in zip(getattr(ours, side).blocks, getattr(theirs.model, side).layers, strict=True):
            pairs = [(block.mixer, layer.self_attn)]
            if side == "decoder":
                pairs.append((block.cross_mixer, layer.encoder_attn))
                copy(block.cross_norm, layer.encoder_attn_layer_norm)
            for mixer, attention in pairs:
                copy_attention(mixer, attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
            copy(block.mixer_norm, layer.self_attn_layer_norm)
            copy(block.ffn.inner, layer.fc1)
            copy(block.ffn.outer, layer.fc2)
            copy(block.ffn_norm, layer.final_layer_norm)
    source, target = tokens(3, 9), tokens(3, 7, seed=1)
    inputs = dict(
        input_ids=source,
        attention_mask=right_padded(9, 9, 6, 2),
        decoder_input_ids=target,
        decoder_attention_mask=right_padded(7, 7, 3, 5),
    )
    same(ours(**inputs).logits, theirs(**inputs).logits, inputs["decoder_attention_mask"])


def test_bert():
    theirs = random_biases(
        BertForMaskedLM(
            BertConfig(
                vocab_size=23,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                max_position_embeddings=24,
                pad_token_id=0,
                attn_implementation="eager",
            )
        )
    )
    ours = build(
        BareForMaskedLM,
        block="post_ln",
        hidden_act="gelu",
        norm_eps=1e-12,
        position_embedding="learned",
        embedding_norm=True,
        scale_embedding=False,
    )
    embeddings, head = theirs.bert.embeddings, theirs.cls.predictions
    copy(ours.encoder.embeddings.tokens, embeddings.word_embeddings)
    with torch.no_grad():
        folded = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        ours.encoder.embeddings.positions.weight.copy_(folded)
    copy(ours.encoder.embeddings.norm, embeddings.LayerNorm)
    for block, layer in zip(ours.encoder.blocks, theirs.bert.encoder.layer, strict=True):
        attention = layer.attention
        copy_attention(
            block.mixer, attention.self.query, attention.self.key, attention.self.value, attention.output.dense
        )
        copy(block.mixer_norm, attention.output.LayerNorm)
        copy(block.ffn.inner, layer.intermediate.dense)
        copy(block.ffn.outer, layer.output.dense)
        copy(block.ffn_norm, layer.output.LayerNorm)
    copy(ours.lm_head.transform, head.transform.dense)
    copy(ours.lm_head.norm, head.transform.LayerNorm)
    copy_linear(ours.lm_head.decoder, head.decoder.weight, head.decoder.bias)
    ids, right = tokens(3, 9), right_padded(9, 9, 6, 1)
    same(ours(ids, right).logits, theirs(ids, right).logits, right)
    left = right.flip(1)
    positions = (left.cumsum(1) - 1).clamp_min(0)
    same(ours(ids, left).logits, theirs(ids, left, position_ids=positions).logits, left)


def test_gpt2():
    theirs = random_biases(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=23,
                n_embd=16,
                n_layer=2,
                n_head=2,
                n_inner=24,
                n_positions=24,
                bos_token_id=1,
                eos_token_id=2,
                attn_implementation="eager",
            )
        )
    )
    ours = build(
        BareForCausalLM,
        block="pre_ln",
        hidden_act="gelu_new",
        position_embedding="learned",
        scale_embedding=False,
    )
    body = theirs.transformer
    copy(ours.decoder.embeddings.tokens, body.wte)
    copy(ours.decoder.embeddings.positions, body.wpe)
    for block, layer in zip(ours.decoder.blocks, body.h, strict=True):
        fused = zip(layer.attn.c_attn.weight.T.chunk(3), layer.attn.c_attn.bias.chunk(3), strict=True)
        for linear, (weight, bias) in zip((block.mixer.query, block.mixer.key, block.mixer.value), fused, strict=True):
            copy_linear(linear, weight, bias)
        copy_linear(block.mixer.output, layer.attn.c_proj.weight.T, layer.attn.c_proj.bias)
        copy_linear(block.ffn.inner, layer.mlp.c_fc.weight.T, layer.mlp.c_fc.bias)
        copy_linear(block.ffn.outer, layer.mlp.c_proj.weight.T, layer.mlp.c_proj.bias)
        copy(block.mixer_norm, layer.ln_1)
        copy(block.ffn_norm, layer.ln_2)
    copy(ours.decoder.blocks[-1].final_norm, body.ln_f)
    ids, right = tokens(3, 9), right_padded(9, 9, 6, 1)
    same(ours(ids, right).logits, theirs(ids, attention_mask=right).logits, right)
    left = right.flip(1)
    positions = (left.cumsum(1) - 1).clamp_min(0)
    same(ours(ids, left).logits, theirs(ids, attention_mask=left, position_ids=positions).logits, left)
    generated = dict(attention_mask=left, max_new_tokens=6, num_beams=2, pad_token_id=0)
    assert torch.equal(ours.generate(ids, **generated), theirs.generate(ids, **generated))
