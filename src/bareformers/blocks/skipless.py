"""Blocks without a skip around the mixer, whose shaped map starts as the identity (He & Hofmann, ICLR 2024).

v_skipinit, value-SkipInit with shaped attention: values and output projections stay

    x ─ norm ─ values ─ shaped map ─ output ─┬─ norm ─ ffn ─ g ─ + ─ x'
                                             └───────── a ───────┘

sas, the simplified attention sub-block: neither values nor output projections

    x ─ norm ─ shaped map ─┬─ norm ─ ffn ─ g ─ + ─ x'
                           └───────── a ───────┘

sas_p, its parallel form: no skip at all and one norm

    x ─ norm ─┬─ shaped map ─ + ─ x'
              └─ ffn ─ g ─────┘

All end with a norm after the last layer. g, which starts small, and a are trained numbers, as are those of the map.
With `norm: none` only the first norm of all and the last are left. The paper has no encoder-decoder; here the cross
mixer, whose keys are not its queries so that no map of it is an identity, keeps its projections. In v_skipinit and sas
it is a sub-layer between the two with a norm and a skip of its own, in sas_p a third parallel branch with a gain that
starts as that of the feed-forward network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import initialization as init

from bareformers.blocks.base import Block, Place, SequentialBlock, Signals
from bareformers.blocks.layers import Gain, GainedLinear, NearIdentity
from bareformers.errors import InputError
from bareformers.mixers.base import MapMixer, TokenMixer
from bareformers.mixers.joint import Joint
from bareformers.registry import block

PAPER = "He & Hofmann, ICLR 2024, arXiv:2311.01906"


@dataclass
class FeedForwardGain:
    """The option that all three take."""

    ffn_gain: float = 0.1  # of the feed-forward network at the start, O(1 / sqrt(num_hidden_layers)) in the paper

    def __post_init__(self) -> None:
        if self.ffn_gain <= 0:
            raise InputError(f"ffn_gain is above 0, not {self.ffn_gain}")


class Skipless(Block):
    """What the three share: the shaped mixer, a gain of the feed-forward network, and the norm at the end."""

    mixer: MapMixer | None  # type: ignore[assignment]

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.final_norm = place.new_norm(kept=True) if place.is_last else None
        outer = self.ffn.outer
        self.ffn.outer = GainedLinear(outer.in_features, outer.out_features, place.use_bias)

    def init_weights(self, std: float) -> None:
        init.constant_(self.ffn.outer.gain, self.options.ffn_gain)
        if self.mixer is not None:
            self.mixer.start_shaped()

    def drop_projections(self) -> None:
        """Values are the inputs, but for a near identity in the first layer, and there is no output projection."""
        if self.mixer is not None:
            self.mixer.shape(identity=True)
            if self.place.is_first:
                self.mixer.value = NearIdentity(self.place.hidden_size)

    def close(self, stream: Tensor) -> Tensor:
        return self.final_norm(stream)

    def fold(self) -> None:
        self.ffn.outer.fold()
        if self.mixer is not None and self.mixer.shaping is not None:
            self.mixer.shaping.fold()


class SequentialSkipless(Skipless, SequentialBlock):
    """h = S(norm(x)), then a h + g ffn(norm(h))."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.skip_gain = Gain(1.0)

    def forward(self, stream: Tensor, signals: Signals) -> Tensor:
        h = stream if self.mixer is None else self.mix(self.mixer_norm(stream), signals)
        if self.cross_mixer is not None:
            h = h + self.read(self.cross_norm(h), signals)
        return self.skip_gain(h) + self.feed_forward(self.ffn_norm(h))


@block("v_skipinit", paper=PAPER + "; He et al., ICLR 2023, arXiv:2302.10322", needs_map=True, norm_free=True)
class ValueSkipInit(SequentialSkipless):
    """No skip around the mixer; its values and output projections are trained, and orthogonal at the start."""

    @dataclass
    class Options(FeedForwardGain):
        centred: bool = True  # false: alpha I + beta A with beta = 0 at the start (equation 4)

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        if self.mixer is not None:
            self.mixer.shape(centred=options.centred)

    def init_weights(self, std: float) -> None:
        super().init_weights(std)
        if self.mixer is not None:
            for projection in (self.mixer.value, self.mixer.output):
                init.orthogonal_(projection.weight)


@block("sas", paper=PAPER, needs_map=True, norm_free=True)
class SAS(SequentialSkipless):
    """Simplified attention sub-block (equations 12 and 13)."""

    @dataclass
    class Options(FeedForwardGain):
        """Those of the three."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.drop_projections()


@block("sas_p", paper=PAPER, needs_map=True, norm_free=True)
class SASParallel(Skipless):
    """Parallel simplified attention sub-block: S(norm(x)) + g ffn(norm(x))."""

    @dataclass
    class Options(FeedForwardGain):
        """Those of the three."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.norm = place.new_norm(kept=place.is_first)
        self.cross_gain = Gain(options.ffn_gain) if cross_mixer is not None else None
        self.drop_projections()
        # Queries, keys and the first map of the feed-forward network read the same input.
        self.joint = None
        if self.mixer is not None and self.mixer.input_maps():
            self.joint = Joint([*self.mixer.input_maps(), (self.ffn, "inner")])

    def forward(self, stream: Tensor, signals: Signals) -> Tensor:
        x = self.norm(stream)
        if self.joint is not None:
            self.joint(x)
        mixed = x if self.mixer is None else self.mix(x, signals)
        y = mixed + self.feed_forward(x)
        if self.cross_mixer is not None:
            y = y + self.cross_gain(self.read(x, signals))
        if self.joint is not None:
            self.joint.forget()
        return y

    def fold(self) -> None:
        super().fold()
        output = getattr(self.cross_mixer, "output", None)
        if isinstance(output, nn.Linear):
            self.cross_gain.fold(output.weight, output.bias)
