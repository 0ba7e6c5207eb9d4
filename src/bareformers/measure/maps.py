"""Who reads whom: the maps of a model for one input, as arrays that the report draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Mixer = tuple[str, int, nn.Module]
"""Role, layer, and the module that mixes there.

It is called with what asks and, in the cross role, with what is read as the keyword `context`; of what it returns, the
first is y [B, T, D].
"""

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A module, and what it was called with."""

# Products in the Jacobian of one mixer: at 24 positions a width of about 550, a few seconds on two cores.
LARGEST = 1e11
AT_ONCE = 2**20  # numbers in the gradients that are computed together


def maps(
    model: Any, inputs: dict[str, Tensor], tokens: dict[str, list[str]], mixers: Iterable[Mixer] = ()
) -> dict[str, np.ndarray]:
    """The maps of the first row of `inputs`, for every layer whose mixer has one.

    Args:
        model: any model of `transformers` that takes `output_attentions`.
        inputs: one unpadded row, with `labels` for an encoder-decoder.
        tokens: the words at the axes: `keys` and `queries` by role, as `{"encoder": [...], "decoder": [...]}`.
        mixers: of those that leave no map, what stands for it is `jacobian_norms`.

    Returns:
        `<role>/<layer>` as [H, T, S] float16, `<role>/queries` and `<role>/keys` as strings. Norms of a Jacobian are
        [1, T, S] float32, and `<role>/<layer>/kind` is "jacobian"; where they would take too long there is only
        `<role>/<layer>/note`, a sentence.
    """
    model.eval()
    calls: dict[str, Call] = {}

    def remember(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[name] = module, args, kwargs

    hooks = [
        module.register_forward_pre_hook(partial(remember, f"{role}/{layer}"), with_kwargs=True)
        for role, layer, module in mixers
    ]
    try:
        with torch.no_grad():
            out = model(**inputs, output_attentions=True, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if model.config.is_encoder_decoder:
        found = {"encoder": out.encoder_attentions, "decoder": out.decoder_attentions, "cross": out.cross_attentions}
    else:
        found = {"decoder" if "decoder" in tokens else "encoder": getattr(out, "attentions", None)}
    arrays: dict[str, np.ndarray] = {}
    for role, layers in found.items():
        for layer, weights in enumerate(layers or ()):
            if weights is not None:
                arrays[f"{role}/{layer}"] = weights[0].float().cpu().numpy().astype(np.float16)
    return completed(arrays, calls, tokens)


def completed(
    arrays: dict[str, np.ndarray], calls: Mapping[str, Call], tokens: dict[str, list[str]]
) -> dict[str, np.ndarray]:
    """The maps, with what stands for those of mixers that left none, and the words at the axes.

    Args:
        calls: of mixers, by `<role>/<layer>`.
    """
    for name, (module, args, kwargs) in calls.items():
        if name not in arrays:
            arrays |= jacobian(name, module, args, kwargs)
    for role in sorted({name.partition("/")[0] for name in arrays}):
        arrays[f"{role}/queries"] = np.array(tokens["decoder" if role == "cross" else role])
        arrays[f"{role}/keys"] = np.array(tokens["encoder" if role == "cross" else role])
    return arrays


def jacobian(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The entries of `maps` for a mixer that leaves no map, called like this."""
    length, width = args[0].shape[1:]
    sources = read_by(args, kwargs).shape[1]
    if length * sources * width**3 > LARGEST:
        said = f"no map, and {length} × {sources} positions of width {width} are too many for an exact Jacobian"
        return {f"{name}/note": np.array(said)}
    norms = jacobian_norms(module, args, kwargs)
    return {name: norms[None].float().cpu().numpy(), f"{name}/kind": np.array("jacobian")}


def read_by(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a mixer that is called like this reads, [B, S, D]: the context, or else its own input."""
    context = kwargs.get("context")
    return args[0] if context is None else context


def jacobian_norms(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """||d y_t / d x_s||_F [T, S] of a mixer at what it was called with, for the first row; exact.

    How much the output at t moves when what is read at s does, with everything inside the mixer: convolutions, feature
    maps and norms. A gradient for every number of y is computed, many at once.
    """
    (x, mask), context = args, kwargs.get("context")
    length, width = x.shape[1:]
    frozen = {name: parameter.detach() for name, parameter in module.named_parameters()}
    squares = []
    for places in torch.arange(length * width, device=x.device).split(max(1, AT_ONCE // (length * width))):
        rows = len(places)  # the same sentence in each, and another number of y asked for
        given = [None if each is None else each[:1].detach().repeat(rows, 1, 1) for each in (x, context)]
        read = given[0 if context is None else 1]
        assert read is not None
        read.requires_grad_()
        with torch.enable_grad():
            called = (given[0], mask.repeated(rows)), {**kwargs, "context": given[1]}
            y = torch.func.functional_call(module, frozen, *called)[0]
        probes = torch.zeros_like(y)
        probes[torch.arange(rows, device=y.device), places // width, places % width] = 1
        squares.append(torch.autograd.grad(y, read, probes)[0].square().sum(-1))
    return torch.cat(squares).unflatten(0, (length, width)).sum(1).sqrt()
