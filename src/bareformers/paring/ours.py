"""The insides of our own models: how a mixer takes the place of another, by structure and config alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from bareformers.errors import InputError
from bareformers.mixers.base import TokenMixer
from bareformers.mixers.joint import Joint
from bareformers.paring.families import REACH, New, own_projections, teach

MODEL_TYPE = "bareformer"


class Places(NamedTuple):
    """The mixers of one role: the blocks, the path of their list in the model, and the name in a block."""

    layers: Sequence[nn.Module]
    path: str
    name: str


def places(model: Any) -> dict[str, Places]:
    """By role, where the mixers of a model are."""
    found = {
        stack: Places(getattr(model, stack).blocks, f"{stack}.blocks", "mixer")
        for stack in ("encoder", "decoder")
        if hasattr(model, stack)
    }
    if model.config.is_encoder_decoder:
        found["cross"] = found["decoder"]._replace(name="cross_mixer")
    return found


def mixer_at(there: Places, layer: int) -> TokenMixer | None:
    """The mixer at a place; None where there is none."""
    found: TokenMixer | None = getattr(there.layers[layer], there.name)
    return found


attention_at = mixer_at
"""What attends at a place is a mixer, if anything does."""


def positions(model: Any) -> int:
    """The most positions that a model reads."""
    return int(model.config.max_position_embeddings)


def fit(
    model: Any, there: Places, role: str, layers: Sequence[int], spec: dict[str, Any], max_length: int | None
) -> list[New]:
    """What puts a mixer into each of some layers."""
    if max_length is not None:
        raise InputError("the max_length of this model is max_position_embeddings in its config; leave max_length out")
    config = copy.deepcopy(model.config)
    for layer in layers:
        tell(config, role, layer, spec)
    with torch.device("meta"):
        planned = type(model)(type(config).from_dict(config.to_dict()))
    return [fit_one(model, planned, there, role, layer, spec) for layer in layers]


def fit_one(model: Any, planned: Any, there: Places, role: str, layer: int, spec: dict[str, Any]) -> New:
    """What of a `planned` model without content, once it has some, puts a mixer into a layer of `model`."""
    path, name = f"{there.path}.{layer}", there.name
    block, made = there.layers[layer], planned.get_submodule(path)
    old, mixer, where = getattr(block, name), getattr(made, name), f"layer {layer} of {type(model).__name__} ({role})"
    if old is None or REACH[old.part] or REACH[mixer.part]:
        raise InputError(
            f"{where} has no mixer that {spec['name']} could take the place of while norms and skips stay; "
            f"train it with `bareformers distill`"
        )
    if any(isinstance(part, Joint) for part in block.modules()):
        raise InputError(f"{where} has one matrix for its mixer and other parts; train it with `bareformers distill`")
    needed, known = ({key for key in each.state_dict() if not key.startswith(f"{name}.")} for each in (made, block))
    if needed - known:
        raise InputError(
            f"{spec['name']} in {where} needs {min(needed - known)}, which is not there; take another mixer"
        )
    like = next(block.parameters())
    made.to_empty(device=like.device).apply(model._init_weights)
    made.to(like.dtype).train(block.training)
    teach(mixer, own_projections(old))
    # A norm before a mixer that does not look at what it norms is no part of a block that is made for it.
    new = [name, *{key.partition(".")[0] for key in known - needed}]
    return New(spec, spec, {f"{path}.{each}": getattr(made, each) for each in new})


def tell(config: Any, role: str, layer: int, spec: dict[str, Any]) -> Any:
    """Write into the config what sits at a place; returns what it said of the whole role before."""
    before = getattr(config, f"{role}_mixer")
    specs = [config.mixer_spec(role, each) for each in range(config.num_layers(role))]
    specs[layer] = spec
    setattr(config, f"{role}_mixer", specs)
    return before


def restore(config: Any, role: str, layer: int, before: Any) -> None:
    """Undo `tell` for one place, to the letter where the other places of the role are as they were then."""
    depth = config.num_layers(role)
    now = [config.mixer_spec(role, each) for each in range(depth)]
    setattr(config, f"{role}_mixer", before)
    then = [config.mixer_spec(role, each) for each in range(depth)]
    now[layer] = then[layer]
    if now != then:
        setattr(config, f"{role}_mixer", now)
