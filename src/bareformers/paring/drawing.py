"""Who reads whom in a model some of whose attention has been replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bareformers.measure.maps import Call, completed
from bareformers.mixers.base import TokenMixer
from bareformers.paring import surgery
from bareformers.paring.surgery import Replaced
from bareformers.paring.teaching import Place, places_of, without_cache


def maps(model: Any, inputs: dict[str, Tensor], tokens: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """The maps of the first row of `inputs`, as `measure.maps.maps` gives them, for every place of a model.

    Meanwhile ours does what attention of `transformers` does: it alone shows its map, however the model was loaded.

    Args:
        tokens: the words at the axes, of `encoder` and `decoder`.
    """
    model = surgery.unwrapped(model)
    if not model.config.is_encoder_decoder:  # one stack, and its role is that of its masks, whatever its task
        tokens = dict.fromkeys(("encoder", "decoder"), next(iter(tokens.values())))
    insides, swapped, hooks = surgery.insides_of(model), list[Replaced](), list[Any]()
    arrays: dict[str, np.ndarray] = {}
    called: dict[str, Call] = {}
    modes = {module: module.training for module in model.modules()}

    def follow(place: Place, mixer: TokenMixer) -> None:
        name = f"{place.role}/{place.layer}"

        def ask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "want_weights": True}

        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            called[name] = module, args, {**kwargs, "state": None}
            if result[1] is not None:
                arrays[name] = result[1][0].float().cpu().numpy().astype(np.float16)

        hooks.append(mixer.register_forward_pre_hook(ask, with_kwargs=True))
        hooks.append(mixer.register_forward_hook(see, with_kwargs=True))

    try:
        for place in places_of(model):
            if insides.mixer_at(insides.places(model)[place.role], place.layer) is None:
                swapped += surgery.swap(model, "dot_product", place.layer, place.role)
            follow(place, insides.mixer_at(insides.places(model)[place.role], place.layer))
        model.eval()
        with torch.no_grad(), without_cache(model):
            model(**inputs)
        for hook in hooks:
            hook.remove()
        return completed(arrays, called, tokens)
    finally:
        for hook in hooks:
            hook.remove()
        surgery.put_back(model, swapped)
        for module, mode in modes.items():
            module.training = mode
