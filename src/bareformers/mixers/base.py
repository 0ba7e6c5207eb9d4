"""The contract of a mixer: what it is told, what it is given, what it returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers.dropout import Dropout
from bareformers.mixers.masks import Mask
from bareformers.mixers.shaping import Shaping
from bareformers.mixers.state import MixerState


@dataclass(frozen=True)
class Slot:
    """The place that a mixer is built for.

    Attributes:
        role: `encoder` (sees both sides), `decoder` (sees no later position) or `cross` (reads the context).
        layer: depth, from 0.
        hidden_size: D.
        num_heads: H; D is a multiple of it.
        max_length: the most positions that queries come from; a limit only for mixers of fixed length.
        max_context_length: the same for the context of the cross role.
        length_ratio: cross only, context positions for each query position, as in the training data.
        dropout: probability with which a mixer that has a map drops its entries while training.
        use_bias: whether linear maps carry a bias.
        grid_width: positions in a row of the grid that they are laid out in, as of the patches of an image.
        num_leading: positions before that grid, as of a class token.
    """

    role: str
    layer: int
    hidden_size: int
    num_heads: int
    max_length: int
    max_context_length: int
    length_ratio: float = 1.0
    dropout: float = 0.0
    use_bias: bool = True
    grid_width: int | None = None
    num_leading: int = 0

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def max_keys(self) -> int:
        """The most positions that keys come from."""
        return self.max_context_length if self.role == "cross" else self.max_length

    def linear(self) -> nn.Linear:
        """A D -> D map."""
        return nn.Linear(self.hidden_size, self.hidden_size, bias=self.use_bias)


class SelfInitialised(nn.Module):
    """A module that knows how its tensors start, where a normal distribution of the usual width would not suit."""

    def init_weights(self, std: float) -> None:
        """Fill them, through `transformers.initialization`, which leaves alone what was loaded.

        A model calls this on every such module, those inside first: a block has the last word on its mixer.

        Args:
            std: what linear maps of the model's width are initialised with.
        """


class TokenMixer(SelfInitialised):
    """Moves information between positions.

    A subclass lives in a file of its own, carries `@mixer(name, roles=..., paper=..., parameters=..., state=...)` and,
    where it has any, a dataclass `Options` whose fields are its YAML keys. Every law in `tests/laws` runs on it.
    """

    name: ClassVar[str]
    roles: ClassVar[frozenset[str]]
    paper: ClassVar[str]
    parameters_formula: ClassVar[str]
    state_formula: ClassVar[str]
    floor: ClassVar[bool]
    reads_queries: ClassVar[bool] = True
    """Whether y of the cross role depends on x, or on the context and positions only."""
    absent: ClassVar[bool] = False
    """Whether a block leaves the whole sub-layer out, norm included."""
    has_map: ClassVar[bool] = False
    """Whether it has an explicit map, which a block can shape."""
    part: ClassVar[str] = "mixer"
    """What its output is: that of the attention, written at once (`mixer`) or `head` by head; or the stream behind
    norm, attention and skip (`mixer+residual`); or the stream behind the whole layer (`block`)."""

    @dataclass
    class Options:
        """This mixer takes no options."""

    def __init__(self, slot: Slot, options: Any) -> None:
        super().__init__()
        self.slot = slot
        self.options = options

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        context: Tensor | None = None,
        state: MixerState | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix.

        Args:
            x: [B, T, D], the positions that are new since `state`.
            mask: who sees whom, over what is remembered too.
            context: [B, S, D], what the cross role reads; None in the self roles.
            state: what earlier calls remembered and later ones will need; None outside decoding.
            want_weights: whether to return the map, where the mixer has one.

        Returns:
            y [B, T, D], and the weights [B or 1, H, T, S] or None.
        """
        raise NotImplementedError

    def heads(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, H, T, d]."""
        return x.unflatten(-1, (self.slot.num_heads, self.slot.head_size)).transpose(1, 2)

    def check_length(self, length: int, limit: int) -> None:
        """Raise where a mixer of fixed length is given more than it was built for."""
        if length > limit:
            raise InputError(
                f"mixer {self.name!r} has a fixed length of {limit} positions and was given {length}; raise "
                f"max_position_embeddings or take a mixer without a limit, such as 'dot_product' or 'gaussian'"
            )


class MapMixer(TokenMixer):
    """A mixer with an explicit map: per head, the weights times the projected values, and an output projection.

    A subclass gives `weights`, and a `mix` of its own where there is something faster than the matrix product. A block
    may shape the map and take the projections away; see `shape`.
    """

    has_map = True

    def __init__(self, slot: Slot, options: Any) -> None:
        super().__init__(slot, options)
        self.value: nn.Module = slot.linear()
        self.output: nn.Module = slot.linear()
        self.dropout = Dropout(slot.dropout)
        self.shaping: Shaping | None = None

    def shape(self, centred: bool = True, identity: bool = False) -> None:
        """Make the map alpha I + beta A - gamma C; with `identity`, values and outputs are what goes in and comes out.

        The block that asks for it also calls `start_shaped` where it initialises; not for the cross role.
        """
        self.shaping = Shaping(self.slot.num_heads, centred)
        if identity:
            self.value, self.output = nn.Identity(), nn.Identity()

    def start_shaped(self) -> None:
        """Initialise such that the shaped map is the identity."""
        assert self.shaping is not None
        self.shaping.start(self.shaping.is_centred and self.start_uniform())

    def start_uniform(self) -> bool:
        """Initialise such that every visible key weighs the same; False where the map cannot."""
        return False

    def input_maps(self) -> list[tuple[nn.Module, str]]:
        """The linear maps of x but for that of the values, each as its owner and its name there."""
        return []

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        """The map [B or 1, H, T, S]; called once a forward pass, since it may write to `state`."""
        raise NotImplementedError

    def mix(
        self,
        values: Tensor | None,
        x: Tensor,
        mask: Mask,
        context: Tensor | None,
        state: MixerState | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Mixed values [B, H, T, d], and the weights where they are wanted.

        values: [B, H, S', d] of what is new, x or the context; None where `state` holds those of the context.
        """
        values = self.all_values(values, context, state)
        weights = self.weights(x, mask, context, state)
        return apply_map(self.dropout(weights).to(values.dtype), values), weights if want_weights else None

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        context: Tensor | None = None,
        state: MixerState | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        is_read = context is not None and state is not None and bool(state.tensors)
        values = None if is_read else self.heads(self.value(x if context is None else context))
        mixed, weights = self.mix(values, x, mask, context, state, want_weights)
        if self.shaping is not None:
            assert values is not None
            mixed, weights = self.shaping(mixed, values, weights, mask, state)
        return self.output(merge_heads(mixed)), weights

    def all_values(self, new: Tensor | None, context: Tensor | None, state: MixerState | None) -> Tensor:
        """The values [B, H, S, d] of all positions that there are to read, those of `state` included."""
        if new is None:
            assert state is not None
            return state["values"]
        if state is None:
            return new
        if context is None:
            return state.append("values", new, dim=2)
        state["values"] = new
        return new

    def remember(
        self,
        name: str,
        project: Callable[[Tensor], Tensor],
        x: Tensor,
        context: Tensor | None,
        state: MixerState | None,
    ) -> Tensor:
        """`project` ([B, S, D] -> [B, H, S, d]) of all positions seen so far, or of the context (once)."""
        if context is None:
            new = project(x)
            return new if state is None else state.append(name, new, dim=2)
        if state is None:
            return project(context)
        if name not in state:
            state[name] = project(context)
        return state[name]


class SoftmaxMixer(MapMixer):
    """A mixer whose map is one softmax of logits; `mixture` can add its logits to those of others."""

    def scores(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        """Logits [B or 1, H, T, S], of hidden keys too; called once a forward pass, since it may write to `state`."""
        raise NotImplementedError

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        return mask.softmax(self.scores(x, mask, context, state))


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, d] -> [B, T, D]."""
    return x.transpose(1, 2).flatten(2)


def apply_map(weights: Tensor, values: Tensor) -> Tensor:
    """`weights @ values`; a map that the batch shares ([1, H, T, S]) is applied to all rows in one product."""
    if weights.shape[0] == values.shape[0]:
        return weights @ values
    return torch.einsum("hts,bhsd->bhtd", weights[0].expand(values.shape[1], -1, -1), values)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it has less, for sums over positions."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def or_one(sums: Tensor) -> Tensor:
    """Sums of weights to divide by, with 1 where nothing has a weight: what is read there is 0."""
    return torch.where(sums > torch.finfo(sums.dtype).tiny, sums, 1.0)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside: what is summed over positions, or kept, is not made in half precision."""
    return torch.autocast(device.type, enabled=False) if device.type != "meta" else nullcontext()


def init_linear(linear: nn.Linear, std: float | None = None) -> None:
    """Weights from a normal distribution of width `std`, by default 1 / sqrt(inputs), and biases of 0."""
    init.normal_(linear.weight, std=std or linear.in_features**-0.5)
    if linear.bias is not None:
        init.zeros_(linear.bias)


def build(spec: str | dict[str, Any], slot: Slot) -> TokenMixer | None:
    """The mixer for `slot`; None where the sub-layer is left out (`none`)."""
    where = f"{slot.role}_mixer of layer {slot.layer}"
    cls, options = registry.mixers.parse(spec, where)
    if slot.role not in cls.roles:
        able = [name for name, other in registry.mixers if slot.role in other.roles]
        raise InputError(f"mixer {cls.name!r} cannot be {where}; these can: {', '.join(able)}")
    return None if cls.absent else cls(slot, options)
