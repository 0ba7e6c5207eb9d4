"""The contract of a block: how the stack calls a layer, whatever runs through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from bareformers.blocks.layers import FeedForward, norm
from bareformers.mixers.base import SelfInitialised, TokenMixer
from bareformers.mixers.dropout import Dropout
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import LayerState


@dataclass(frozen=True)
class Place:
    """Where a block stands and the sizes of what it holds.

    Attributes:
        role: of the stack, `encoder` or `decoder`.
        layer: depth, from 0, of `num_layers`.
        num_other_layers: depth of the other stack of an encoder-decoder; 0 where there is none.
        hidden_size: D.
        intermediate_size: width of the feed-forward network.
        hidden_act: its activation.
        norm: `layer`, `rms` or `none`.
        norm_eps: added to the variance.
        dropout: on the output of every sub-layer and inside the feed-forward network.
        use_bias: whether linear maps carry a bias.
    """

    role: str
    layer: int
    num_layers: int
    num_other_layers: int
    hidden_size: int
    intermediate_size: int
    hidden_act: str
    norm: str
    norm_eps: float
    dropout: float
    use_bias: bool

    @property
    def is_first(self) -> bool:
        return self.layer == 0

    @property
    def is_last(self) -> bool:
        return self.layer == self.num_layers - 1

    def new_norm(self, kept: bool = False) -> nn.Module:
        """A norm; with `norm: none` nothing, but for one that is `kept`, a LayerNorm."""
        if self.norm == "none":
            return norm("layer", self.hidden_size, self.norm_eps) if kept else nn.Identity()
        return norm(self.norm, self.hidden_size, self.norm_eps)


@dataclass
class Signals:
    """What a layer reads besides its stream, and the maps that it leaves behind.

    Attributes:
        mask: who sees whom among the positions.
        context: [B, S, D] for the cross role, or None.
        context_mask: who sees whom between positions and context.
        state: what this layer remembers while decoding, or None.
        want_weights: whether `weights` is to be filled.
        weights: by role (`self`, `cross`), [B or 1, H, T, S].
    """

    mask: Mask
    context: Tensor | None = None
    context_mask: Mask | None = None
    state: LayerState | None = None
    want_weights: bool = False
    weights: dict[str, Tensor] = field(default_factory=dict)


class Block(GradientCheckpointingLayer, SelfInitialised):
    """A layer: mixers, a feed-forward network, norms and skips. The stream between layers is opaque to the stack.

    A subclass lives in a file of its own that opens with its wiring as a diagram, carries `@block(name, paper=...)`,
    and gives `forward`, and `open`, `hidden` and `close` where the stream is more than the hidden states. It makes its
    own norms.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    needs_map: ClassVar[bool]
    norm_free: ClassVar[bool]
    replaceable: ClassVar[bool]

    @dataclass
    class Options:
        """This block takes no options."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__()
        self.place, self.options = place, options
        self.mixer, self.cross_mixer = mixer, cross_mixer
        self.ffn: Any = None
        if mixer is None or mixer.part != "block":
            self.ffn = FeedForward(
                place.hidden_size, place.intermediate_size, place.hidden_act, place.dropout, place.use_bias
            )
        self.dropout = Dropout(place.dropout)

    def open(self, x: Tensor) -> Any:
        """The stream that enters the first block, from embeddings [B, T, D]."""
        return x

    def hidden(self, stream: Any) -> Tensor:
        """The hidden states [B, T, D] of a stream, as the next sub-layer reads them."""
        return stream

    def close(self, stream: Any) -> Tensor:
        """Hidden states [B, T, D] from the stream that leaves the last block."""
        return stream

    def forward(self, stream: Any, signals: Signals) -> Any:
        """One layer; returns the stream."""
        raise NotImplementedError

    def fold(self) -> None:
        """Take into the weights what only multiplies them, for inference; outputs stay what they are."""

    def mix(self, x: Tensor, signals: Signals) -> Tensor:
        """What the self mixer makes of x, [B, T, D]; dropout included."""
        return self.dropout(self._run(self.mixer, x, signals, "self"))

    def read(self, x: Tensor, signals: Signals) -> Tensor:
        """What the cross mixer makes of x and the context, [B, T, D]; dropout included."""
        return self.dropout(self._run(self.cross_mixer, x, signals, "cross"))

    def feed_forward(self, x: Tensor) -> Tensor:
        """What the feed-forward network makes of x, [B, T, D]; dropout included."""
        return self.dropout(self.ffn(x))

    def _run(self, mixer: TokenMixer, x: Tensor, signals: Signals, role: str) -> Tensor:
        cross = role == "cross"
        y, weights = mixer(
            x,
            signals.context_mask if cross else signals.mask,
            context=signals.context if cross else None,
            state=signals.state[role] if signals.state is not None else None,
            want_weights=signals.want_weights,
        )
        if weights is not None:
            signals.weights[role] = weights
        return y


class SequentialBlock(Block):
    """A block whose sub-layers, each with a norm of its own, come one after the other: self, cross, feed-forward."""

    norms_inputs: ClassVar[bool] = True
    """Whether a norm comes before its sub-layer, or after the skip."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.replaces = mixer is not None and mixer.part not in ("mixer", "head")
        has_mixer = mixer is not None and not self.replaces
        self.mixer_norm = place.new_norm(kept=place.is_first) if has_mixer else None
        self.cross_norm = None
        if cross_mixer is not None:
            # A norm before a mixer that does not look would never learn.
            is_read = cross_mixer.reads_queries or not self.norms_inputs
            self.cross_norm = place.new_norm() if is_read else nn.Identity()
        self.ffn_norm = place.new_norm(kept=place.is_first and mixer is None) if self.ffn is not None else None

    def replaced(self, x: Tensor, signals: Signals) -> Tensor:
        """The stream behind what a mixer stands for that is more than a mixer, [B, T, D]; x where it is not."""
        return self._run(self.mixer, x, signals, "self") if self.replaces else x

    def sublayers(self, signals: Signals) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
        """The norm and the function of each sub-layer that is not `replaced`."""
        if self.mixer_norm is not None:
            yield self.mixer_norm, lambda x: self.mix(x, signals)
        if self.cross_mixer is not None:
            yield self.cross_norm, lambda x: self.read(x, signals)
        if self.ffn is not None:
            yield self.ffn_norm, self.feed_forward
