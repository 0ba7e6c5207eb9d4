"""Parallel sub-layers (GPT-J; PaLM, Chowdhery et al., JMLR 2023, arXiv:2204.02311, section 2).

    x ─┬─ norm ─┬─ mixer ─ + ─ x'      after the last layer: norm
       │        └─ ffn ────┤
       └───────────────────┘

The cross mixer, where there is one, reads the same normed input and is added to the same sum; that is ours. What mixer
and feed-forward network multiply their input with is one matrix.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bareformers.blocks.base import Block, Place, Signals
from bareformers.mixers.base import MapMixer, TokenMixer
from bareformers.mixers.joint import Joint
from bareformers.registry import block


@block("parallel", paper="Chowdhery et al., JMLR 2023, arXiv:2204.02311")
class Parallel(Block):
    """x + mixer(norm(x)) + ffn(norm(x)), with a norm after the last layer."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.norm = place.new_norm()
        self.final_norm = place.new_norm() if place.is_last else None
        self.joint = None
        if isinstance(mixer, MapMixer):
            self.joint = Joint([*mixer.input_maps(), (mixer, "value"), (self.ffn, "inner")])

    def forward(self, stream: Tensor, signals: Signals) -> Tensor:
        x = self.norm(stream)
        if self.joint is not None:
            self.joint(x)
        stream = stream + self.feed_forward(x)
        if self.mixer is not None:
            stream = stream + self.mix(x, signals)
        if self.cross_mixer is not None:
            stream = stream + self.read(x, signals)
        if self.joint is not None:
            self.joint.forget()
        return stream

    def close(self, stream: Tensor) -> Tensor:
        return self.final_norm(stream)
