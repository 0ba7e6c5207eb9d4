"""ResiDual (Xie et al., arXiv:2304.14802): a Post-LN stream that is computed with, and a sum of all outputs beside it.

    r ────────── + ────────────────── + ─────────── r'      before the first layer: r = s x
                 s                    s
    x ─┬─ mixer ─┴─ + ─ norm ─┬─ ffn ─┴─ + ─ norm ─ x'      after the last: x + norm(r)
       └────────────┘         └──────────┘

The cross mixer, where there is one, is a third sub-layer of the same form between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bareformers.blocks.base import Place, SequentialBlock, Signals
from bareformers.errors import InputError
from bareformers.mixers.base import TokenMixer
from bareformers.registry import block

Streams = tuple[Tensor, Tensor]


@block("resi_dual", paper="Xie et al., arXiv:2304.14802")
class ResiDual(SequentialBlock):
    """x = norm(x + F(x)) and r = r + s F(x); at the end x + norm(r)."""

    norms_inputs = False

    @dataclass
    class Options:
        scale: float = 1.0  # s, which keeps r in the range of half precision; the norm at the end undoes it

        def __post_init__(self) -> None:
            if self.scale <= 0:
                raise InputError(f"resi_dual needs a scale above 0, not {self.scale}")

    def __init__(self, place: Place, mixer: TokenMixer | None, cross_mixer: TokenMixer | None, options: Any) -> None:
        super().__init__(place, mixer, cross_mixer, options)
        self.final_norm = place.new_norm() if place.is_last else None

    def open(self, x: Tensor) -> Streams:
        return x, self.options.scale * x

    def hidden(self, stream: Streams) -> Tensor:
        return stream[0]

    def forward(self, stream: Streams, signals: Signals) -> Streams:
        x, sums = stream
        for norm, function in self.sublayers(signals):
            y = function(x)
            x, sums = norm(x + y), sums + self.options.scale * y
        return x, sums

    def close(self, stream: Streams) -> Tensor:
        x, sums = stream
        return x + self.final_norm(sums)
