"""The insides of the models of `transformers`: where their attention is, and how a mixer takes its place.

What a family of models looks like is one entry of `FAMILIES`; nothing else here differs between families.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers.base import SelfInitialised, Slot, TokenMixer, build, init_linear
from bareformers.paring.adapter import Adapter, Masks

PROJECTIONS = ("query", "key", "value", "output")
REACH = {"head": 0, "mixer": 0, "mixer+residual": 1, "block": 2}
"""How much more than the attention a mixer stands for, by its part."""

Taught = dict[str, tuple[Tensor, Tensor | None]]
"""Weights [D, D] and biases [D] by what our mixers call the projections."""


@dataclass(frozen=True)
class Site:
    """Where the attention of one role is, as dotted paths.

    Attributes:
        layers: from the base model to the list of layers.
        attention: from a layer to the module that is called with hidden states and returns (output, weights).
        inputs: from the attention to the projections to queries, keys and values; one that is named several times holds
            them one after the other.
        output: from a layer to the output projection, which may lie outside of the attention.
        norm: from a layer to the norm of this sub-layer, before it or behind.
        dropout: from the attention to the dropout of its output, where that is inside.
        heads: the key of the config that says how many there are.
        cross: whether it reads another sequence.
    """

    layers: str
    attention: str
    inputs: tuple[str, str, str]
    output: str
    norm: str
    dropout: str = ""
    heads: str = "num_attention_heads"
    cross: bool = False

    def find(self, layer: nn.Module) -> Any:
        """The attention of a layer, or the adapter that stands for it or for more; None where there is neither."""
        return layer if isinstance(layer, Adapter) and not self.cross else inside(layer, self.attention)

    def role(self, attention: Any) -> str:
        if isinstance(attention, Adapter):
            return attention.mixer.slot.role
        return "cross" if self.cross else "decoder" if attention.is_causal else "encoder"


@dataclass(frozen=True)
class Family:
    """What models of one `model_type` look like inside.

    Attributes:
        sites: of the attentions of a layer.
        dropout: the key of the config that says with which probability entries of maps are dropped.
        rotary: whether queries and keys are turned by their positions.
        plain: what keys of the config say where the attention is softmax(q k / sqrt(d)).
        max_length: the number of positions of a base model.
        offset: how many of them stand for nothing that is read: where the first one's number is not 0.
    """

    sites: tuple[Site, ...]
    dropout: str = "attention_dropout"
    rotary: bool = False
    plain: Mapping[str, Any] = field(default_factory=dict)
    max_length: Callable[[Any], int] = lambda base: base.config.max_position_embeddings
    offset: int = 0


def bert(name: str, cross: bool = False) -> Site:
    inputs = ("query", "key", "value")
    return Site(
        "encoder.layer", f"{name}.self", inputs, f"{name}.output.dense", f"{name}.output.LayerNorm", cross=cross
    )


def bart(stack: str, name: str, cross: bool = False) -> Site:
    heads = f"{stack}_attention_heads"
    return Site(f"{stack}.layers", name, Q_K_V, f"{name}.out_proj", f"{name}_layer_norm", heads=heads, cross=cross)


def gpt2(name: str, inputs: tuple[str, str, str], norm: str, cross: bool = False) -> Site:
    return Site("h", name, inputs, f"{name}.c_proj", norm, dropout="resid_dropout", cross=cross)


Q_K_V = ("q_proj", "k_proj", "v_proj")
BERT = Family((bert("attention"), bert("crossattention", True)), "attention_probs_dropout_prob")
LLAMA = Family((Site("layers", "self_attn", Q_K_V, "self_attn.o_proj", "input_layernorm"),), rotary=True)
BART = Family((bart("encoder", "self_attn"), bart("decoder", "self_attn"), bart("decoder", "encoder_attn", True)))

FAMILIES = {
    "bart": BART,
    "bert": BERT,  # MiniLM too
    "distilbert": Family(
        (Site("transformer.layer", "attention", ("q_lin", "k_lin", "v_lin"), "attention.out_lin", "sa_layer_norm"),)
    ),
    "gpt2": Family(
        (
            gpt2("attn", ("c_attn", "c_attn", "c_attn"), "ln_1"),
            gpt2("crossattention", ("q_attn", "c_attn", "c_attn"), "ln_cross_attn", True),
        ),
        "attn_pdrop",
        plain={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    ),
    "llama": LLAMA,  # SmolLM2 too
    "marian": BART,
    "qwen2": LLAMA,
    "roberta": replace(BERT, offset=2),
    "vit": Family(
        (Site("layers", "attention", Q_K_V, "attention.o_proj", "layernorm_before"),),
        "attention_probs_dropout_prob",
        max_length=lambda base: base.embeddings.position_embeddings.shape[1],
    ),
}
"""By `model_type`."""


class New(NamedTuple):
    """A mixer that is to come in: its whole spec, what the config is to say, and modules by their path."""

    spec: dict[str, Any]
    said: Any
    modules: dict[str, nn.Module]


class Places(NamedTuple):
    """The attentions of one role: the list of layers, its path in the model, and where they are in a layer."""

    layers: Sequence[nn.Module]
    path: str
    site: Site


def inside(module: nn.Module, path: str) -> Any:
    """The module at a dotted path, or None."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def family_of(model: Any) -> Family:
    """What a model looks like inside; an `InputError` where that is not known."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise InputError(
            f"nothing is known of the insides of a {kind or type(model).__name__}, but of {', '.join(FAMILIES)}; "
            f"add an entry to FAMILIES in bareformers/paring/families.py, which says where its attention is"
        )
    return FAMILIES[kind]


def positions(model: Any) -> int:
    """The most positions that a model reads."""
    family = family_of(model)
    return family.max_length(model.base_model) - family.offset


def places(model: Any) -> dict[str, Places]:
    """By role, where the attentions of a model are."""
    family, base = family_of(model), model.base_model
    prefix = next(name for name, module in model.named_modules() if module is base)
    found = {}
    for site in family.sites:
        layers = inside(base, site.layers)
        there = next(filter(None, map(site.find, [] if layers is None else layers)), None)
        if there is not None:
            found[site.role(there)] = Places(layers, f"{prefix}.{site.layers}".lstrip("."), site)
    return found


def attention_at(there: Places, layer: int) -> Any:
    """What attends at a place, that of `transformers` or an adapter with a mixer; None where nothing does."""
    return there.site.find(there.layers[layer])


def mixer_at(there: Places, layer: int) -> TokenMixer | None:
    """The mixer of ours at a place; None where the attention is that of `transformers`, or none is."""
    found = attention_at(there, layer)
    return found.mixer if isinstance(found, Adapter) else None


def fit(
    model: Any, there: Places, role: str, layers: Sequence[int], spec: dict[str, Any], max_length: int | None
) -> list[New]:
    """What puts a mixer into each of some layers."""
    masks = next((part.masks for part in model.modules() if isinstance(part, Adapter)), None) or Masks()
    return [fit_one(model, there, role, layer, spec, max_length, masks) for layer in layers]


def fit_one(
    model: Any, there: Places, role: str, layer: int, spec: dict[str, Any], max_length: int | None, masks: Masks
) -> New:
    family, config, site, module = family_of(model), model.config, there.site, there.layers[layer]
    attention, where = site.find(module), f"layer {layer} of {type(model).__name__} ({role})"
    cls, _ = registry.mixers.parse(spec, f"{role}_mixer")
    if attention is None:
        raise InputError(f"{where} has no attention; name other layers")
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[layer] != "full_attention":
        raise InputError(f"{where} has {kinds[layer]}, and a mixer has no window; write use_sliding_window: false")
    if issubclass(cls, registry.mixers.get("dot_product")):
        spec = as_in(family, config, spec, where)
    length, heads = max_length or positions(model), getattr(config, site.heads)
    dropout: nn.Module
    if isinstance(attention, Adapter):
        if REACH[attention.mixer.part] > REACH[cls.part]:
            old = attention.mixer.name
            raise InputError(
                f"{old} stands for more than the attention of {where}; put it back before {cls.name} comes"
            )
        taught, use_bias = own_projections(attention.mixer), attention.mixer.slot.use_bias
        dropout = attention.dropout
    else:
        taught = projections(site, module, config.hidden_size, heads, where)
        use_bias = any(bias is not None for _, bias in taught.values())
        dropout = attention.get_submodule(site.dropout) if site.dropout else nn.Identity()
    slot = Slot(
        role=role,
        layer=layer,
        hidden_size=config.hidden_size,
        num_heads=heads,
        max_length=length,
        max_context_length=length,
        dropout=getattr(config, family.dropout) if cls.has_map else 0.0,
        use_bias=use_bias,
    )
    like = next(attention.parameters(), next(model.parameters()))
    with torch.device(like.device):
        mixer = build(spec, slot)
    assert mixer is not None
    mixer.apply(lambda part: initialise(part, config.hidden_size))
    teach(mixer.to(like.dtype), taught)
    paths = [""] if mixer.part == "block" else [site.attention]
    called = inside(module, paths[0])
    names = called.names if isinstance(called, Adapter) else parameters_of(called)
    modules: list[nn.Module] = [Adapter(mixer, names, masks, dropout).train(attention.training)]
    if mixer.part != "block" and not site.output.startswith(f"{site.attention}."):
        paths.append(site.output)
    if mixer.part == "mixer+residual":
        paths.append(site.norm)
    modules += [nn.Identity() for _ in paths[1:]]
    said = {"role": role, "layer": layer, "mixer": spec, "max_length": length}
    at = [f"{there.path}.{layer}.{path}".rstrip(".") for path in paths]
    return New(spec, said, dict(zip(at, modules, strict=True)))


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names that a module is called with, in order."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def as_in(family: Family, config: Any, spec: dict[str, Any], where: str) -> dict[str, Any]:
    """`dot_product` with what makes it the attention of the family; an `InputError` where nothing does."""
    for key, plain in family.plain.items():
        if getattr(config, key) != plain:
            raise InputError(f"{where} has {key}: {getattr(config, key)}, and dot_product has not; take another mixer")
    if not family.rotary or "positions" in spec:
        return spec
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(
            f"{where} has rotary positions of another kind, {json.dumps(rope, sort_keys=True)}, which dot_product has "
            f"not; write its positions, as in positions: rotary"
        )
    return {**spec, "positions": "rotary", "rotary_base": float(rope["rope_theta"])}


def projections(site: Site, layer: nn.Module, size: int, heads: int, where: str) -> Taught:
    """Those of the attention of a layer; heads that share keys and values get each their own."""
    paths = (*(f"{site.attention}.{path}" for path in site.inputs), site.output)
    found: Taught = {}
    for number, (name, path) in enumerate(zip(PROJECTIONS, paths, strict=True)):
        linear = inside(layer, path)
        if type(linear) not in (nn.Linear, Conv1D):
            raise InputError(
                f"{path} of {where} is {type(linear).__name__} and no plain linear map; load the model without "
                f"quantisation, and merge into it what other libraries have put around it"
            )
        weight, head_size = linear.weight.T if isinstance(linear, Conv1D) else linear.weight, size // heads
        rows = len(weight) // paths.count(path)
        are_shared = name in ("key", "value") and not rows % head_size and not size % rows
        if size % heads or weight.shape[1] != size or not (rows == size or are_shared):
            raise InputError(
                f"{path} of {where} maps {weight.shape[1]} numbers to {rows}, and a mixer has {heads} heads that make "
                f"up hidden_size {size} together; take another model"
            )
        first = paths[:number].count(path) * rows
        own = slice(first, first + rows)
        bias = None if linear.bias is None else for_each_head(linear.bias[own], size, head_size)
        found[name] = for_each_head(weight[own], size, head_size), bias
    return found


def for_each_head(rows: Tensor, size: int, head_size: int) -> Tensor:
    """All D rows, out of those [n, ..] that heads share in groups."""
    return rows.unflatten(0, (-1, head_size)).repeat_interleave(size // len(rows), 0).flatten(0, 1)


def own_projections(mixer: TokenMixer) -> Taught:
    """Those of a mixer of ours, as far as it has them."""
    there = {name: getattr(mixer, name, None) for name in PROJECTIONS}
    return {name: (linear.weight, linear.bias) for name, linear in there.items() if isinstance(linear, nn.Linear)}


@torch.no_grad()
def teach(mixer: TokenMixer, taught: Taught) -> None:
    """Copy the projections that the mixer, or one inside it, has too."""
    for part in mixer.modules():
        for name, own in own_projections(part).items() if isinstance(part, TokenMixer) else ():
            if name in taught and taught[name][0].shape == own[0].shape:
                for to, given in zip(own, taught[name], strict=True):
                    if to is not None and given is not None:
                        to.copy_(given)


def initialise(module: nn.Module, size: int) -> None:
    """Initialise a module of a mixer, after those inside it, as our models do."""
    if isinstance(module, nn.Linear):
        init_linear(module)
    elif isinstance(module, SelfInitialised):
        module.init_weights(size**-0.5)


def tell(config: Any, role: str, layer: int, said: dict[str, Any] | None) -> dict[str, Any] | None:
    """Write into the config what sits at a place, None for its attention; returns what it said before."""
    known = {(each["role"], each["layer"]): each for each in getattr(config, "bareformers", {}).get("mixers", [])}
    before = known.pop((role, layer), None)
    if said is not None:
        known[role, layer] = said
    if known:
        config.bareformers = {"mixers": [known[place] for place in sorted(known)]}
    elif before is not None:
        del config.bareformers
    return before


restore = tell
"""A place says what it is told, whatever it said of other places."""
