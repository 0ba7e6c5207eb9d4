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
    """What stands where one of the joined maps stood: its rows of the joint map."""

    def __init__(self, linear: nn.Linear, rows: slice) -> None:
        super().__init__()
        self.rows = rows
        self._linear = (linear,)  # in a tuple, since the `Joint` registers it
        self._given: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        return self._linear[0].weight[self.rows]

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self._linear[0].bias
        return None if bias is None else bias[self.rows]

    def give(self, x: Tensor, part: Tensor) -> None:
        """Take what the joint product made of x, for one call with this x."""
        self._given = x, part

    def forget(self) -> None:
        self._given = None

    def forward(self, x: Tensor) -> Tensor:
        given, self._given = self._given, None
        return given[1] if given is not None and given[0] is x else F.linear(x, self.weight, self.bias)

    def zero(self) -> None:
        """Initialise the rows of this map with zeros."""
        for parameter in self._linear[0].parameters():
            if not is_loaded(parameter):
                parameter.data[self.rows] = 0.0


class Joint(nn.Module):
    """Linear maps of one input, joined; each leaves a `Share` in its place.

    Args:
        maps: the owner of each map and its name there, as in (ffn, "inner"); all of one input size, and all with a bias
            or all without.
    """

    def __init__(self, maps: Sequence[tuple[nn.Module, str]]) -> None:
        super().__init__()
        linears = [getattr(owner, name) for owner, name in maps]
        biased = {linear.bias is not None for linear in linears}
        assert len(biased) == 1, "some maps have a bias and others none"
        self.sizes = [linear.out_features for linear in linears]
        self.linear = nn.Linear(linears[0].in_features, sum(self.sizes), bias=biased.pop())
        self.shares: tuple[Share, ...] = ()
        stop = 0
        for owner, name in maps:
            start, stop = stop, stop + getattr(owner, name).out_features
            share = Share(self.linear, slice(start, stop))
            setattr(owner, name, share)
            self.shares += (share,)

    def forward(self, x: Tensor) -> None:
        """Make the product of x and hand each share its part."""
        product = self.linear(x)
        parts = Parts.apply(product, self.sizes) if torch.is_grad_enabled() else product.split(self.sizes, -1)
        for share, part in zip(self.shares, parts, strict=True):
            share.give(x, part)

    def forget(self) -> None:
        """Drop the parts that nobody has asked for, which would keep the whole product alive."""
        for share in self.shares:
            share.forget()


class Parts(torch.autograd.Function):
    """`split` along the last dimension, whose parts may be written to, and whose backward copies each gradient once.

    That of `split` joins them by `cat`, which is slow where some are transposed.
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
