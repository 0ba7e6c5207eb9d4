"""Hard-coded Gaussian attention (You, Sun & Iyyer, ACL 2020, arXiv:2005.00742) over a grid, as of patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bareformers.errors import InputError
from bareformers.mixers.base import MapMixer, Slot
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState
from bareformers.registry import mixer

NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))


@mixer(
    "gaussian_2d",
    roles={"encoder"},
    paper="You, Sun & Iyyer, ACL 2020, arXiv:2005.00742; two dimensions are ours",
    parameters="2*d*d",
    state="0",
)
class Gaussian2D(MapMixer):
    """Each head averages the values around `place + offset` in a grid, by a Gaussian of rows times one of columns.

    Positions fill the grid row by row. One in front of it, as the class token of an image, has no place in it: it reads
    the mean of the whole grid, and nothing reads it.
    """

    reads_queries = False

    @dataclass
    class Options:
        width: int  # positions in a row of the grid
        # centres as (rows, columns), tiled over heads; by default the neighbours above, below, left and right
        offsets: tuple[tuple[int, int], ...] = NEIGHBOURS
        std: float | tuple[float, ...] = 1.0  # in positions; several are tiled over heads
        normalize: bool = False  # divide each row by its sum over the grid (the paper does not)

        def __post_init__(self) -> None:
            stds = self.std if isinstance(self.std, tuple) else (self.std,)
            if not stds or min(stds) <= 0:
                raise InputError(f"gaussian_2d needs a std above 0 for every head, not {self.std}")
            if self.width < 1:
                raise InputError(f"gaussian_2d needs a width of 1 or more, not {self.width}")
            if not self.offsets:
                raise InputError("gaussian_2d needs at least one offset, as in offsets: [[0, -1], [0, 1]]")

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options)
        if slot.grid_width is not None and slot.grid_width != options.width:
            raise InputError(
                f"gaussian_2d has width {options.width}, and the images have {slot.grid_width} patches in a row; "
                f"write width: {slot.grid_width}"
            )
        stds = options.std if isinstance(options.std, tuple) else (options.std,)
        heads = range(slot.num_heads)
        self.offsets = [options.offsets[head % len(options.offsets)] for head in heads]
        self.stds = [stds[head % len(stds)] for head in heads]

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        # Built here, since `from_pretrained` loses computed buffers.
        dtype, device = torch.promote_types(x.dtype, torch.float32), x.device
        offsets = torch.tensor(self.offsets, dtype=dtype, device=device)
        std = torch.tensor(self.stds, dtype=dtype, device=device)[:, None, None]
        queries, keys = mask.query_positions - self.slot.num_leading, mask.key_positions - self.slot.num_leading
        exponent = torch.zeros((), dtype=dtype, device=device)
        for axis in (0, 1):
            place, other = self.along(axis, queries).to(dtype), self.along(axis, keys).to(dtype)
            centres = place[:, None, :, None] + offsets[:, axis, None, None]
            exponent = exponent - 0.5 * ((other[:, None, None, :] - centres) / std) ** 2
        in_grid = (keys >= 0)[:, None, None, :]
        seen = in_grid if mask.allowed is None else in_grid & mask.allowed
        lowest = torch.finfo(dtype).min
        if self.options.normalize:
            weights = exponent.masked_fill(~seen, lowest).softmax(-1)
        else:
            weights = exponent.exp() / (2 * math.pi * std**2) * seen
        if not self.slot.num_leading:
            return weights
        even = torch.zeros_like(exponent).masked_fill(~seen, lowest).softmax(-1)
        return torch.where((queries >= 0)[:, None, :, None], weights, even)

    def along(self, axis: int, positions: Tensor) -> Tensor:
        """The row (0) or the column (1) of positions in the grid."""
        width = self.options.width
        return positions.div(width, rounding_mode="floor") if axis == 0 else positions.remainder(width)
