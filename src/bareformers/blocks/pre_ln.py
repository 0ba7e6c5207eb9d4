"""Pre-LN (Xiong et al., ICML 2020, arXiv:2002.04745).

    x ─┬─ norm ─ mixer ─ + ─┬─ norm ─ ffn ─ + ─ x'      after the last layer: norm
       └─────────────────┘  └──────────────┘

The cross mixer, where there is one, is a third sub-layer of the same form between the two. A mixer that stands for
more (`TokenMixer.part`) writes the stream behind it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bareformers.blocks.base import Place, SequentialBlock, Signals
from bareformers.mixers.base import TokenMixer
from bareformers.registry import block


@block("pre_ln", paper="Xiong et al., ICML 2020, arXiv:2002.04745", replaceable=True)
class PreLN(SequentialBlock):
    """x + F(norm(x)), with a norm after the last layer."""

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.final_norm = place.new_norm() if place.is_last else None

    def forward(self, stream: Tensor, signals: Signals) -> Tensor:
        stream = self.replaced(stream, signals)
        for norm, function in self.sublayers(signals):
            stream = stream + function(norm(stream))
        return stream

    def close(self, stream: Tensor) -> Tensor:
        return self.final_norm(stream)
