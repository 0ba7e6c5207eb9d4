"""Embeddings and a pile of blocks: the only body that every head has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput

from bareformers import registry
from bareformers.blocks.base import Signals
from bareformers.blocks.layers import norm
from bareformers.errors import InputError
from bareformers.mixers import base as mixers
from bareformers.mixers.dropout import Dropout
from bareformers.mixers.masks import Mask
from bareformers.mixers.positions import sinusoids
from bareformers.models.config import BareConfig
from bareformers.models.patches import Patches


class Embeddings(mixers.SelfInitialised):
    """Tokens, or patches of images, and positions as vectors."""

    def __init__(self, config: BareConfig) -> None:
        super().__init__()
        self.config = config
        reads_images = config.image_size is not None
        self.tokens = Patches(config) if reads_images else nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position_embedding == "learned"
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.norm = norm(config.kept_norm, config.hidden_size, config.norm_eps) if config.embedding_norm else None
        self.dropout = Dropout(config.dropout)

    def init_weights(self, std: float) -> None:
        if self.positions is not None and self.config.image_size is not None:
            init.normal_(self.positions.weight)  # as wide as patches are, or these hardly say where they stand

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, positions: Tensor) -> Tensor:
        """[B, T] tokens (or their embeddings [B, T, D]) and [B or 1, T] positions -> [B, T, D]."""
        x = self.tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if self.config.scale_embedding and self.config.image_size is None:
            x = x * math.sqrt(self.config.hidden_size)
        if self.positions is not None:
            limit = self.config.max_position_embeddings
            if positions.shape[1] and not torch.compiler.is_compiling() and int(positions.max()) >= limit:
                raise InputError(
                    f"learned positions end at {limit} and the input has {int(positions.max()) + 1}; "
                    f"raise max_position_embeddings or write position_embedding: sinusoidal"
                )
            x = x + self.positions(positions)
        elif self.config.position_embedding == "sinusoidal":
            x = x + sinusoids(positions, self.config.hidden_size).to(x.dtype)
        return self.dropout(x if self.norm is None else self.norm(x))


@dataclass
class StackOutput(BaseModelOutput):
    """What a stack returns.

    Attributes:
        last_hidden_state: [B, T, D].
        hidden_states: of the stream before each block and after the last [B, T, D], where asked for.
        attentions: per layer the self map [B or 1, H, T, S], or None where the mixer has none; where asked for.
        cross_attentions: the same for the cross role.
    """

    cross_attentions: tuple[Tensor | None, ...] | None = field(default=None)


class Stack(nn.Module):
    """Embeddings and blocks of one role: `encoder` (sees both sides) or `decoder` (causal, may read a context)."""

    main_input_name = "input_ids"

    def __init__(self, config: BareConfig, role: str) -> None:
        super().__init__()
        self.config, self.role = config, role
        self.embeddings = Embeddings(config)
        cls, options = registry.blocks.parse(config.block, "block")
        reads_context = role == "decoder" and config.is_encoder_decoder
        self.blocks = nn.ModuleList(
            cls(
                config.place(role, layer),
                self._mixer(role, layer),
                self._mixer("cross", layer) if reads_context else None,
                options,
            )
            for layer in range(config.num_layers(role))
        )

    def _mixer(self, role: str, layer: int) -> mixers.TokenMixer | None:
        return mixers.build(self.config.mixer_spec(role, layer), self.config.slot(role, layer))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        **kwargs: Any,
    ) -> StackOutput:
        """Run all layers.

        Args:
            input_ids: [B, T] tokens, those after `past_key_values` only; or `inputs_embeds` [B, T, D].
            attention_mask: [B, S], 1 at real tokens, remembered ones included; padding on one side, left or right.
            context: [B, S', D] hidden states for the cross role, with `context_mask` [B, S'].
            past_key_values: decoding state, advanced by this call.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise InputError("the model needs input_ids or inputs_embeds")
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        length, device = given.shape[1], given.device
        mask = Mask(
            length,
            past + length,
            causal=self.role == "decoder",
            device=device,
            keep=check_padding(attention_mask, past + length),
        )
        reading = None
        if context is not None:
            reading = Mask(
                length,
                context.shape[1],
                causal=False,
                device=device,
                keep=check_padding(context_mask, context.shape[1]),
                query_positions=mask.query_positions,
                query_keep=mask.query_keep,
            )
        stream = self.blocks[0].open(self.embeddings(input_ids, inputs_embeds, mask.query_positions))
        hidden = [self.blocks[0].hidden(stream)] if output_hidden_states else []
        weights = []
        for layer, block in enumerate(self.blocks):
            state = past_key_values.layers[layer] if past_key_values is not None else None
            signals = Signals(mask, context, reading, state, bool(output_attentions))
            stream = block(stream, signals)
            if output_hidden_states:
                hidden.append(block.hidden(stream))
            weights.append(signals.weights)
        if past_key_values is not None:
            for state in past_key_values.layers:
                state.advance(length)
        wants_cross = output_attentions and context is not None
        return StackOutput(
            last_hidden_state=self.blocks[-1].close(stream),
            hidden_states=tuple(hidden) if output_hidden_states else None,
            attentions=tuple(maps.get("self") for maps in weights) if output_attentions else None,
            cross_attentions=tuple(maps.get("cross") for maps in weights) if wants_cross else None,
        )


def check_padding(attention_mask: Tensor | None, length: int) -> Tensor | None:
    """The mask as bool [B, S]; an `InputError` where it has another length, or padding between tokens."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2 or attention_mask.shape[1] != length:
        raise InputError(
            f"attention_mask has the shape {list(attention_mask.shape)}, but [batch, {length}] is needed: "
            f"a column for each token, those already decoded included"
        )
    keep = attention_mask.bool()
    if length > 1 and not torch.compiler.is_compiling():
        starts = (keep[:, 1:] & ~keep[:, :-1]).sum(1) + keep[:, 0]
        if bool((starts > 1).any()):
            raise InputError("attention_mask has padding between tokens; pad on the left for generation")
    return keep
