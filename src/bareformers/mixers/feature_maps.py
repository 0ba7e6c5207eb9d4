"""Feature maps of fast weights: what a key is written under, and a query reads with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import initialization as init

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers.base import SelfInitialised
from bareformers.registry import feature_map


class FeatureMap(SelfInitialised):
    """phi: [.., d] -> [.., size], in float32 or better.

    Attributes:
        size: features per head.
        positive: whether no feature is ever negative, so that sums of them may divide.
    """

    name: ClassVar[str]
    positive: ClassVar[bool] = True

    @dataclass
    class Options:
        """This feature map takes no options."""

    def __init__(self, head_size: int, options: Any) -> None:
        super().__init__()
        self.head_size, self.options = head_size, options
        self.size = head_size

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def up_to_scale(self, x: Tensor) -> Tensor:
        """phi(x) times any positive number for each position, for readers that normalise it away."""
        return self(x)


def build(spec: Any, head_size: int, where: str) -> FeatureMap:
    """The feature map that a user named: `dpfp`, or `{name: dpfp, nu: 2}`."""
    cls, options = registry.feature_maps.parse(spec, where)
    return cls(head_size, options)


@feature_map("identity")
class Identity(FeatureMap):
    """x itself (Schmidhuber 1992)."""

    positive = False

    def forward(self, x: Tensor) -> Tensor:
        return x


@feature_map("elu")
class Elu(FeatureMap):
    """elu(x) + 1 (Katharopoulos et al., ICML 2020, equation 7)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x) + 1


@feature_map("dpfp")
class DPFP(FeatureMap):
    """Deterministic parameter-free projection (Schlag et al., ICML 2021): y_i y_(i-j), y = relu([x, -x]), j = 1..nu."""

    @dataclass
    class Options:
        nu: int = 1  # rolls, each of which adds 2*d features

        def __post_init__(self) -> None:
            if self.nu < 1:
                raise InputError(f"nu is at least 1, not {self.nu}")

    def __init__(self, head_size: int, options: Options) -> None:
        super().__init__(head_size, options)
        if head_size % 2:
            # With an odd size every product can be 0 at once, and nothing is left to normalise.
            raise InputError(f"feature map dpfp needs an even head size, not {head_size}; write other heads")
        if options.nu >= 2 * head_size:
            raise InputError(
                f"feature map dpfp has {2 * head_size - 1} rolls for heads of {head_size}, not {options.nu}"
            )
        self.size = 2 * head_size * options.nu

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x.relu(), (-x).relu()], -1)
        return torch.cat([y * y.roll(j, -1) for j in range(1, self.options.nu + 1)], -1)


@feature_map("favor")
class Favor(FeatureMap):
    """Positive orthogonal random features (Choromanski et al., ICLR 2021, lemma 1), products of which estimate softmax.

    The directions are drawn once and saved with the model: drawn anew, they would not fit what decoding remembers.
    Keys are not divided by their maximum over the sequence, as is often done: it tells earlier outputs of later keys.
    """

    directions: Tensor

    @dataclass
    class Options:
        # random directions, two features each, the same for all heads; by default d ln d
        num_directions: int | None = None

        def __post_init__(self) -> None:
            if self.num_directions is not None and self.num_directions < 1:
                raise InputError(f"num_directions is at least 1, not {self.num_directions}")

    def __init__(self, head_size: int, options: Options) -> None:
        super().__init__(head_size, options)
        num_directions = options.num_directions or max(1, int(head_size * math.log(head_size)))
        self.register_buffer("directions", torch.empty(num_directions, head_size))
        self.size = 2 * num_directions

    def init_weights(self, std: float) -> None:
        size = self.head_size
        if self.directions.device.type == "meta":
            return
        drawn = []
        for start in range(0, len(self.directions), size):
            orthogonal = torch.linalg.qr(torch.randn(size, size, dtype=torch.float32)).Q
            lengths = torch.randn(size, size, dtype=torch.float32).norm(
                dim=1, keepdim=True
            )  # of independent normal vectors
            drawn.append((orthogonal * lengths)[: len(self.directions) - start])
        init.copy_(self.directions, torch.cat(drawn))

    def projected(self, x: Tensor) -> Tensor:
        """[.., d] -> [.., 2m]: R x and -R x."""
        projected = x @ self.directions.to(x.dtype).T
        return torch.cat([projected, -projected], -1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.head_size**-0.25
        exponents = self.projected(x) - x.square().sum(-1, keepdim=True) / 2
        # exp ends at 88, which only a long key along a direction of squared length over 166 comes near.
        return exponents.clamp_max(80.0).exp() * self.size**-0.5

    def up_to_scale(self, x: Tensor) -> Tensor:
        exponents = self.projected(x * self.head_size**-0.25)
        return (exponents - exponents.detach().amax(-1, keepdim=True)).exp()
