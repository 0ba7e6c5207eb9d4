"""Post-LN, the original wiring (Vaswani et al., NeurIPS 2017, arXiv:1706.03762).

    x ─┬─ mixer ─ + ─ norm ─┬─ ffn ─ + ─ norm ─ x'
       └──────────┘         └────────┘

The cross mixer, where there is one, is a third sub-layer of the same form between the two.
"""

from __future__ import annotations

from torch import Tensor

from bareformers.blocks.base import Block, Signals
from bareformers.registry import block


@block("post_ln", paper="Vaswani et al., NeurIPS 2017, arXiv:1706.03762")
class PostLN(Block):
    """norm(x + F(x))."""

    def forward(self, stream: Tensor, signals: Signals) -> Tensor:
        for norm, function in self.sublayers(signals):
            stream = norm(stream + function(stream))
        return stream
