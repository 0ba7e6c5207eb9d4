"""Hard-coded Gaussian attention (You, Sun & Iyyer, ACL 2020, arXiv:2005.00742).

The authors' fast paths cannot run (an attribute that is never set, a kernel of width -1); these are written from
equation 3 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bareformers.errors import InputError
from bareformers.mixers.base import MapMixer, Slot, apply_map
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import MixerState
from bareformers.registry import mixer

# The weights of this many standard deviations and more from the centre are below 1e-7 of the row's sum.
REACH = 5.5
# Up to this many keys the small matrix, shared by the batch, is faster than a convolution.
SHORT = 64


@mixer(
    "gaussian",
    roles={"encoder", "decoder", "cross"},
    paper="You, Sun & Iyyer, ACL 2020, arXiv:2005.00742",
    parameters="2*d*d",
    state="t*d if role == 'cross' else window*(d + h*normalize)",
)
class Gaussian(MapMixer):
    """Each head averages the values around `position + offset` with fixed Gaussian weights, which do not sum to 1."""

    reads_queries = False

    @dataclass
    class Options:
        # centres, tiled over heads; by default -1 and 1, in the decoder -1 and 0
        offsets: tuple[int, ...] | None = None
        std: float | tuple[float, ...] = 1.0  # in positions; several are tiled over heads
        length_ratio: float | None = None  # cross only: context positions per query position; by default the data's
        normalize: bool = False  # divide each row by its sum over the visible keys (the paper does not)

        def __post_init__(self) -> None:
            stds = self.std if isinstance(self.std, tuple) else (self.std,)
            if not stds or min(stds) <= 0:
                raise InputError(f"gaussian needs a std above 0 for every head, not {self.std}")
            if self.length_ratio is not None and self.length_ratio <= 0:
                raise InputError(f"gaussian needs a length_ratio above 0, not {self.length_ratio}")
            if self.offsets is not None and not self.offsets:
                raise InputError("gaussian needs at least one offset, as in offsets: [-1, 1]")

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options)
        if options.length_ratio is not None and slot.role != "cross":
            raise InputError(
                "gaussian reads length_ratio in the cross role only; "
                "write it under cross_mixer, as in cross_mixer: {name: gaussian, length_ratio: 1.1}"
            )
        self.length_ratio = slot.length_ratio if options.length_ratio is None else options.length_ratio
        offsets = options.offsets or ((-1, 0) if slot.role == "decoder" else (-1, 1))
        stds = options.std if isinstance(options.std, tuple) else (options.std,)
        heads = range(slot.num_heads)
        self.offsets = [offsets[head % len(offsets)] for head in heads]
        self.stds = [stds[head % len(stds)] for head in heads]
        if options.normalize and any(abs(o) > 4 * std for o, std in zip(self.offsets, self.stds, strict=True)):
            raise InputError("gaussian cannot normalize rows whose centre lies over 4 std outside; write a larger std")
        self.radius = math.ceil(REACH * max(self.stds))
        self.first = min(min(self.offsets) - self.radius, 0)
        self.last = 0 if slot.role == "decoder" else max(max(self.offsets) + self.radius, 0)

    @property
    def window(self) -> int:
        """How many earlier positions an output still depends on."""
        return -self.first

    def density(self, distance: Tensor) -> Tensor:
        """The normal density at `distance` [.., H, T, S] from each head's centre, in positions."""
        std = self.widths(distance)
        return torch.exp(-0.5 * (distance / std) ** 2) / (std * math.sqrt(2 * math.pi))

    def centres(self, like: Tensor) -> Tensor:
        """[H, 1, 1]: each head's offset. Built here, since `from_pretrained` loses computed buffers."""
        return self.per_head(self.offsets, like)

    def widths(self, like: Tensor) -> Tensor:
        """[H, 1, 1]: each head's standard deviation."""
        return self.per_head(self.stds, like)

    def per_head(self, numbers: Sequence[float], like: Tensor) -> Tensor:
        """On the device of `like`, in its precision or float32, whichever is better."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.tensor(numbers, dtype=dtype, device=like.device)[:, None, None]

    def weights(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        ratio, offsets = self.length_ratio if context is not None else 1.0, self.centres(x)
        centres = ratio * mask.query_positions[:, None, :, None].to(offsets.dtype) + offsets
        distance = mask.key_positions[:, None, None, :] - centres
        if self.options.normalize:
            return mask.softmax(-0.5 * (distance / self.widths(x)) ** 2)
        weights = self.density(distance)
        return weights if mask.allowed is None else weights * mask.allowed

    def mix(
        self,
        values: Tensor | None,
        x: Tensor,
        mask: Mask,
        context: Tensor | None,
        state: MixerState | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        weights = None
        drops = self.training and self.slot.dropout > 0
        if want_weights or drops or (state is None or context is not None) and self.is_short(mask):
            weights = self.weights(x, mask, context, state)
        if context is not None:
            values = self.all_values(values, context, state)
            if weights is None:
                return self.gathered(mask.keep_values(values), mask), None
            return apply_map(self.dropout(weights).to(values.dtype), values), weights if want_weights else None
        assert values is not None
        if weights is not None and state is None:
            return apply_map(self.dropout(weights).to(values.dtype), values), weights if want_weights else None
        return self.convolved(mask.keep_values(values), mask, state), weights

    def is_short(self, mask: Mask) -> bool:
        """Whether the matrix is known to be so small that it is the faster way."""
        return not mask.is_open and mask.num_keys <= SHORT

    def convolved(self, values: Tensor, mask: Mask, state: MixerState | None) -> Tensor:
        """The self roles as a short convolution over positions: memory linear in T; [B, H, T, d] -> the same."""
        if self.options.normalize:
            values = torch.cat([values, mask.keep_values(torch.ones_like(values[..., :1]))], -1)
        batch, num_heads, length, size = values.shape
        if state is None or "values" not in state:
            past = values.new_zeros(batch, num_heads, self.window, size)
        else:
            past = state["values"]
        padded = torch.cat([past, values, values.new_zeros(batch, num_heads, self.last, size)], 2)
        if state is not None:
            end = padded.shape[2] - self.last
            state["values"] = padded[:, :, end - self.window : end].clone()  # a view would keep the whole prompt alive
        reach = torch.arange(self.first, self.last + 1, device=values.device)
        kernel = self.density(reach - self.centres(values)).to(values.dtype)  # [H, 1, window + 1 + last]
        if length == 1:
            mixed = kernel @ padded
            return mixed[..., :-1] / mixed[..., -1:].clamp_min(1e-9) if self.options.normalize else mixed
        channels = torch.cat(padded.transpose(2, 3).unbind(1), 1)
        mixed = F.conv1d(channels, kernel.repeat_interleave(size, 0), groups=num_heads * size)
        mixed = mixed.view(batch, num_heads, size, length).transpose(2, 3)
        if self.options.normalize:
            mixed = mixed[..., :-1] / mixed[..., -1:].clamp_min(1e-9)
        return mixed

    def gathered(self, values: Tensor, mask: Mask) -> Tensor:
        """The cross role: the keys within reach of `length_ratio * position + offset`, one tap at a time.

        values: [B, H, S, d], zero at padding -> [B, H, T, d]; never a T x S matrix.
        """
        batch, num_heads, num_keys, size = values.shape
        offsets, std = self.centres(values)[..., 0], self.widths(values)[..., 0]
        centre = self.length_ratio * mask.query_positions[:, None, :].to(offsets.dtype) + offsets
        centre = centre.expand(batch, -1, -1)
        start = mask.key_positions.new_zeros(1) if mask.keep is None else mask.keep.int().argmax(1)
        count = mask.key_positions.new_full((1,), num_keys) if mask.keep is None else mask.keep.sum(1)
        last = (count - 1).clamp_min(0)[:, None, None]
        nearest = torch.minimum(centre.clamp_min(0), last)
        # A normalised row keeps its weight however far from the keys its centre lies.
        peak = ((nearest - centre) / std) ** 2 if self.options.normalize else 0.0
        mixed, total = values.new_zeros(batch, num_heads, mask.num_queries, size), torch.zeros_like(centre)
        for tap in range(-self.radius, self.radius + 2):
            position = nearest.floor().long() + tap
            inside = (position >= 0) & (position <= last)
            exponent = torch.where(inside, -0.5 * (((position - centre) / std) ** 2 - peak), -torch.inf)
            weight = exponent.exp() / (std * math.sqrt(2 * math.pi))
            total = total + weight
            index = (position + start[:, None, None]).clamp(0, num_keys - 1)
            picked = values.gather(2, index[..., None].expand(-1, -1, -1, size))
            mixed = mixed + weight[..., None].to(values.dtype) * picked
        return mixed / total[..., None].to(values.dtype) if self.options.normalize else mixed
