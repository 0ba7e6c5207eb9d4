"""Shallow feed-forward networks in place of attention (Bozic et al., AAAI 2024, arXiv:2311.10642): the ALR family.

A network reads the whole sentence as one vector of L positions x D channels, zeros behind its last token:

    LN(L D) -> Linear(L D, width) -> LeakyReLU -> LN(width) -> Linear(width, out)

Nothing is padded for it. With gain g, bias b, mean m and inverse deviation r of the first norm its first layer is
W1 LN(x) + b1 = r (W1 (g x) - m W1 g) + W1 b + b1, where zeros need no product. What is left of x are three sums over
positions, W1 (g x), x and x^2: a causal network keeps them running, and remembers nothing else while decoding. What
is constant, W1 g and W1 b, takes all of W1: training makes it in one product with W1 (g x), decoding once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import initialization as init

from bareformers.errors import InputError, unknown
from bareformers.mixers.base import SelfInitialised, Slot, TokenMixer, at_least_float32, full_precision
from bareformers.mixers.masks import Mask, is_open
from bareformers.mixers.state import MixerState
from bareformers.mixers.synthesizer import square_factors
from bareformers.registry import ROLES, mixer

PAPER = "Bozic et al., AAAI 2024, arXiv:2311.10642"
EPS = 1e-5  # of both norms
SLOPE = 0.01  # of LeakyReLU below 0

NETWORKS = (
    "nets*(2*(inputs*d + width)"
    " + (inputs*d*width if form == 'full' else inputs*position_width + d*channel_width)"
    " + (width*out if causal else n*width*out if form == 'full' else n*position_width + channel_width*out))"
)
STATE = "nets*width + 2"

Sums = tuple[Tensor, ...]
"""W1 (g x) [nets, .., B, width], and the sums of x and of x^2 [.., B, 1]: of positions, or up to each of them."""


@dataclass
class Size:
    """The options of the whole family; form and beyond are ours."""

    widths: ClassVar[dict[str, int]] = {"XS": 25, "S": 50, "M": 800, "L": 3200, "XL": 12800}

    size: str | None = None  # the width as in the paper, twice that for the cross role; by default S
    width: int | None = None  # of the hidden layer (of each head in aslr), instead of a size
    form: Literal["full", "factorised"] = "full"  # one weight for a position and a channel, or a product of two
    beyond: Literal["error", "interpolate"] = "error"  # encoder: what to do with more tokens than the maximum length

    def __post_init__(self) -> None:
        if self.size is not None and self.width is not None:
            raise InputError(f"a size is a width; write size: {self.size} or width: {self.width}, not both")
        if self.size is not None and self.size not in self.widths:
            raise unknown("size", self.size, self.widths)
        if self.width is not None and self.width < 1:
            raise InputError(f"width is at least 1, not {self.width}")


class Affine(SelfInitialised):
    """Gain and bias of a norm, `shape` for each net."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))

    def init_weights(self, std: float) -> None:
        init.ones_(self.weight)
        init.zeros_(self.bias)


class FullMap(SelfInitialised):
    """The weights between a sentence and `width` numbers, for each net, position and channel: read either way.

    Args:
        writes: whether it makes sentences of the numbers.
    """

    def __init__(self, nets: int, positions: int, channels: int, width: int, writes: bool = False) -> None:
        super().__init__()
        self.std = (width if writes else positions * channels) ** -0.5
        self.weight = nn.Parameter(torch.empty(nets, positions, channels, width))

    def init_weights(self, std: float) -> None:
        init.normal_(self.weight, std=self.std)

    def total(self, x: Tensor, start: int = 0, whole: Tensor | None = None) -> Tensor:
        """What the positions from `start` on, x [nets, B, C, channels], come to together: [nets, B, width].

        Behind it what all positions come to in `whole` [nets, R, positions, channels].
        """
        weight, rows = self.weight.flatten(1, 2), x.flatten(2)
        first, size = start * x.shape[3], rows.shape[2]
        if first or not wants_gradient():
            y = rows @ part(weight, first, first + size)
            return y if whole is None else torch.cat([y, whole.flatten(2) @ weight], 1)
        whole = weight[:, :, :0].transpose(1, 2) if whole is None else whole.flatten(2)
        read: Tensor = Reading.apply(torch.cat([rows, whole[..., :size]], 1), whole[..., size:], weight)
        return read

    def each(self, x: Tensor, start: int) -> Tensor:
        """What each position comes to: x [nets, C, B, channels] -> [nets, C, B, width]."""
        return x @ part(self.weight, start, start + x.shape[1])

    def write(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """The positions from `start` to `stop` out of [nets, B, width]: [nets, B, C, channels]."""
        weight, channels = self.weight.flatten(1, 2), self.weight.shape[2]
        first, last = start * channels, stop * channels
        if first or not wants_gradient():
            y = hidden @ part(weight, first, last).transpose(1, 2)
        else:
            y = Writing.apply(hidden, weight, last)
        return y.unflatten(2, (-1, channels))


class FactorisedMap(SelfInitialised):
    """`FullMap` with P[position, a] C[channel, c] as the weight of number (a, c)."""

    def __init__(self, nets: int, positions: int, channels: int, width: int, writes: bool = False) -> None:
        super().__init__()
        factors = position_and_channel_width(width)
        self.stds = [size**-0.5 for size in (factors if writes else (positions, channels))]
        self.positions = nn.Parameter(torch.empty(nets, positions, factors[0]))
        self.channels = nn.Parameter(torch.empty(nets, channels, factors[1]))

    def init_weights(self, std: float) -> None:
        for factor, width in zip((self.positions, self.channels), self.stds, strict=True):
            init.normal_(factor, std=width)

    def total(self, x: Tensor, start: int = 0, whole: Tensor | None = None) -> Tensor:
        positions = part(self.positions, start, start + x.shape[2])
        y = (positions.transpose(1, 2)[:, None] @ (x @ self.channels[:, None])).flatten(2)
        return y if whole is None else torch.cat([y, self.total(whole)], 1)

    def each(self, x: Tensor, start: int) -> Tensor:
        positions = part(self.positions, start, start + x.shape[1])
        return (positions[:, :, None, :, None] * (x @ self.channels[:, None])[..., None, :]).flatten(3)

    def write(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        numbers = hidden.unflatten(2, (self.positions.shape[2], -1))
        return part(self.positions, start, stop)[:, None] @ numbers @ self.channels[:, None].transpose(2, 3)


MAPS: dict[str, type[FullMap] | type[FactorisedMap]] = {"full": FullMap, "factorised": FactorisedMap}


class Reading(torch.autograd.Function):
    """Rows [nets, R, n] by the first n weights [nets, N, width]; the last rows go on in `rest` [nets, R', N - n].

    The gradient of the weights is put together of two parts; those of slices would be filled up with zeros and added.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rest: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, rest, weight)
        y = rows @ weight[:, : rows.shape[2]]
        y[:, rows.shape[1] - rest.shape[1] :] += rest @ weight[:, rows.shape[2] :]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        (gradient,), saved = gradients, ctx.saved_tensors
        rows, rest, low = (each.to(gradient.dtype) for each in saved)
        of_last = gradient[:, rows.shape[1] - rest.shape[1] :]
        of_rows = gradient @ low[:, : rows.shape[2]].transpose(1, 2)
        of_rest = (low[:, rows.shape[2] :] @ of_last.transpose(1, 2)).transpose(1, 2)
        of_weight = None
        if ctx.needs_input_grad[2]:
            of_weight = one_below_another(saved[2], (rows, gradient), (rest, of_last))
        return of_rows, of_rest, of_weight


class Writing(torch.autograd.Function):
    """The first n numbers that weights [nets, N, width] make of [nets, R, width], with such a gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return hidden @ weight[:, :size].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (gradient,), saved = gradients, ctx.saved_tensors
        hidden, low = (each.to(gradient.dtype) for each in saved)
        of_weight = None
        if ctx.needs_input_grad[1]:
            nothing = gradient.new_empty(len(low), 0, low.shape[1] - gradient.shape[2])
            of_weight = one_below_another(saved[1], (gradient, hidden), (nothing, hidden[:, :0]))
        return gradient @ low[:, : gradient.shape[2]], of_weight, None


def one_below_another(weight: Tensor, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The products a^T b of [nets, R, n] and [nets, R, width] below one another, of the shape of `weight`."""
    found = pairs[0][0].new_empty(weight.shape)
    for (a, b), rows in zip(pairs, found.split([a.shape[2] for a, _ in pairs], 1), strict=True):
        torch.bmm(a.transpose(1, 2), b, out=rows)
    return found.to(weight.dtype)


def part(table: Tensor, start: int, stop: int, dim: int = 1) -> Tensor:
    """The entries of a table from `start` to `stop`; a copy where that is left open, for a view tells if it is all."""
    if is_open(stop):
        return table.index_select(dim, torch.arange(start, stop, device=table.device))
    return table.narrow(dim, start, stop - start)


def wants_gradient() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Kept:
    """A tensor made of parameters, until one of them has changed (unseen: through its `.data`); a copy begins empty."""

    def __init__(self) -> None:
        self.made_of: list[tuple[StorageWeakRef, int]] = []
        self.tensor: Tensor | None = None

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def get(self, parameters: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor:
        """The tensor, made anew where it has to be."""
        made_of = [(StorageWeakRef(each.untyped_storage()), each._version) for each in parameters]
        if self.tensor is None or made_of != self.made_of:
            self.made_of, self.tensor = made_of, make()
        return self.tensor


class Columns(NamedTuple):
    """A batch by position.

    Attributes:
        x: [B, C, D], zeros where a row has no token.
        start: the position of the first column.
        stop: that after the last.
        moved: [B, T, 1] the column that each token went to; None where all of them stay where they are.
    """

    x: Tensor
    start: int
    stop: int
    moved: Tensor | None

    def back(self, y: Tensor) -> Tensor:
        """[B, C, D] by position as [B, T, D] by token."""
        return y if self.moved is None else y.gather(1, self.moved.expand(-1, -1, y.shape[2]))


class FeedForwardMixer(TokenMixer):
    """One network, or one a head, whose outputs of width `out` lie side by side."""

    def __init__(self, slot: Slot, options: Size, nets: int = 1, sees_future: bool = False) -> None:
        super().__init__(slot, options)
        is_cross = slot.role == "cross"
        if slot.dropout:
            raise InputError(f"mixer {self.name!r} has no map whose entries could drop; write attention_dropout: 0")
        if options.beyond == "interpolate" and slot.role != "encoder":
            raise InputError(
                f"{self.name} can interpolate in the encoder role only, for a decoder does not know how long its text "
                f"will be; write beyond: error for {slot.role}_mixer, or raise max_position_embeddings"
            )
        self.nets, self.out, self.causal = nets, slot.hidden_size // nets, slot.role != "encoder" and not sees_future
        self.width = options.width or options.widths[options.size or "S"] * (2 if is_cross else 1)
        self.position_width, self.channel_width = position_and_channel_width(self.width)
        self.context_length = slot.max_context_length if is_cross else 0  # its positions come first
        self.inputs = self.context_length + slot.max_length
        outputs = 1 if self.causal else slot.max_length  # a causal network writes any position with the same weights
        self.input_norm, self.hidden_norm = Affine(nets, self.inputs, slot.hidden_size), Affine(nets, 1, self.width)
        self.first = MAPS[options.form](nets, self.inputs, slot.hidden_size, self.width)
        self.second = MAPS["full" if self.causal else options.form](nets, outputs, self.out, self.width, writes=True)
        self.first_bias = nn.Parameter(torch.empty(nets, 1, self.width)) if slot.use_bias else None
        self.second_bias = nn.Parameter(torch.empty(nets, 1, outputs, self.out)) if slot.use_bias else None
        self.kept = Kept()
        self.output = slot.linear() if self.part in ("mixer", "head") else None

    def init_weights(self, std: float) -> None:
        for bias in (self.first_bias, self.second_bias):
            if bias is not None:
                init.zeros_(bias)

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        context: Tensor | None = None,
        state: MixerState | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        limit, keep = self.slot.max_length, mask.query_keep
        columns = self.columns(x, mask.query_positions, keep, limit, 0 if state is None else state.length)
        if columns.stop > limit:
            y = self.interpolated(columns, keep)
        else:
            y = self.run(columns, self.before(context, mask, state), state)
        y = columns.back(y).to(x.dtype)
        y = y if keep is None else y.masked_fill(~keep[..., None], 0)
        return y if self.output is None else self.output(y), None

    def columns(self, x: Tensor, positions: Tensor, keep: Tensor | None, limit: int, start: int = 0) -> Columns:
        """x [B, T, D] by its positions [B or 1, T], which without padding in front are those from `start` on.

        Padding moves as zeros, and adds nothing where it lands. The largest position of a token is what has to be
        below `limit`.
        """
        stop, moved = start + x.shape[1], None
        in_order = are_in_order(positions, keep, stop) and (keep is None or stop <= limit)
        if keep is not None:
            x = x.masked_fill(~keep[..., None], 0)
        if not in_order:
            if keep is not None:
                positions = positions.masked_fill(~keep, 0)
            start, stop = bounds(positions, stop)
            moved = (positions - start)[..., None].expand(x.shape[0], -1, 1)
            empty = x.new_zeros(x.shape[0], stop - start, x.shape[2])
            x = empty.scatter_add(1, moved.expand_as(x), x)
        if self.options.beyond == "error":
            self.check_length(stop, limit)
        return Columns(x, start, stop, moved)

    def before(self, context: Tensor | None, mask: Mask, state: MixerState | None) -> Sums | None:
        """The sums over what was read earlier: the positions in `state`, and the context, which those include."""
        if state is not None and "hidden" in state:
            return state["hidden"].transpose(0, 1), state["sum"], state["squares"]
        if context is None:
            return None
        return self.total(self.columns(context, mask.key_positions, mask.keep, self.context_length).x, 0)

    def total(self, x: Tensor, start: int, whole: Tensor | None = None) -> Sums:
        """The sums over all columns of x [B, C, D], the inputs from `start` on; behind W1 (g x) also W1 `whole`."""
        gain = part(self.input_norm.weight, start, start + x.shape[1])[:, None]
        products, x = self.first.total(gain * x, start, whole), at_least_float32(x)
        return at_least_float32(products), x.sum((1, 2))[:, None], x.square().sum((1, 2))[:, None]

    def up_to_each(self, x: Tensor, start: int, before: Sums | None) -> Sums:
        """The sums up to each column of x [B, C, D], and `before`: [nets, C, B, width], and [C, B, 1] twice."""
        x = x.transpose(0, 1)
        gain = part(self.input_norm.weight, start, start + x.shape[0])[:, :, None]
        products, x = self.first.each(gain * x, start), at_least_float32(x)
        sums = at_least_float32(products), x.sum(-1, keepdim=True), x.square().sum(-1, keepdim=True)
        return tuple(running(each, None if before is None else before[i]) for i, each in enumerate(sums))

    def run(self, columns: Columns, before: Sums | None, state: MixerState | None) -> Tensor:
        """The outputs at each column, [B, C, D]: of one run that writes all, or causally of one run for each."""
        x, first = columns.x, self.context_length + columns.start
        constants: Tensor | None = None
        if self.causal:
            written = slice(0, 1)
            sums = self.up_to_each(x, first, before)
        else:
            written = slice(columns.start, columns.stop)
            joined = self.affine() if before is None and torch.is_grad_enabled() else None
            products, *others = self.total(x, first, joined)
            if joined is not None:
                products, constants = products.split((len(x), 2), 1)
            total = (products, *others) if before is None else map(torch.add, (products, *others), before)
            sums = tuple(each.unsqueeze(-3) for each in total)
        if state is not None:
            hidden, *others = (each[..., -1, :, :] for each in sums)
            for name, each in zip(("hidden", "sum", "squares"), (hidden.transpose(0, 1), *others), strict=True):
                state[name] = each.clone()  # of the causal sums, all would stay in memory
        hidden = self.hidden(tuple(each.flatten(-3, -2) for each in sums), constants)
        y = self.second.write(hidden.to(x.dtype), written.start, written.stop)
        if self.second_bias is not None:
            y = y + part(self.second_bias, written.start, written.stop, 2)
        y = y.unflatten(1, (-1, x.shape[0]))  # [nets, runs, B, positions that each writes, out]
        return y.permute(2, 1, 3, 0, 4).flatten(3).flatten(1, 2)

    def interpolated(self, columns: Columns, keep: Tensor | None) -> Tensor:
        """`run` with rows of more tokens than positions resampled to these, and what is written for them back."""
        limit = self.slot.max_length
        counts = torch.full((1, 1), columns.stop, device=columns.x.device) if keep is None else keep.sum(1, True)
        ratios = torch.where(counts > limit, (counts - 1) / max(limit - 1, 1), 1.0)
        y = self.run(Columns(resample(columns.x, ratios, limit), 0, limit, None), None, None)
        return resample(y, 1 / ratios, columns.stop)

    def hidden(self, sums: Sums, constants: Tensor | None) -> Tensor:
        """What the second layer reads, [nets, R, width], in at least float32."""
        products, total, squares = sums
        gain, bias = (self.constants() if constants is None else constants).split(1, 1)
        with full_precision(products.device):
            bias = bias if self.first_bias is None else bias + self.first_bias
            mean = total / (self.inputs * self.slot.hidden_size)
            variance = squares / (self.inputs * self.slot.hidden_size) - mean.square()
            scale = (variance.clamp_min(0) + EPS).rsqrt()
            centred = torch.addcmul(products, mean, gain, value=-1)
            hidden = F.leaky_relu(torch.addcmul(bias, scale, centred), SLOPE)
            hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=EPS)
            return torch.addcmul(self.hidden_norm.bias, hidden, self.hidden_norm.weight)

    def affine(self) -> Tensor:
        """g and b of the first norm as rows, [nets, 2, inputs, D]."""
        return torch.stack([self.input_norm.weight, self.input_norm.bias], 1)

    def constants(self) -> Tensor:
        """W1 g and W1 b, [nets, 2, width] in at least float32; without gradients they are kept."""

        def make() -> Tensor:
            with full_precision(self.input_norm.weight.device):
                return at_least_float32(self.first.total(self.affine()))

        parameters = [*self.input_norm.parameters(), *self.first.parameters()]
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(map(torch.is_inference, parameters)):
            return make()
        return self.kept.get(parameters, make)


@mixer("alr", roles=ROLES, paper=PAPER, parameters=f"d*d + {NETWORKS}", state=STATE)
class Alr(FeedForwardMixer):
    """One network for the attention layer: what all heads give, before the output projection, which stays.

    In the encoder role it reads the sentence and writes all positions. In the decoder role one network is called with
    every prefix and writes its last position. In the cross role it reads the context and the target, which with
    `sees_future` (the authors' form) it sees whole, future included: it then writes all positions of the target at
    once, and other ones while decoding, where the target ends at the newest token.
    """

    @dataclass
    class Options(Size):
        sees_future: bool = False  # cross: read the target past the position that is written, as the authors' code does

    def __init__(self, slot: Slot, options: Options) -> None:
        if options.sees_future and slot.role != "cross":
            raise InputError(
                f"alr sees the future in the cross role only, where the authors' code does; "
                f"leave sees_future out of {slot.role}_mixer"
            )
        super().__init__(slot, options, sees_future=options.sees_future)


@mixer("aslr", roles={"encoder", "decoder"}, paper=PAPER, parameters=f"d*d + {NETWORKS}", state=STATE)
class Aslr(FeedForwardMixer):
    """One network for each head, side by side before the output projection, which stays."""

    part = "head"

    @dataclass
    class Options(Size):
        """Those of the family; widths are those of one head."""

        widths: ClassVar[dict[str, int]] = {"XS": 200, "S": 400, "M": 800, "L": 1600}

        def __post_init__(self) -> None:
            if self.size == "XL":
                raise InputError("aslr has no size XL, which the authors' code builds as L; write size: L, or a width")
            super().__post_init__()

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options, nets=slot.num_heads)


@mixer("alrr", roles={"encoder"}, paper=PAPER, parameters=NETWORKS, state="0")
class Alrr(FeedForwardMixer):
    """One network for the attention layer with its norm, output projection and skip: it writes the stream behind."""

    part = "mixer+residual"

    @dataclass
    class Options(Size):
        """Those of the family."""


@mixer("elr", roles={"encoder"}, paper=PAPER, parameters=NETWORKS, state="0")
class Elr(FeedForwardMixer):
    """One network for the whole encoder layer, feed-forward network, norms and skips included."""

    part = "block"

    @dataclass
    class Options(Size):
        """Those of the family."""


def position_and_channel_width(width: int) -> tuple[int, int]:
    """The factors of a width that are closest to each other, the smaller for channels: it costs at every position."""
    channel_width, position_width = square_factors(width)
    return position_width, channel_width


def are_in_order(positions: Tensor, keep: Tensor | None, stop: int) -> bool:
    """Whether all rows have the positions before `stop`, one after the other; positions [B or 1, T], keep [B, T]."""
    if keep is None:
        return positions.shape[0] == 1
    if torch.compiler.is_compiling() or len(positions) > 1:
        return False
    return len(keep) > 1 or int(positions[0, -1]) == stop - 1  # a single row may be padded in front


def bounds(positions: Tensor, length: int) -> tuple[int, int]:
    """The smallest position and the one after the largest; in a graph, which may not depend on them, 0 and `length`."""
    if torch.compiler.is_compiling():
        return 0, length
    return int(positions.min()), int(positions.max()) + 1


def running(x: Tensor, before: Tensor | None) -> Tensor:
    """Sums [.., C, B, R] over C up to each entry, with `before` [.., B, R] in all of them."""
    if not x.is_cpu or torch.compiler.is_compiling():
        with full_precision(x.device):
            sums = x.cumsum(-3)
        return sums if before is None else sums + before.unsqueeze(-3)
    up_to = []
    for each in x.unbind(-3):  # `cumsum` over a few large matrices is slower by an order of magnitude
        before = each if before is None else before + each
        up_to.append(before)
    return torch.stack(up_to, -3)


def resample(x: Tensor, ratios: Tensor, length: int) -> Tensor:
    """x [B, C, D] at the positions 0, ratio, 2 ratio, .. for ratios [B or 1, 1], linearly: [B, length, D]."""
    points = (ratios.float() * torch.arange(length, device=x.device)).clamp_max(x.shape[1] - 1)
    low = points.long()
    left, right = (
        x.gather(1, at[..., None].expand(x.shape[0], -1, x.shape[2]))
        for at in (low, (low + 1).clamp_max(x.shape[1] - 1))
    )
    return torch.lerp(left, right, (points - low)[..., None].to(x.dtype))
