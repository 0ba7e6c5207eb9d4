"""Fast weights with the sum rule: the programmer of 1991, linear attention, and Performer.

What is remembered is a matrix per head, sum_j phi(k_j) v_j^T, whatever the length. `delta` shares all but the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from bareformers.errors import InputError
from bareformers.mixers import feature_maps
from bareformers.mixers.base import (
    SelfInitialised,
    Slot,
    TokenMixer,
    at_least_float32,
    full_precision,
    merge_heads,
    or_one,
)
from bareformers.mixers.feature_maps import FeatureMap
from bareformers.mixers.masks import Mask, is_open
from bareformers.mixers.state import MixerState
from bareformers.registry import ROLES, mixer

CHUNK = 64


class ShortConvolution(SelfInitialised):
    """A causal convolution of each channel over a few positions, then SiLU (Yang et al., NeurIPS 2024, appendix)."""

    def __init__(self, num_channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(num_channels, width))

    def init_weights(self, std: float) -> None:
        init.normal_(self.weight, std=self.width**-0.5)

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, T, D], zero at padding -> the same shape, and the last inputs [B, width - 1, D] for the next call."""
        if past is None:
            past = x.new_zeros(x.shape[0], self.width - 1, x.shape[2])
        padded = torch.cat([past, x], 1)
        y = F.conv1d(padded.transpose(1, 2), self.weight[:, None], groups=x.shape[2]).transpose(1, 2)
        return F.silu(y), padded[:, padded.shape[1] - self.width + 1 :].clone()


class FastWeights(TokenMixer):
    """A memory that is written with keys and values and read with queries.

    In the decoder role a query reads what was written up to its own position; in the others it reads once every real
    position, or the whole context, has been written in order. A subclass gives the rule as `scan` and `write`.
    """

    def __init__(
        self, slot: Slot, options: Any, feature_map: FeatureMap, conv: int = 0, has_query: bool = True
    ) -> None:
        super().__init__(slot, options)
        if slot.dropout:
            raise InputError(f"mixer {self.name!r} has no map whose entries could drop; write attention_dropout: 0")
        if conv < 0 or conv == 1:
            raise InputError(f"mixer {self.name!r} needs a conv of at least 2 positions, or 0 for none, not {conv}")
        self.feature_map = feature_map
        self.query = slot.linear() if has_query else nn.Identity()
        self.key, self.value, self.output = slot.linear(), slot.linear(), slot.linear()
        # In the cross role only what is written is convolved.
        self.query_conv = ShortConvolution(slot.hidden_size, conv) if conv and slot.role != "cross" else None
        self.key_conv = ShortConvolution(slot.hidden_size, conv) if conv else None
        self.value_conv = ShortConvolution(slot.hidden_size, conv) if conv else None

    @property
    def features(self) -> int:
        """F, the numbers that a head writes under."""
        return self.feature_map.size

    @property
    def num_convolutions(self) -> int:
        return sum(conv is not None for conv in (self.query_conv, self.key_conv, self.value_conv))

    def projected(self, name: str, x: Tensor, mask: Mask, state: MixerState | None) -> Tensor:
        """`query`, `key` or `value` of new positions, in heads [B, H, T, d] and at least float32."""
        y, conv = getattr(self, name)(x), getattr(self, f"{name}_conv")
        if conv is not None:
            past = state[f"{name}_taps"] if state is not None and f"{name}_taps" in state else None
            y, taps = conv(mask.keep_values(y[:, None])[:, 0], past)
            if state is not None:
                state[f"{name}_taps"] = taps
        return at_least_float32(self.heads(y))

    def inputs(self, source: Tensor, mask: Mask, state: MixerState | None) -> tuple[Tensor, ...]:
        """What a position writes, before any feature map: keys and values [B, H, S, d]."""
        return self.projected("key", source, mask, state), self.projected("value", source, mask, state)

    def readers(self, queries: Tensor) -> Tensor:
        """Projected queries [B, H, T, d] as what reads, [B, H, T, F]."""
        return self.feature_map(queries)

    def writers(self, mask: Mask, keys: Tensor, values: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """The inputs as what is written, keys [B, H, S, F] first; a key of zeros, as at padding, writes nothing."""
        raise NotImplementedError

    def scan(self, queries: Tensor, writes: tuple[Tensor, ...], memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """What each position reads once it is written [B, H, T, .], and the memory after the last."""
        raise NotImplementedError

    def write(self, writes: tuple[Tensor, ...]) -> Tensor:
        """The memory [B, H, F, .] once all is written."""
        raise NotImplementedError

    def read(self, y: Tensor) -> Tensor:
        """[B, H, T, d] from what the products with the memory gave."""
        return y

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        context: Tensor | None = None,
        state: MixerState | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        memory = state["memory"] if state is not None and "memory" in state else None
        source = x if context is None else context
        queries = self.projected("query", x, mask, state)
        inputs = None
        if context is None or memory is None:
            inputs = self.inputs(source, mask, state if context is None else None)  # a context is read as a whole
        # Sums over positions stay in float32, whatever precision the projections have.
        with full_precision(x.device):
            queries, weights = self.readers(queries), None
            if inputs is None:
                assert memory is not None
                y = queries @ memory
            else:
                writes = self.writers(mask, *inputs)
                if want_weights and mask.num_keys == source.shape[1]:
                    weights = self.map(queries, writes[0], mask)
                if mask.causal:
                    y, memory = self.scan(queries, writes, memory)
                else:
                    memory = self.write(writes)
                    y = queries @ memory
                if state is not None:
                    state["memory"] = memory
            mixed = merge_heads(self.read(y)).to(x.dtype)
        return self.output(mixed), weights

    def map(self, queries: Tensor, keys: Tensor, mask: Mask) -> Tensor | None:
        """The map [B, H, T, S] that the rule amounts to, or None."""
        return None


class SumRule(FastWeights):
    """W_i = W_(i-1) + v_i phi(k_i)^T (Schlag et al., ICML 2021, section 3), read as W phi(q), normalised or not."""

    normalize: bool

    def readers(self, queries: Tensor) -> Tensor:
        return self.feature_map.up_to_scale(queries) if self.normalize else self.feature_map(queries)

    def writers(self, mask: Mask, keys: Tensor, values: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        if self.normalize:
            values = F.pad(values, (0, 1), value=1.0)  # a column of ones sums the keys
        return mask.keep_values(self.feature_map(keys)), values

    def scan(self, queries: Tensor, writes: tuple[Tensor, ...], memory: Tensor | None) -> tuple[Tensor, Tensor]:
        keys, values = writes
        return sum_in_chunks(queries, keys, values, memory)

    def write(self, writes: tuple[Tensor, ...]) -> Tensor:
        keys, values = writes
        return keys.transpose(-1, -2) @ values

    def read(self, y: Tensor) -> Tensor:
        return y[..., :-1] / or_one(y[..., -1:]) if self.normalize else y

    def map(self, queries: Tensor, keys: Tensor, mask: Mask) -> Tensor | None:
        if not self.normalize:
            return None
        products = queries @ keys.transpose(-1, -2)
        if mask.allowed is not None:
            products = products.masked_fill(~mask.allowed, 0)
        return products / or_one(products.sum(-1, keepdim=True))


@mixer(
    "linear",
    roles=ROLES,
    paper="Katharopoulos et al., ICML 2020, arXiv:2006.16236; DPFP: Schlag et al., ICML 2021, arXiv:2102.11174",
    parameters="4*d*d + num_convolutions*conv*d",
    state="h*features*(d//h + normalize) + (role == 'decoder')*num_convolutions*(conv - 1)*d",
)
class Linear(SumRule):
    """Linear attention: phi(q) sum_j phi(k_j) v_j^T / phi(q) sum_j phi(k_j), with any feature map."""

    @dataclass
    class Options:
        feature_map: Any = "elu"  # elu, dpfp, favor or identity; options as in {name: dpfp, nu: 2}
        normalize: bool = True  # divide by the sum over the keys
        conv: int = 0  # positions of a short convolution with SiLU over keys, values and (self roles) queries

    def __init__(self, slot: Slot, options: Options) -> None:
        feature_map = feature_maps.build(options.feature_map, slot.head_size, "feature_map of linear")
        if options.normalize and not feature_map.positive:
            raise InputError(
                f"linear cannot divide by sums of the feature map {feature_map.name!r}, which may be 0; "
                f"write normalize: false, or a positive one such as elu"
            )
        super().__init__(slot, options, feature_map, options.conv)
        self.normalize = options.normalize


@mixer(
    "performer",
    roles=ROLES,
    paper="Choromanski et al., ICLR 2021, arXiv:2009.14794",
    parameters="4*d*d",
    state="h*features*(d//h + 1)",
)
class Performer(SumRule):
    """Linear attention whose random features (FAVOR+) estimate the softmax of dot-product attention."""

    normalize = True

    @dataclass
    class Options(feature_maps.Favor.Options):
        """Those of the feature map `favor`."""

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options, feature_maps.Favor(slot.head_size, options))


@mixer(
    "fast_weights",
    roles=ROLES,
    paper="Schmidhuber, Neural Computation 4(1), 1992; as in Schlag et al., ICML 2021, arXiv:2102.11174, equations 1-3",
    parameters="3*d*d",
    state="h*features*(d//h)",
)
class FastWeightProgrammer(SumRule):
    """The fast-weight programmer of 1991: a sum of outer products that the input itself reads, not normalised."""

    normalize = False

    @dataclass
    class Options:
        squash: bool = False  # tanh of the fast weights after each write, which only a loop can do

    def __init__(self, slot: Slot, options: Options) -> None:
        identity = feature_maps.build("identity", slot.head_size, "fast_weights")
        super().__init__(slot, options, identity, has_query=False)

    def writers(self, mask: Mask, keys: Tensor, values: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        writes = super().writers(mask, keys, values)
        # Squashing would shrink the memory at padding too.
        return (*writes, mask.keep_values(torch.ones_like(keys[:, :1, :, :1]))) if self.options.squash else writes

    def scan(self, queries: Tensor, writes: tuple[Tensor, ...], memory: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self.options.squash:
            return super().scan(queries, writes, memory)
        if is_open(queries.shape[2]):
            raise InputError(
                "fast_weights with squash takes one position after the other, and a graph for every length holds no "
                "loop; write squash: false"
            )
        keys, values, real = writes
        memory = no_memory(keys, values) if memory is None else memory
        outputs = []
        for query, key, value, is_real in zip(
            *(each.split(1, 2) for each in (queries, keys, values, real)), strict=True
        ):
            written = (memory + key.transpose(-1, -2) @ value).tanh()
            memory = torch.where(is_real > 0, written, memory)
            outputs.append(query @ memory)
        return torch.cat(outputs, 2), memory

    def write(self, writes: tuple[Tensor, ...]) -> Tensor:
        return self.scan(torch.zeros_like(writes[0]), writes, None)[1] if self.options.squash else super().write(writes)


def no_memory(keys: Tensor, values: Tensor) -> Tensor:
    """[B, H, F, d] of zeros."""
    return keys.new_zeros(*keys.shape[:2], keys.shape[-1], values.shape[-1])


def in_chunks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """[B, H, T, .] as [B, H, T / C, C, .], with zeros, which write nothing, where T is no multiple of C.

    A T that is left open is one chunk.
    """
    length = tensors[0].shape[2]
    if is_open(length):  # a graph holds no loop over chunks
        return tuple(each.unsqueeze(2) for each in tensors)
    chunk = min(CHUNK, length)
    if missing := -length % chunk:
        tensors = tuple(F.pad(each, (0, 0, 0, missing)) for each in tensors)
    return tuple(each.unflatten(2, (-1, chunk)) for each in tensors)


def sum_in_chunks(queries: Tensor, keys: Tensor, values: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
    """The causal sum rule: q_i (memory + sum_{j <= i} k_j v_j^T), and the memory after the last position.

    Within a chunk it is a masked product, between chunks a running sum of the matrices that they write.

    Args:
        queries, keys: [B, H, T, F].
        values: [B, H, T, d].
        memory: [B, H, F, d], or None for zeros.
    """
    length = queries.shape[2]
    memory = no_memory(keys, values) if memory is None else memory
    if length == 1:
        memory = memory + keys.transpose(-1, -2) @ values
        return queries @ memory, memory
    queries, keys, values = in_chunks(queries, keys, values)
    before = []
    for written in (keys.transpose(-1, -2) @ values).unbind(2):  # `cumsum` over so few large matrices is slower
        before.append(memory)
        memory = memory + written
    y = queries @ torch.stack(before, 2) + (queries @ keys.transpose(-1, -2)).tril() @ values
    return y.flatten(2, 3)[:, :, :length], memory
