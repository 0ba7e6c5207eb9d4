"""A mixer that is called as an attention of `transformers` is called."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from bareformers.errors import InputError
from bareformers.mixers.base import Slot, TokenMixer
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import LayerState


class Masks:
    """The last mask of each role, so that the layers of one pass share it; a copy begins empty."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[weakref.ref[Tensor], tuple[Any, ...], Mask]] = {}

    def __reduce__(self) -> tuple[type[Masks], tuple[()]]:
        return Masks, ()

    def get(self, role: str, given: Any, x: Tensor, num_keys: int, past: int) -> Mask:
        """The mask that the attention mask `given` amounts to, for x [B, T, D] behind `past` positions."""
        if given is not None and not isinstance(given, Tensor):
            raise InputError(
                f"a mixer reads attention masks that are tensors, not {type(given).__name__}; "
                f"load the model with attn_implementation='sdpa'"
            )
        if given is None or torch.compiler.is_compiling():
            return read_mask(role, given, x, num_keys, past)
        version = None if given.is_inference() else given._version
        key = (x.shape[1], num_keys, past, version, torch.is_inference_mode_enabled())
        last = self.last.get(role)
        if last is None or last[0]() is not given or last[1] != key:
            last = self.last[role] = weakref.ref(given), key, read_mask(role, given, x, num_keys, past)
        return last[2]


def read_mask(role: str, given: Tensor | None, x: Tensor, num_keys: int, past: int) -> Mask:
    """See `Masks.get`; `given` is [B, S], or [B, 1, T, S] with True or 0 where a query sees a key."""
    length, causal = x.shape[1], role == "decoder"
    positions = torch.arange(past, past + length, device=x.device)[None] if role == "cross" else None
    # The last query sees every real key, whatever the role.
    visible = None if given is None or given.dim() != 4 else given if given.dtype == torch.bool else given == 0
    keep = given if visible is None else visible[:, 0, -1]
    if keep is not None and keep.shape[1:] != (num_keys,):
        raise InputError(
            f"the attention mask is {list(keep.shape)} where a mixer reads {num_keys} positions; "
            f"give a column to each, and decode with cache_implementation='dynamic'"
        )
    if visible is not None and not torch.compiler.is_compiling():
        keep = only_padding(visible, past if causal else None)
    return Mask(length, num_keys, causal=causal, device=x.device, keep=keep, query_positions=positions)


def only_padding(visible: Tensor, past: int | None) -> Tensor | None:
    """The real keys [B, S] of what queries see [B, 1, T, S], or None where all are real.

    An `InputError` where they see other things, as those of several texts in one row do.

    Args:
        past: the number of keys before the first query, where no query sees a later key.
    """
    keep = visible[:, 0, -1]
    expected = keep[:, None, None]
    if past is not None:
        expected = expected & expected.new_ones(visible.shape[2:]).tril(past)
    if bool((visible != expected).any()):
        raise InputError(
            "an attention mask that hides more than padding and the future means nothing to a mixer; "
            "pass a mask [batch, positions], with one text a row"
        )
    return None if bool(keep.all()) else keep


class Adapter(nn.Module):
    """A mixer that is called as an attention, or a layer, of `transformers` is called, and returns what that returns.

    Args:
        names: of the parameters of what it stands for, in order.
        masks: shared by the adapters of a model.
        dropout: of the output.
    """

    def __init__(self, mixer: TokenMixer, names: Sequence[str], masks: Masks, dropout: nn.Module) -> None:
        super().__init__()
        self.mixer, self.names, self.masks, self.dropout = mixer, tuple(names), masks, dropout

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(self.names, args, strict=False)) | kwargs
        x, slot = given["hidden_states"], self.mixer.slot
        context, attention_mask = None, given.get("attention_mask")
        if slot.role == "cross":
            context = first(given, "encoder_hidden_states", "key_value_states")
            attention_mask = given.get("encoder_attention_mask", attention_mask)
        cache = None if slot.role == "encoder" else first(given, "past_key_values", "past_key_value", "layer_past")
        kept = None if cache is None else layer_state(cache, slot)
        state = None if kept is None else kept[slot.role]
        past = 0 if state is None else state.length
        num_keys = past + x.shape[1] if context is None else context.shape[1]
        mask = self.masks.get(slot.role, attention_mask, x, num_keys, past)
        y, _ = self.mixer(x, mask, context=context, state=state)
        if kept is not None:
            kept.advance(x.shape[1])
        if self.mixer.part == "block":
            return y
        # The skip around the adapter stays: what stands for it too gives the rest.
        return self.dropout(y - x if self.mixer.part == "mixer+residual" else y), None


def first(given: Mapping[str, Any], *names: str) -> Any:
    """What is given under one of the names; None where nothing is."""
    return next((given[name] for name in names if given.get(name) is not None), None)


def layer_state(cache: Any, slot: Slot) -> LayerState:
    """Our state of the layer in a cache of `transformers`; put there where its layer is still empty."""
    if slot.role == "cross" and not hasattr(cache, "cross_attention_cache"):
        raise InputError(
            f"a cross mixer needs a cache with a place for it, not {type(cache).__name__}; pass an EncoderDecoderCache"
        )
    kind = "cross_attention_cache" if slot.role == "cross" else "self_attention_cache"
    own: Cache = getattr(cache, kind, cache)
    layers: list[Any] = own.layers
    while len(layers) <= slot.layer:
        layers.append((own.layer_class_to_replicate or DynamicLayer)())
    there = layers[slot.layer]
    if isinstance(there, LayerState):
        return there
    if type(there) is not DynamicLayer:
        raise InputError(
            f"layer {slot.layer} of the cache is a {type(there).__name__}, in which a mixer cannot keep its state; "
            f"write cache_implementation='dynamic'"
        )
    if there.get_seq_length():
        raise InputError(
            f"layer {slot.layer} of the cache holds keys and values that no mixer wrote; begin with an empty cache"
        )
    layers[slot.layer] = LayerState()
    return layers[slot.layer]
