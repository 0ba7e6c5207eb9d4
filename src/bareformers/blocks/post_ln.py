"""Post-LN, the original wiring (Vaswani et al., NeurIPS 2017, arXiv:1706.03762), and DeepNorm.

    x ─┬─ mixer ─ + ─ norm ─┬─ ffn ─ + ─ norm ─ x'
       └─ (alpha) ┘         └(alpha)─┘

The cross mixer, where there is one, is a third sub-layer of the same form between the two. A mixer that stands for
more (`TokenMixer.part`) writes the stream behind it. DeepNorm multiplies the skips by alpha, and values, outputs and
feed-forward weights by beta where they are initialised.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bareformers.blocks.base import Place, SequentialBlock, Signals
from bareformers.mixers.shaping import is_loaded
from bareformers.registry import block


@block(
    "post_ln",
    paper="Vaswani et al., NeurIPS 2017, arXiv:1706.03762; DeepNorm: Wang et al., arXiv:2203.00555",
    replaceable=True,
)
class PostLN(SequentialBlock):
    """norm(x + F(x)), or with DeepNorm norm(alpha x + F(x))."""

    norms_inputs = False

    @dataclass
    class Options:
        deep_norm: bool = False  # Wang et al. 2022: stable to a thousand layers

    def init_weights(self, std: float) -> None:
        if self.options.deep_norm:
            _, beta = deep_norm(self.place)
            mixers = [mixer for mixer in (self.mixer, self.cross_mixer) if mixer is not None]
            scaled = [] if self.ffn is None else [self.ffn.inner, self.ffn.outer]
            scaled += [getattr(mixer, name, None) for mixer in mixers for name in ("value", "output")]
            for linear in scaled:
                if isinstance(linear, nn.Linear) and not is_loaded(linear.weight):
                    linear.weight.data *= beta

    def forward(self, stream: Tensor, signals: Signals) -> Tensor:
        alpha = deep_norm(self.place)[0] if self.options.deep_norm else None
        stream = self.replaced(stream, signals)
        for norm, function in self.sublayers(signals):
            stream = norm((stream if alpha is None else alpha * stream) + function(stream))
        return stream


def deep_norm(place: Place) -> tuple[float, float]:
    """alpha and beta of DeepNorm for N encoder and M decoder layers (Wang et al., arXiv:2203.00555, figure 2)."""
    own, other = place.num_layers, place.num_other_layers
    if not other:
        return (2 * own) ** 0.25, (8 * own) ** -0.25
    if place.role == "encoder":
        return 0.81 * (own**4 * other) ** (1 / 16), 0.87 * (own**4 * other) ** (-1 / 16)
    return (3 * own) ** 0.25, (12 * own) ** -0.25
