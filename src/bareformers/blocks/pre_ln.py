"""Pre-LN (Xiong et al., ICML 2020, arXiv:2002.04745).

    x ─┬─ norm ─ mixer ─ + ─┬─ norm ─ ffn ─ + ─ x'      after the last layer: norm
       └─────────────────┘  └──────────────┘

The cross mixer, where there is one, is a third sub-layer of the same form between the two.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bareformers.blocks.base import Block, Place, Signals
from bareformers.mixers.base import TokenMixer
from bareformers.registry import block


@block("pre_ln", paper="Xiong et al., ICML 2020, arXiv:2002.04745")
class PreLN(Block):
    """x + F(norm(x)), with a norm after the last layer."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        if cross_mixer is not None and not cross_mixer.reads_queries:
            self.cross_norm = nn.Identity()  # a norm before a mixer that does not look would never learn
        self.final_norm = place.new_norm() if place.is_last else None

    def forward(self, stream: Tensor, signals: Signals) -> Tensor:
        for norm, function in self.sublayers(signals):
            stream = stream + function(norm(stream))
        return stream

    def close(self, stream: Tensor) -> Tensor:
        return self.final_norm(stream)
