"""Mixers in the place of the attention of tiny models of `transformers`, all families, and of ours."""

import copy
import json

import pytest
import torch
import transformers as hf
from torch import nn

from bareformers.errors import InputError
from bareformers.mixers.state import LayerState
from bareformers.models import BareConfig, BareForCausalLM, BareForMaskedLM, BareForSeq2SeqLM
from bareformers.paring.families import FAMILIES
from bareformers.paring.surgery import load, put_back, swap

SIZES = dict(vocab_size=97, pad_token_id=0, bos_token_id=1, eos_token_id=2)
BERT = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=40,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    **SIZES,
)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=40, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SIZES)
LLAMA = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    **SIZES,
)
BART = dict(
    d_model=32,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=2,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    max_position_embeddings=40,
    dropout=0.0,
    decoder_start_token_id=1,
    forced_eos_token_id=None,
    **SIZES,
)
VIT = dict(
    image_size=8,
    patch_size=4,
    num_channels=1,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    qkv_bias=False,
    num_labels=5,
)
DISTILBERT = dict(
    dim=32,
    n_layers=2,
    n_heads=4,
    hidden_dim=48,
    max_position_embeddings=40,
    dropout=0.0,
    attention_dropout=0.0,
    **SIZES,
)
CROSS = dict(is_decoder=True, add_cross_attention=True)
MODELS = {
    "bert": (hf.BertForMaskedLM, hf.BertConfig, BERT),
    "roberta": (hf.RobertaForMaskedLM, hf.RobertaConfig, BERT),
    "distilbert": (hf.DistilBertForMaskedLM, hf.DistilBertConfig, DISTILBERT),
    "vit": (hf.ViTForImageClassification, hf.ViTConfig, VIT),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, LLAMA),
    "marian": (hf.MarianMTModel, hf.MarianConfig, BART),
    "bart": (hf.BartForConditionalGeneration, hf.BartConfig, BART),
    "bert-decoder": (hf.BertLMHeadModel, hf.BertConfig, BERT | CROSS),
    "gpt2-reading": (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2 | {"add_cross_attention": True}),
    "marian-decoder": (hf.MarianForCausalLM, hf.MarianConfig, BART | {"encoder_layers": 3}),
}
ENCODERS = ["bert", "roberta", "distilbert", "vit", "marian", "bart"]
SEQ2SEQ = ["marian", "bart"]
READERS = ["bert-decoder", "gpt2-reading"]
GENERATIVE = ["gpt2", "llama", "qwen2", "bert-decoder", "marian-decoder"]
PLACES = [
    *((name, "encoder") for name in ENCODERS),
    *((name, "decoder") for name in [*GENERATIVE, *SEQ2SEQ]),
    *((name, "cross") for name in [*SEQ2SEQ, *READERS]),
]
everywhere = pytest.mark.parametrize("name, role", PLACES, ids=map("-".join, PLACES))
MIXERS = ["gaussian", "delta", "linear", "random", "dense", "alr"]
"""Those that decode in all the ways there are: with a window, a memory, a growing state, sums."""


def tiny(name, attention="sdpa", **changes):
    """A random model whose every tensor matters."""
    cls, config, sizes = MODELS[name]
    torch.manual_seed(0)
    model = cls._from_config(config(**{**sizes, **changes}), attn_implementation=attention).eval()
    for key, parameter in model.named_parameters():
        if "embed_positions" in key:
            continue  # sinusoids of Marian, which no file holds
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.25)
        else:
            nn.init.normal_(parameter, parameter.mean().item(), std=0.1)
    return model


def disturb(model):
    """Move the tensors that start at nothing or alike."""
    for key, parameter in model.named_parameters():
        if "embed_positions" not in key:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def padded(shape, padding):
    mask = torch.ones(shape, dtype=torch.long)
    if padding == "right":
        mask[0, -3:] = 0
    elif padding == "left":
        mask[0, :3] = 0
    return mask


def inputs(name, padding="none"):
    """What a forward pass takes, and which of its outputs are of real positions."""
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (2, 9))
    mask = padded(ids.shape, padding)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 1, 8, 8)}, ...
    given = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    if name in SEQ2SEQ:
        target = torch.randint(3, 97, (2, 7))
        shown = padded(target.shape, padding)
        return {**given, "decoder_input_ids": target, "decoder_attention_mask": shown}, shown.bool()
    if name in READERS:
        given |= {"encoder_hidden_states": torch.randn(2, 11, 32), "encoder_attention_mask": padded((2, 11), "right")}
    return given, mask.bool()


def logits(model, given):
    return model(**given).logits


def same(actual, expected, within=1e-5):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= within * max(1.0, expected.abs().max().item())


def decoded(model, name, chunks, padding="none"):
    """The logits of a text that is read in chunks, with a state, one chunk after the other."""
    given, _ = inputs(name, padding)
    kind = "decoder_" if name in SEQ2SEQ else ""
    ids, mask = given.pop(f"{kind}input_ids"), given.pop(f"{kind}attention_mask")
    if name in SEQ2SEQ:
        given = {"attention_mask": given["attention_mask"], "encoder_outputs": model.get_encoder()(**given)}
    cache, found, start = None, [], 0
    for stop in [*chunks, ids.shape[1]]:
        now = {f"{kind}input_ids": ids[:, start:stop], f"{kind}attention_mask": mask[:, :stop]}
        out = model(**given, **now, past_key_values=cache, use_cache=True)
        found.append(out.logits)
        cache, start = out.past_key_values, stop
    return torch.cat(found, 1), cache


def generated(model, name, padding="left", **settings):
    given, _ = inputs(name, padding)
    given = {key: given[key] for key in ("input_ids", "attention_mask")}
    usual = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True)
    found = model.generate(**given, **{**usual, **settings})
    return found.sequences, torch.stack(found.logits)


@everywhere
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dot_product_in_place_of_attention_changes_nothing(name, role, attention):
    model = tiny(name, attention)
    before = copy.deepcopy(model)
    replaced = swap(model, "dot_product", role=role)
    assert len(replaced) == len({each.layer for each in replaced}) > 1
    for padding in ("none", "right", "left"):
        given, real = inputs(name, padding)
        same(logits(model, given)[real], logits(before, given)[real])
    gradients = []
    for each in (before.train(), model.train()):
        logits(each, given)[real].square().mean().backward()
        gradients.append({key: one.grad for key, one in each.named_parameters() if one.grad is not None})
    shared = gradients[0].keys() & gradients[1].keys()
    assert len(shared) > 10
    for key in shared:
        same(gradients[1][key], gradients[0][key])


@pytest.mark.parametrize("name, role", [place for place in PLACES if place[1] != "encoder"], ids=str)
def test_generation_is_that_of_the_attention_it_was(name, role):
    if name in READERS and role == "cross":
        pytest.skip("`generate` of these models hands no context on")
    model = tiny(name)
    before = copy.deepcopy(model)
    swap(model, "dot_product", role=role)
    for settings in ({}, {"num_beams": 3}, {"use_cache": False}):
        tokens, scores = generated(model, name, **settings)
        wanted, expected = generated(before, name, **settings)
        assert torch.equal(tokens, wanted)
        same(scores, expected)


@pytest.mark.parametrize("mixer", [*MIXERS, "aslr"])
@pytest.mark.parametrize("name, depth", [("gpt2", 2), ("llama", 3), ("marian", 3)])
def test_decoding_with_a_state_is_reading_the_whole(name, depth, mixer):
    for layers in (list(range(depth)), [0], [depth - 1]):
        model = tiny(name)
        swap(model, mixer, layers, "decoder")
        disturb(model)
        for padding in ("left", "right"):
            given, real = inputs(name, padding)
            found, cache = decoded(model, name, (3, 4, 6), padding)
            same(found[real], logits(model, given)[real])
        cache = getattr(cache, "self_attention_cache", cache)
        assert [isinstance(layer, LayerState) for layer in cache.layers] == [each in layers for each in range(depth)]
        assert {cache.get_seq_length(layer) for layer in range(depth)} == {real.shape[1]}


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("name", [*SEQ2SEQ, *READERS])
def test_a_context_is_read_once_and_remembered(name, mixer):
    model = tiny(name)
    swap(model, mixer, [0, 1], "cross")
    swap(model, "delta", 1, "decoder")
    disturb(model)
    given, real = inputs(name, "right")
    found, cache = decoded(model, name, (3, 4, 6), "right")
    same(found[real], logits(model, given)[real])
    states = cache.cross_attention_cache.layers
    assert [isinstance(layer, LayerState) for layer in states[:2]] == [True, True]


@pytest.mark.parametrize("mixer", ["gaussian", "delta", "alr"])
@pytest.mark.parametrize("name", ["llama", "bart"])
def test_generation_with_a_state_is_generation_without(name, mixer):
    model = tiny(name)
    swap(model, mixer, role="decoder")
    swap(model, mixer, 0, role="cross") if name == "bart" else None
    disturb(model)
    for settings in ({}, {"num_beams": 3}):
        tokens, scores = generated(model, name, **settings)
        again, expected = generated(model, name, use_cache=False, **settings)
        assert torch.equal(tokens, again)
        same(scores, expected)
    torch.manual_seed(0)
    tokens, _ = generated(model, name, do_sample=True)
    torch.manual_seed(0)
    assert torch.equal(tokens, generated(model, name, do_sample=True, use_cache=False)[0])


def test_projections_start_as_copies():
    model = tiny("gpt2")
    attention = model.transformer.h[0].attn
    query, key, value = attention.c_attn.weight.T.chunk(3)
    swap(model, "delta", 0)
    mixer = model.transformer.h[0].attn.mixer
    assert torch.equal(mixer.query.weight, query) and torch.equal(mixer.key.weight, key)
    assert torch.equal(mixer.value.weight, value) and torch.equal(mixer.output.weight, attention.c_proj.weight.T)
    assert torch.equal(mixer.value.bias, attention.c_attn.bias[64:])
    model = tiny("qwen2")
    attention = model.model.layers[0].self_attn
    swap(model, {"name": "mixture", "of": ["random", "dot_product"]}, 0)
    mixer = model.model.layers[0].self_attn.mixer
    assert torch.equal(mixer.value.weight.view(4, 8, 32), attention.v_proj.weight.view(2, 8, 32)[[0, 0, 1, 1]])
    assert torch.equal(mixer.value.bias.view(4, 8), attention.v_proj.bias.view(2, 8)[[0, 0, 1, 1]])
    assert torch.equal(mixer.output.weight, attention.o_proj.weight)
    assert attention.o_proj.bias is None and not mixer.output.bias.any()
    copies = dict(mixer.named_parameters())
    (query,) = (copies[key] for key in copies if key.endswith("query.weight"))
    assert torch.equal(query, attention.q_proj.weight)


def test_what_is_new_follows_the_generator_and_the_model():
    model = tiny("llama").to(torch.bfloat16).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(3)
    swap(model, "alr", 0)
    first = model.model.layers[0].self_attn
    torch.manual_seed(3)
    swap(model, "alr", 1)
    second = model.model.layers[1].self_attn
    assert first.training and first.mixer.first.weight.dtype == torch.bfloat16
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert torch.equal(first.mixer.first.weight, second.mixer.first.weight)
    std = first.mixer.first.weight.float().std().item()
    assert std == pytest.approx((40 * 32) ** -0.5, rel=0.05)


STREAMS = {  # a layer, its attention, and whether a norm comes before it
    "bert": ("bert.encoder.layer.0", "attention.self", False),
    "roberta": ("roberta.encoder.layer.0", "attention.self", False),
    "distilbert": ("distilbert.transformer.layer.0", "attention", False),
    "vit": ("vit.layers.0", "attention", True),
    "marian": ("model.encoder.layers.0", "self_attn", False),
    "bart": ("model.encoder.layers.0", "self_attn", False),
}


def captured(model, path, given):
    """What goes into a module and what comes out of it."""
    seen = {}

    def keep(module, args, kwargs, out):
        first = args[0] if args else kwargs["hidden_states"]
        seen["in"], seen["out"] = first, out[0] if isinstance(out, tuple) else out

    handle = model.get_submodule(path).register_forward_hook(keep, with_kwargs=True)
    logits(model, given)
    handle.remove()
    return seen["in"], seen["out"]


@pytest.mark.parametrize("padding", ["none", "right"])
@pytest.mark.parametrize("name", ENCODERS)
def test_networks_take_the_place_of_more_than_attention(name, padding):
    """`alrr` writes the stream that the feed-forward network reads, `elr` the one that the next layer reads."""
    from bareformers.mixers.masks import Mask

    path, attention, norm_first = STREAMS[name]
    given, real = inputs(name, padding)
    keep = given["attention_mask"] if name != "vit" else None

    def expected(mixer, x):
        return mixer(x, Mask(x.shape[1], x.shape[1], causal=False, device=x.device, keep=keep))[0]

    shown = ... if keep is None else keep.bool()
    model = tiny(name)
    swap(model, "elr", 0, role="encoder")
    x, y = captured(disturb(model), path, given)
    same(y[shown], expected(model.get_submodule(path).mixer, x)[shown])

    model = tiny(name)
    swap(model, "alrr", 0, role="encoder")
    disturb(model)
    layer = model.get_submodule(path)
    x, y = captured(model, path, given)
    stream = expected(layer.get_submodule(f"{attention}.mixer"), x)
    rest = {
        "bert": lambda: layer.feed_forward_chunk(stream),
        "roberta": lambda: layer.feed_forward_chunk(stream),
        "distilbert": lambda: layer.output_layer_norm(layer.ffn(stream) + stream),
        "vit": lambda: stream + layer.mlp(layer.layernorm_after(stream)) if norm_first else None,
    }.get(name, lambda: layer.final_layer_norm(stream + layer.fc2(layer.activation_fn(layer.fc1(stream)))))()
    same(y[shown], rest[shown])


@everywhere
def test_a_saved_model_is_loaded_with_its_mixers(name, role, tmp_path):
    model = tiny(name)
    swap(model, {"name": "gaussian", "std": 0.7}, 0, role)
    swap(model, "random" if role == "cross" else {"name": "alr", "width": 7}, 1, role, max_length=20)
    if name == "bert":
        swap(model, "elr", 1)
    if name == "vit":
        swap(model, "alrr", 1)
    disturb(model).save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is type(model) and not again.training
    assert again.config.bareformers == model.config.bareformers
    assert {key: tensor.shape for key, tensor in again.state_dict().items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items()
    }
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    given, _ = inputs(name, "right")
    assert torch.equal(logits(again, given), logits(model, given))
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again"), given), logits(model, given))


def test_a_config_tells_the_last_word_of_each_place():
    model = tiny("llama")
    swap(model, "gaussian")
    swap(model, {"name": "alr", "width": 7}, [1], max_length=20)
    swap(model, "dot_product", 2)
    assert json.loads(json.dumps(model.config.bareformers)) == {
        "mixers": [
            {"role": "decoder", "layer": 0, "mixer": {"name": "gaussian"}, "max_length": 40},
            {"role": "decoder", "layer": 1, "mixer": {"name": "alr", "width": 7}, "max_length": 20},
            {
                "role": "decoder",
                "layer": 2,
                "mixer": {"name": "dot_product", "positions": "rotary", "rotary_base": 500.0},
                "max_length": 40,
            },
        ]
    }


def modules(model):
    return {path: id(module) for path, module in model.named_modules()}


@everywhere
def test_put_back_leaves_no_trace(name, role):
    model = tiny(name)
    there, config, given = modules(model), model.config.to_dict(), inputs(name)[0]
    before = logits(model, given)
    first = swap(model, "gaussian", role=role)
    middle, told = modules(model), model.config.to_dict()
    second = swap(model, "dot_product", [1], role)
    model.train().eval()
    put_back(model, second)
    assert modules(model) == middle and model.config.to_dict() == told
    put_back(model, first[0])
    put_back(model, first[1:])
    assert modules(model) == there and model.config.to_dict() == config
    assert torch.equal(logits(model, given), before)


def test_put_back_gives_the_mode_of_the_model():
    model = tiny("gpt2")
    replaced = swap(model, "gaussian")
    model.train()
    put_back(model, replaced)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["bert", "vit", "marian"])
def test_put_back_of_networks_that_stand_for_more(name):
    model = tiny(name)
    there, before = modules(model), logits(model, inputs(name)[0])
    replaced = [*swap(model, "alrr", role="encoder"), *swap(model, "elr", 0, "encoder")]
    with pytest.raises(InputError, match="put back first what came after"):
        put_back(model, replaced[0])
    put_back(model, replaced)
    assert modules(model) == there and not hasattr(model.config, "bareformers")
    assert torch.equal(logits(model, inputs(name)[0]), before)


def test_a_swapped_model_is_copied_cast_and_saved_by_parts():
    model = tiny("llama", tie_word_embeddings=True)
    swap(model, "delta", 0)
    swap(model, "gaussian", 1)
    given, real = inputs("llama", "right")
    expected = logits(model, given)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, given), expected)
    attentions = [layer.self_attn for layer in twin.model.layers]
    assert attentions[0].masks is attentions[1].masks is not model.model.layers[0].self_attn.masks
    assert model.lm_head.weight is model.model.embed_tokens.weight
    other = tiny("llama", tie_word_embeddings=True)
    swap(other, "delta", 0)
    swap(other, "gaussian", 1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other, given), expected)
    same(logits(twin.to(torch.bfloat16), given)[real].float(), expected[real], 0.1)


def test_gradient_checkpointing_changes_no_gradient():
    model = tiny("llama").train()
    swap(model, "delta", 0)
    swap(model, {"name": "alr", "width": 7}, 1)
    given, real = inputs("llama", "right")
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        logits(model, given)[real].square().mean().backward()
        gradients.append({key: one.grad.clone() for key, one in model.named_parameters()})
    for key, gradient in gradients[0].items():
        same(gradients[1][key], gradient, 1e-6)


@pytest.mark.parametrize(
    "name, role, path",
    [
        ("bert", "encoder", "bert.encoder.layer.0.attention.self"),
        ("gpt2", "decoder", "transformer.h.0.attn"),
        ("bart", "cross", "model.decoder.layers.0.encoder_attn"),
    ],
)
def test_the_trainer_moves_what_was_put_in(name, role, path, tmp_path):
    model = tiny(name)
    swap(model, "gaussian", 0, role)
    weight = model.get_submodule(path).mixer.value.weight
    before = weight.detach().clone()
    rows = [{"input_ids": torch.arange(3, 9), "labels": torch.arange(3, 9)} for _ in range(4)]
    settings = hf.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    hf.Trainer(model, settings, train_dataset=rows).train()
    assert (weight - before).abs().max() > 1e-6
    assert torch.isfinite(weight).all()


def test_masks_are_read_once_a_pass(monkeypatch):
    from bareformers.paring import adapter

    model, calls, read = tiny("bart"), [], adapter.read_mask
    for role in ("encoder", "decoder", "cross"):
        swap(model, "gaussian", role=role)
    monkeypatch.setattr(adapter, "read_mask", lambda role, *rest: calls.append(role) or read(role, *rest))
    given, real = inputs("bart", "right")
    expected = logits(model, given)
    assert sorted(calls) == ["cross", "decoder", "encoder"]
    with torch.inference_mode():
        same(logits(model, given)[real], expected[real], 1e-6)
    logits(model, given)[real].sum().backward()


def test_a_mask_of_four_dimensions_counts_as_one_of_two():
    model = tiny("llama")
    swap(model, "gaussian")
    given, real = inputs("llama", "left")
    expected = logits(model, given)
    seen = given["attention_mask"].bool()[:, None, None] & torch.ones(9, 9, dtype=torch.bool).tril()
    for mask in (seen, torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)):
        same(logits(model, {**given, "attention_mask": mask})[real], expected[real])
    seen[1, :, 5:, :5] = False  # two texts in one row
    with pytest.raises(InputError, match="hides more than padding and the future"):
        logits(model, {**given, "attention_mask": seen})
    with pytest.raises(InputError, match=r"is \[2, 4\] where a mixer reads 9 positions"):
        logits(model, {**given, "attention_mask": seen[..., :4]})


def test_caches_that_hold_no_state_of_ours():
    model = tiny("llama")
    given, _ = inputs("llama")
    filled = model(**given, use_cache=True).past_key_values
    swap(model, "gaussian", 1)
    more = {"input_ids": given["input_ids"][:, :1], "past_key_values": filled}
    with pytest.raises(InputError, match="layer 1 of the cache holds keys and values .* begin with an empty cache"):
        model(**more)
    with pytest.raises(InputError, match="layer 1 of the cache is a StaticLayer.*cache_implementation='dynamic'"):
        model.generate(**given, cache_implementation="static", max_new_tokens=2)
    model = tiny("marian")
    swap(model, "gaussian", 0, "cross")
    given, _ = inputs("marian")
    with pytest.raises(InputError, match="not DynamicCache; pass an EncoderDecoderCache"):
        model(**given, past_key_values=hf.DynamicCache(), use_cache=True)


def test_an_encoder_keeps_no_state():
    model = tiny("bert")
    swap(model, "gaussian")
    given, _ = inputs("bert")
    cache = hf.DynamicCache()
    model.bert.encoder.layer[0].attention.self(
        hidden_states=torch.randn(2, 9, 32), attention_mask=None, past_key_values=cache
    )
    assert len(cache) == 0


@pytest.mark.parametrize(
    "cls, path",
    [
        (hf.LlamaModel, "layers.0.self_attn"),
        (hf.LlamaForSequenceClassification, "model.layers.0.self_attn"),
        (hf.BertModel, "encoder.layer.0.attention.self"),
        (hf.BertForTokenClassification, "bert.encoder.layer.0.attention.self"),
    ],
)
def test_base_models_and_other_heads(cls, path):
    torch.manual_seed(0)
    model = cls(cls.config_class(**(LLAMA if "Llama" in cls.__name__ else BERT))).eval()
    ids = inputs("bert")[0]["input_ids"]
    before = model(ids)[0]
    assert next(iter(swap(model, "dot_product")[0].modules)) == path
    same(model(ids)[0], before)


def test_a_model_inside_of_what_peft_puts_around_it():
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    before = logits(model, inputs("llama")[0])
    around = peft.get_peft_model(model, peft.LoraConfig(target_modules=["up_proj"]))
    replaced = swap(around, "dot_product")
    assert list(replaced[0].modules) == ["model.layers.0.self_attn"]
    same(logits(around, inputs("llama")[0]), before)
    around = peft.get_peft_model(tiny("llama"), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InputError, match="q_proj of layer 0 .* merge into it what other libraries have put around it"):
        swap(around, "gaussian")


def test_layers_beyond_the_window_of_others_are_free():
    model = tiny("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    before, (given, real) = copy.deepcopy(model), inputs("qwen2", "right")
    swap(model, "dot_product", 0)
    same(logits(model, given)[real], logits(before, given)[real])
    same(decoded(model, "qwen2", (3, 4, 6), "right")[0][real], logits(before, given)[real])
    with pytest.raises(InputError, match="layer 1 .* sliding_attention.* write use_sliding_window: false"):
        swap(model, "gaussian", 1)


MISTAKES = [
    # model, changes of its config, arguments, words
    ("llama", {}, ("gausian",), "unknown mixer 'gausian'; did you mean 'gaussian'"),
    ("llama", {}, ({"name": "gaussian", "sdt": 1},), "no option 'sdt'; did you mean 'std'"),
    ("llama", {}, (3,), "a mixer is a name, or a mapping"),
    ("llama", {}, ("none",), "none leaves nothing .* write average"),
    ("llama", {}, ("alrr",), "'alrr' cannot be decoder_mixer of layer 0; these can: "),
    ("bart", {}, ("aslr", None, "cross"), "'aslr' cannot be cross_mixer of layer 0; these can: "),
    ("llama", {}, ("gaussian", -1), "no layer -1 in the role decoder; write numbers from 0 to 2"),
    ("llama", {}, ("gaussian", [0, 3]), "no layer 3 in the role decoder; write numbers from 0 to 2"),
    ("llama", {}, ("gaussian", ["0"]), "no layer '0' in the role decoder"),
    ("llama", {}, ("gaussian", None, "encoder"), "no attention in the role 'encoder'; write role='decoder'"),
    ("bart", {}, ("gaussian",), "attention in several roles; write role='encoder' or 'decoder' or 'cross'"),
    ("llama", {}, ("gaussian", None, None, 0), "max_length is at least 1, not 0"),
    ("llama", {"head_dim": 4}, ("gaussian",), "q_proj of layer 0 .* maps 32 numbers to 16.* 4 heads .* hidden_size 32"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        ("dot_product",),
        'rotary positions of another kind, .*"rope_type": "linear".* write its positions',
    ),
    ("gpt2", {"scale_attn_weights": False}, ("dot_product",), "scale_attn_weights: False, and dot_product has not"),
    (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        ("dot_product",),
        "scale_attn_by_inverse_layer_idx: True, and dot_product has not; take another mixer",
    ),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
        ("dot_product",),
        "sliding_attention, and a mixer has no window; write use_sliding_window: false",
    ),
]


@pytest.mark.parametrize("name, changes, args, words", MISTAKES, ids=[row[3][:40] for row in MISTAKES])
def test_a_mistake_is_answered_in_one_sentence_and_changes_nothing(name, changes, args, words):
    model = tiny(name, **changes)
    there, config = modules(model), model.config.to_dict()
    with pytest.raises(InputError, match=words) as raised:
        swap(model, *args)
    assert "\n" not in str(raised.value) and ". " not in str(raised.value).replace("].", "")
    assert modules(model) == there and model.config.to_dict() == config


def test_a_mistake_in_the_last_layer_leaves_the_first():
    model = tiny("bert")
    model.bert.encoder.layer[1].attention.self.value = nn.Identity()
    there = modules(model)
    with pytest.raises(InputError, match="attention.self.value of layer 1 .* is Identity and no plain linear map"):
        swap(model, "gaussian")
    del model.bert.encoder.layer[1].attention.self
    there = modules(model)
    with pytest.raises(InputError, match=r"layer 1 of BertForMaskedLM \(encoder\) has no attention"):
        swap(model, "gaussian")
    assert modules(model) == there and not hasattr(model.config, "bareformers")


def test_what_stands_for_more_is_put_back_first():
    model = tiny("bert")
    swap(model, "elr", 0)
    swap(model, "alrr", 1)
    swap(model, {"name": "elr", "width": 3}, [0, 1])
    for mixer in ("gaussian", "alrr"):
        with pytest.raises(InputError, match=f"elr stands for more .* put it back before {mixer} comes"):
            swap(model, mixer, 0)


def test_models_that_nobody_knows():
    model = hf.OPTForCausalLM(
        hf.OPTConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, ffn_dim=8, num_attention_heads=2)
    )
    with pytest.raises(InputError, match="insides of a opt, but of bart, bert, .* add an entry to FAMILIES in"):
        swap(model, "gaussian")
    with pytest.raises(InputError, match="models of transformers, not into Linear"):
        swap(nn.Linear(2, 2), "gaussian")


def test_a_family_is_one_entry(monkeypatch):
    """OPT, as somebody would add it."""
    from bareformers.paring.families import Q_K_V, Family, Site

    site = Site("decoder.layers", "self_attn", Q_K_V, "self_attn.out_proj", "self_attn_layer_norm")
    monkeypatch.setitem(FAMILIES, "opt", Family((site,)))
    sizes = dict(hidden_size=32, num_hidden_layers=2, ffn_dim=48, num_attention_heads=4, max_position_embeddings=40)
    torch.manual_seed(0)
    model = hf.OPTForCausalLM(hf.OPTConfig(word_embed_proj_dim=32, **sizes, **SIZES)).eval()
    given, real = inputs("opt", "left")
    before = logits(model, given)
    swap(model, "dot_product")
    same(logits(model, given)[real], before[real])
    same(decoded(model, "opt", (3, 4, 6), "left")[0][real], before[real])


def test_a_text_longer_than_a_network():
    model = tiny("llama")
    swap(model, "alr", 0, max_length=8)
    with pytest.raises(InputError, match="'alr' has a fixed length of 8 positions and was given 9"):
        logits(model, inputs("llama")[0])


@pytest.fixture
def saved(tmp_path):
    model = tiny("llama")
    swap(model, "gaussian", 0)
    model.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_loading_without_a_swap_is_plain_loading(tmp_path):
    model = tiny("gpt2")
    model.save_pretrained(tmp_path)
    again = load(tmp_path, dtype=torch.bfloat16)
    assert type(again) is hf.GPT2LMHeadModel and again.dtype == torch.bfloat16
    given, _ = inputs("gpt2")
    assert torch.equal(logits(load(str(tmp_path)), given), logits(model, given))


def test_pickles_and_foreign_code_are_refused(saved):
    with pytest.raises(InputError, match="is never run; leave trust_remote_code out"):
        load(saved, trust_remote_code=True)
    with pytest.raises(InputError, match="leave use_safetensors out"):
        load(saved, use_safetensors=False)
    with pytest.raises(InputError, match="GGUF files hold no mixers.* leave gguf_file out"):
        load(saved, gguf_file="model.gguf")
    (saved / "model.safetensors").unlink()
    torch.save(tiny("llama").state_dict(), saved / "pytorch_model.bin")
    with pytest.raises(InputError, match="are pickles, which can run code; save the model as safetensors"):
        load(saved)


def test_the_code_beside_a_model_is_never_asked_for(saved):
    (saved / "code.py").write_text("raise SystemExit")
    rewrite(saved, lambda config: config.update(model_type="nonesuch", auto_map={"AutoConfig": "code.Config"}))
    with pytest.raises(InputError, match="damaged or incomplete"):
        load(saved)


def write_gguf(path):
    """A Llama that was never trained, as llama.cpp has it."""
    gguf = pytest.importorskip("gguf", reason="needs gguf, of the extra of that name")
    size, wide, heads, words = 32, 48, 4, 50
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(size)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(size // heads)
    writer.add_vocab_size(words)
    random = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (words, size), "output": (words, size), "output_norm": (size,)}
    for layer in range(2):
        inside = {f"attn_{part}": (size, size) for part in ("q", "k", "v", "output")}
        inside |= {"ffn_gate": (wide, size), "ffn_up": (wide, size), "ffn_down": (size, wide)}
        inside |= {"attn_norm": (size,), "ffn_norm": (size,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in inside.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", 0.2 * torch.randn(shape, generator=random).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_model_like_others(tmp_path):
    write_gguf(tmp_path / "model.gguf")
    model = load(tmp_path, gguf_file="model.gguf")
    assert type(model) is hf.LlamaForCausalLM and model.float().dtype == torch.float32
    ids = torch.arange(5, 13)[None]
    before = model(ids).logits
    swap(model, "dot_product")
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(load(tmp_path / "saved")(ids).logits, before, atol=1e-5, rtol=1e-5)


DAMAGES = [
    (lambda config: config.update(bareformers=[]), "bareformers in the config .* not as swap writes it, but"),
    (lambda config: config["bareformers"]["mixers"][0].pop("layer"), "not as swap writes it"),
    (lambda config: config["bareformers"]["mixers"][0].update(mixer="gausian"), "did you mean 'gaussian'"),
    (lambda config: config["bareformers"]["mixers"][0].update(mixer="dot_product"), "its tensors lack .* and 1 more"),
    (lambda config: config["bareformers"]["mixers"][0].update(layer=7), "no layer 7"),
    (lambda config: config.pop("bareformers"), "its tensors lack model.layers.0.self_attn"),
    (lambda config: config.update(architectures=["Nonesuch"]), "names no class of transformers, but 'Nonesuch'"),
    (lambda config: config.update(hidden_size=16), "does not fit: .* maps 16 numbers to 32"),
    (lambda config: config.update(model_type="nonesuch"), "damaged or incomplete"),
]


@pytest.mark.parametrize("change, words", DAMAGES, ids=[row[1][:40] for row in DAMAGES])
def test_a_damaged_config_is_told(saved, change, words):
    rewrite(saved, change)
    with pytest.raises(InputError, match=words) as raised:
        load(saved)
    assert "\n" not in str(raised.value)


def test_damaged_files_are_told(saved, tmp_path):
    with pytest.raises(InputError, match="damaged or incomplete"):
        load(tmp_path / "nowhere")
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged or incomplete"):
        load(saved)
    weights.unlink()
    with pytest.raises(InputError, match="damaged or incomplete"):
        load(saved)


OURS = {
    "causal_lm": (BareForCausalLM, {}),
    "translation": (BareForSeq2SeqLM, {"is_encoder_decoder": True, "num_encoder_layers": 3}),
    "masked_lm": (BareForMaskedLM, {"encoder_mixer": "delta"}),
}


def our_own(name, **changes):
    cls, more = OURS[name]
    sizes = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, intermediate_size=48, max_position_embeddings=40)
    torch.manual_seed(0)
    return disturb(cls(BareConfig(**{**sizes, **more, **changes}))).eval()


@pytest.mark.parametrize(
    "name, role",
    [
        ("causal_lm", "decoder"),
        ("masked_lm", "encoder"),
        *(("translation", each) for each in ("encoder", "decoder", "cross")),
    ],
)
def test_models_of_ours_exchange_their_mixers(name, role, tmp_path):
    model = our_own(name)
    kind = "marian" if name == "translation" else "gpt2"
    given, real = inputs(kind, "right")
    model.save_pretrained(tmp_path / "before")
    there, config, before = modules(model), model.config.to_dict(), logits(model, given)
    first = swap(model, {"name": "gaussian", "std": 0.7}, 0, role)
    path = next(iter(first[0].modules))
    assert torch.equal(model.get_submodule(path).value.weight, first[0].modules[path].value.weight)
    assert first[0].spec == {"name": "gaussian", "std": 0.7}
    second = swap(model, "random", role=role)
    assert model.config.mixer_spec(role, 1) == {"name": "random"}
    disturb(model).save_pretrained(tmp_path)
    again, found = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert torch.equal(logits(again, given), logits(model, given))
    assert torch.equal(logits(load(tmp_path), given), logits(model, given))
    if name != "masked_lm":
        same(decoded(model, kind, (3, 4, 6), "right")[0][real], logits(model, given)[real])
    put_back(model, second)
    assert model.config.mixer_spec(role, 0) == {"name": "gaussian", "std": 0.7}
    put_back(model, first)
    assert modules(model) == there and model.config.to_dict() == config
    assert logits(model, given).shape == before.shape


def test_models_of_ours_say_what_does_not_fit():
    model = our_own("masked_lm", encoder_mixer={"default": "dot_product", "layers": {1: "none"}})
    there, config = modules(model), model.config.to_dict()
    for args, words in [
        (("alrr", 0), "no mixer that alrr could take the place of .* train it with `bareformers distill`"),
        (("gaussian", 1), "layer 1 .* no mixer that gaussian could take the place of"),
        (("gaussian", 0, None, 9), "max_position_embeddings in its config; leave max_length out"),
        (("none", 0), "write average"),
        (("gaussian", 2), "no layer 2"),
    ]:
        with pytest.raises(InputError, match=words):
            swap(model, *args)
    assert modules(model) == there and model.config.to_dict() == config
    model = our_own("translation", cross_mixer="average")
    with pytest.raises(InputError, match="dot_product in layer 0 .* needs cross_norm.*, which is not there"):
        swap(model, "dot_product", role="cross")
