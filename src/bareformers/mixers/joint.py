"""Several linear maps of the same input as one matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from bareformers.mixers.shaping import is_loaded


class Share(nn.Module):
    """What stands where one of the joined maps stood; it answers with its part of the product just made."""

    def __init__(self, joint: Joint, rows: slice) -> None:
        super().__init__()
        self.rows = rows
        self._joint = (joint,)  # in a tuple, since the block that has it registers it
        self._given: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        return self._joint[0].weight[self.rows]

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self._joint[0].bias
        return None if bias is None else bias[self.rows]

    def give(self, part: Tensor) -> None:
        """Take the product for the one call that follows."""
        self._given = [part]

    def take(self) -> Tensor | None:
        """The part, once."""
        return self._given.pop() if self._given else None

    def forward(self, x: Tensor) -> Tensor:
        given = self.take()
        return F.linear(x, self.weight, self.bias) if given is None else given

    def zero(self) -> None:
        """Initialise the rows of this map with zeros."""
        for parameter in self._joint[0].parameters():
            if not is_loaded(parameter):
                parameter.data[self.rows] = 0.0


class Joint(nn.Linear):
    """Linear maps of one input, joined; each leaves a `Share` in its place.

    Args:
        maps: the owner of each map and its name there, as in (ffn, "inner"); all of the same input size.
    """

    def __init__(self, maps: Sequence[tuple[nn.Module, str]]) -> None:
        linears = [getattr(owner, name) for owner, name in maps]
        self.sizes = [linear.out_features for linear in linears]
        super().__init__(linears[0].in_features, sum(self.sizes), bias=linears[0].bias is not None)
        self.shares: tuple[Share, ...] = ()
        stop = 0
        for owner, name in maps:
            start, stop = stop, stop + getattr(owner, name).out_features
            share = Share(self, slice(start, stop))
            setattr(owner, name, share)
            self.shares += (share,)

    def forward(self, x: Tensor) -> Tensor:
        """Make the product, and hand each share its part; returns x."""
        product = super().forward(x)
        parts = Parts.apply(product, self.sizes) if torch.is_grad_enabled() else product.split(self.sizes, -1)
        for share, part in zip(self.shares, parts, strict=True):
            share.give(part)
        return x

    def forget(self) -> None:
        """Drop the parts that nobody has asked for, which would keep the whole product alive."""
        for share in self.shares:
            share.take()


class Parts(torch.autograd.Function):
    """`split` along the last dimension, whose parts may be written to, and whose backward copies each gradient once.

    That of `split` joins them by `cat`, which takes ten times as long where some are transposed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.sizes = sizes
        return tuple(torch.unsafe_split_with_sizes(x, sizes, -1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].new_empty(*gradients[0].shape[:-1], sum(ctx.sizes))
        for part, gradient in zip(whole.split(ctx.sizes, -1), gradients, strict=True):
            part.copy_(gradient)
        return whole, None


def zero(linear: nn.Linear | Share) -> None:
    """Initialise a linear map, joined or not, with zeros."""
    if isinstance(linear, Share):
        linear.zero()
    else:
        for parameter in linear.parameters():
            init.zeros_(parameter)
