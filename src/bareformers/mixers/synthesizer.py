"""Synthesizer (Tay et al., ICML 2021, arXiv:2005.00743): attention maps that compare no tokens.

The authors' factorised random map reduces to one logit for each key, and popular ports never train the random map, or
leave the softmax out; these are written from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers.base import Slot, SoftmaxMixer, apply_map, at_least_float32, build, full_precision, or_one
from bareformers.mixers.masks import Mask
from bareformers.mixers.positions import reach, spread
from bareformers.mixers.state import MixerState
from bareformers.registry import ROLES, mixer

PAPER = "Tay et al., ICML 2021, arXiv:2005.00743"
# Queries at once, where keys after the last of them are left out.
BLOCK = 64

Positions = Tensor | slice


@dataclass
class MaxOffset:
    """The option of the relative form, which is ours."""

    # Logits for offsets key - query up to this (beyond, for the nearest), so that no length is too long; by default
    # for positions, up to the maximum length.
    max_offset: int | None = None

    def __post_init__(self) -> None:
        if self.max_offset is not None and self.max_offset < 1:
            raise InputError(f"max_offset is at least 1, not {self.max_offset}")


class ByOffset(SoftmaxMixer):
    """Logits from a table with a column for each key position or, with `max_offset`, for each offset key - query."""

    def __init__(self, slot: Slot, options: MaxOffset) -> None:
        super().__init__(slot, options)
        self.max_offset = options.max_offset
        if self.max_offset is not None and slot.role == "cross":
            raise InputError(
                f"{self.name} has no max_offset in the cross role, for offsets between two sequences mean nothing; "
                f"give cross_mixer one without it"
            )

    @property
    def columns_of_table(self) -> int:
        """How many logits a query chooses from: one for each key, or for each offset (none ahead in the decoder)."""
        if self.max_offset is None:
            return self.slot.max_keys
        return self.max_offset + 1 if self.slot.role == "decoder" else 2 * self.max_offset + 1

    def column(self, mask: Mask) -> Tensor:
        """[T + S]: the column of the table for each offset of `reach`."""
        assert self.max_offset is not None
        column = reach(mask.num_queries, mask.num_keys, mask.device) + self.max_offset
        return column.clamp(0, self.columns_of_table - 1)


class PositionMixer(SoftmaxMixer):
    """A map that depends on positions alone: one for all inputs, applied to the whole batch in one product."""

    reads_queries = False

    def at(self, queries: Positions, keys: Positions) -> Tensor:
        """The logits [H, .., T, S] at positions [.., T] and [.., S]; keys, or both, may be a slice."""
        raise NotImplementedError

    def scores_of(self, mask: Mask) -> Tensor:
        """The logits [B or 1, H, T, S] of the positions at hand."""
        self.check_length(mask.num_keys, self.slot.max_keys)
        if self.slot.role == "cross" and not torch.compiler.is_compiling():
            self.check_length(int(mask.query_positions.max()) + 1, self.slot.max_length)
        if self.is_shared(mask):
            queries = mask.query_positions[0] if self.slot.role == "cross" else slice(mask.offset, mask.num_keys)
            return self.at(queries, slice(mask.num_keys))[None]
        return self.at(mask.query_positions, mask.key_positions).transpose(0, 1)

    def is_shared(self, mask: Mask) -> bool:
        """Whether padding stands so that the rows of the batch have one map, but for what it hides."""
        return mask.regular and mask.query_positions.shape[0] == 1

    def scores(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        return self.scores_of(mask)

    def mix(
        self,
        values: Tensor | None,
        x: Tensor,
        mask: Mask,
        context: Tensor | None,
        state: MixerState | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        drops = self.training and self.slot.dropout > 0
        # In float16 the weights that padding leaves over may be too small to divide by.
        if not self.is_shared(mask) or want_weights or drops or x.dtype == torch.float16:
            return super().mix(values, x, mask, context, state, want_weights)
        values = self.all_values(values, context, state)
        if mask.causal and (mask.keep is None or mask.regular):
            return self.causal(values, mask), None
        unpadded = Mask(mask.num_queries, mask.num_keys, causal=mask.causal, device=mask.device)
        weights = unpadded.softmax(self.scores_of(mask)).to(values.dtype)
        if mask.keep is None:
            return apply_map(weights, values), None
        # The rows of the batch differ in what is hidden: it is taken out of numerator and denominator.
        sums = torch.einsum("hts,bs->bht", weights[0], mask.keep.to(weights.dtype))
        return apply_map(weights, mask.keep_values(values)) / or_one(sums)[..., None], None

    def causal(self, values: Tensor, mask: Mask) -> Tensor:
        """Mixed values [B, H, T, d] in blocks of queries, each with the keys up to its last: half of the work."""
        values = values.permute(1, 2, 0, 3).contiguous().permute(2, 0, 1, 3)  # as the product wants them, once
        size = BLOCK if mask.num_queries > 2 * BLOCK else mask.num_queries
        stops = [*range(mask.offset + size, mask.num_keys, size), mask.num_keys]
        blocks = [
            Mask(stop - start, stop, causal=True, device=mask.device)
            for start, stop in zip([mask.offset, *stops], stops, strict=False)
        ]
        if torch.is_grad_enabled():  # the backward of each slice of a table would fill a table
            rows: Iterable[Tensor] = self.scores_of(mask).split(size, 2)
        else:
            rows = map(self.scores_of, blocks)
        mixed = []
        for block, scores in zip(blocks, rows, strict=True):
            visible, bias = at_least_float32(scores[..., : block.num_keys]), block.bias(torch.float32)
            weights = (visible if bias is None else visible + bias).softmax(-1)
            mixed.append(apply_map(weights.to(values.dtype), values[:, :, : block.num_keys]))
        return torch.cat(mixed, 2) if len(mixed) > 1 else mixed[0]


@mixer(
    "random",
    roles=ROLES,
    paper=PAPER,
    parameters="2*d*d + h*(n if max_offset is None else 1)*columns_of_table",
    state="t*d",
)
class Random(ByOffset, PositionMixer):
    """One learned logit for each pair of positions (section 3.2): softmax(R), the same map for every input."""

    @dataclass
    class Options(MaxOffset):
        """Those of the relative form."""

    def __init__(self, slot: Slot, options: MaxOffset) -> None:
        super().__init__(slot, options)
        rows = (slot.max_length,) if options.max_offset is None else ()
        self.logits = nn.Parameter(torch.empty(slot.num_heads, *rows, self.columns_of_table))

    def init_weights(self, std: float) -> None:
        init.normal_(self.logits, std=1.0)  # maps that are sharp enough for heads to differ from the start

    def start_uniform(self) -> bool:
        init.zeros_(self.logits)
        return True

    def at(self, queries: Positions, keys: Positions) -> Tensor:
        return entries(self.logits, queries, keys)

    def is_shared(self, mask: Mask) -> bool:
        return self.max_offset is not None or super().is_shared(mask)

    def scores_of(self, mask: Mask) -> Tensor:
        if self.max_offset is None:
            return super().scores_of(mask)
        return spread(self.logits[:, self.column(mask)], mask.num_keys)[None]


@mixer("fixed_random", roles=ROLES, paper=PAPER, parameters="2*d*d", state="t*d")
class FixedRandom(PositionMixer):
    """`random` with logits that stay as they were drawn (section 3.2)."""

    logits: Tensor

    def __init__(self, slot: Slot, options: Any) -> None:
        super().__init__(slot, options)
        # Persistent, or a loaded model would have another map than the one it was trained with.
        self.register_buffer("logits", torch.empty(slot.num_heads, slot.max_length, slot.max_keys))

    def init_weights(self, std: float) -> None:
        init.normal_(self.logits, std=1.0)

    def at(self, queries: Positions, keys: Positions) -> Tensor:
        return entries(self.logits, queries, keys)


@mixer(
    "factorized_random",
    roles=ROLES,
    paper=PAPER,
    parameters="2*d*d + h*(n + (m if role == 'cross' else n))*rank",
    state="t*d",
)
class FactorizedRandom(PositionMixer):
    """The logits of `random` as a product of two thin matrices (section 3.3): softmax(R1 R2^T)."""

    @dataclass
    class Options:
        rank: int = 8  # k, columns of R1 and R2

        def __post_init__(self) -> None:
            if self.rank < 1:
                raise InputError(f"factorized_random needs a rank of at least 1, not {self.rank}")

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options)
        self.rows = nn.Parameter(torch.empty(slot.num_heads, slot.max_length, options.rank))
        self.columns = nn.Parameter(torch.empty(slot.num_heads, slot.max_keys, options.rank))

    def init_weights(self, std: float) -> None:
        for factor in (self.rows, self.columns):
            init.normal_(factor, std=self.options.rank**-0.25)  # so that the products have the variance 1

    def start_uniform(self) -> bool:
        init.zeros_(self.rows)
        return True

    def at(self, queries: Positions, keys: Positions) -> Tensor:
        with full_precision(self.rows.device):
            return self.rows[:, queries] @ self.columns[:, keys].transpose(-1, -2)


@mixer("dense", roles=ROLES, paper=PAPER, parameters="3*d*d + d*columns_of_table", state="t*d")
class Dense(ByOffset):
    """Each token writes its own row of logits, one for each position (equation 1): W2 ReLU(W1 x + b1) + b2."""

    @dataclass
    class Options(MaxOffset):
        """Those of the relative form."""

    def __init__(self, slot: Slot, options: MaxOffset) -> None:
        super().__init__(slot, options)
        self.hidden = slot.linear()
        self.projection, self.projection_bias = written_rows(slot, self.columns_of_table)

    def init_weights(self, std: float) -> None:
        init_written_rows(self.projection, self.projection_bias)

    def start_uniform(self) -> bool:
        init.zeros_(self.projection)
        return True

    def input_maps(self) -> list[tuple[nn.Module, str]]:
        return [(self, "hidden")]

    def scores(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        hidden = self.heads(F.relu(self.hidden(x)))
        if self.max_offset is not None:
            rows = write_rows(hidden, self.projection, self.projection_bias)
            columns = spread(self.column(mask), mask.num_keys)
            return rows.gather(-1, columns.expand(*rows.shape[:2], -1, -1))
        self.check_length(mask.num_keys, self.slot.max_keys)
        # Only the columns of the positions at hand are multiplied, where their number is known.
        used = slice(None if mask.is_open else mask.num_keys)
        bias = None if self.projection_bias is None else self.projection_bias[:, :, used]
        return by_position(write_rows(hidden, self.projection[:, :, used], bias), mask)


@mixer("factorized_dense", roles=ROLES, paper=PAPER, parameters="3*d*d + d*sum_of_factors", state="t*d")
class FactorizedDense(SoftmaxMixer):
    """The row of `dense` as the outer product of two short ones (section 3.3), a*b logits from a+b numbers."""

    @dataclass
    class Options:
        # a and b, whose product is the maximum length; by default the two closest to each other
        factors: tuple[int, int] | None = None

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options)
        self.factors = options.factors or square_factors(slot.max_keys)
        if math.prod(self.factors) != slot.max_keys or min(self.factors) < 1:
            raise InputError(
                f"factorized_dense has factors {self.factors[0]} and {self.factors[1]}, whose product is not the "
                f"maximum length {slot.max_keys}; write factors: {list(square_factors(slot.max_keys))}"
            )
        self.hidden = slot.linear()
        self.first, self.first_bias = written_rows(slot, self.factors[0])
        self.second, self.second_bias = written_rows(slot, self.factors[1])

    @property
    def sum_of_factors(self) -> int:
        return sum(self.factors)

    def init_weights(self, std: float) -> None:
        init_written_rows(self.first, self.first_bias)
        init_written_rows(self.second, self.second_bias)

    def start_uniform(self) -> bool:
        init.zeros_(self.first)
        return True

    def input_maps(self) -> list[tuple[nn.Module, str]]:
        return [(self, "hidden")]

    def scores(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        self.check_length(mask.num_keys, self.slot.max_keys)
        hidden = self.heads(F.relu(self.hidden(x)))
        # Logit j is A[j // b] B[j % b]: tiling both factors alike would give only lcm(a, b) different ones.
        first = write_rows(hidden, self.first, self.first_bias)
        second = write_rows(hidden, self.second, self.second_bias)
        rows = (first[..., :, None] * second[..., None, :]).flatten(-2)
        return by_position(rows, mask)


@mixer(
    "mixture",
    roles=ROLES,
    paper=PAPER,
    parameters="2*d*d + parameters_of_terms + num_terms",
    state="t*d*(1 + num_dot_products)",
)
class Mixture(SoftmaxMixer):
    """Several maps in one (section 3.4), as in `random+dot_product`: softmax(sum_m a_m logits_m), a learned, sum 1."""

    @dataclass
    class Options:
        of: list[Any]  # at least two mixers whose map is a softmax of logits

        def __post_init__(self) -> None:
            names = [registry.mixers.parse(spec, "a mixture")[0].name for spec in self.of]
            if len(names) < 2:
                raise InputError("a mixture needs at least two mixers, as in random+dot_product or of: [random, dense]")
            if repeated := [name for name in names if names.count(name) > 1]:
                raise InputError(f"a mixture names {repeated[0]} twice; name each mixer once")
            able = [name for name, cls in registry.mixers if issubclass(cls, SoftmaxMixer) and cls is not Mixture]
            if "mixture" in names:
                raise InputError("a mixture holds no other mixture; name the mixers of both in one")
            if wrong := [name for name in names if name not in able]:
                raise InputError(
                    f"a mixture cannot hold {wrong[0]}, which has no logits; these have: {', '.join(able)}"
                )

    def __init__(self, slot: Slot, options: Options) -> None:
        super().__init__(slot, options)
        terms = []
        for spec in options.of:
            term = build(spec, slot)
            assert isinstance(term, SoftmaxMixer)
            if term.slot.num_heads != slot.num_heads:
                raise InputError(f"the mixers of a mixture share their heads; leave num_heads out of {term.name}")
            term.value = term.output = nn.Identity()  # the mixture has one value and one output projection
            terms.append(term)
        self.terms = nn.ModuleList(terms)
        self.mixing = nn.Parameter(torch.empty(len(terms)))
        self.reads_queries = any(term.reads_queries for term in terms)  # type: ignore[misc]

    @property
    def num_terms(self) -> int:
        return len(self.terms)

    @property
    def parameters_of_terms(self) -> int:
        return sum(parameter.numel() for parameter in self.terms.parameters())

    @property
    def num_dot_products(self) -> int:
        """How many terms remember keys."""
        return sum(term.name == "dot_product" for term in self.terms)

    def init_weights(self, std: float) -> None:
        init.zeros_(self.mixing)

    def start_uniform(self) -> bool:
        return all([term.start_uniform() for term in self.terms])  # type: ignore[operator]

    def input_maps(self) -> list[tuple[nn.Module, str]]:
        return [each for term in self.terms for each in term.input_maps()]  # type: ignore[operator]

    def scores(self, x: Tensor, mask: Mask, context: Tensor | None, state: MixerState | None) -> Tensor:
        shares = at_least_float32(self.mixing).softmax(0).to(x.dtype)
        terms = (term.scores(x, mask, context, state) for term in self.terms)  # type: ignore[operator]
        return cast(Tensor, sum(share * scores for share, scores in zip(shares, terms, strict=True)))


def entries(table: Tensor, queries: Positions, keys: Positions) -> Tensor:
    """What a table [H, N, M] holds at positions [.., T] and [.., S]: [H, .., T, S]; see `PositionMixer.at`."""
    if isinstance(queries, slice) or isinstance(keys, slice):
        return table[:, queries][:, :, keys]
    return table[:, queries[..., :, None], keys[..., None, :]]


def written_rows(slot: Slot, length: int) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weights [H, d, length] and biases [H, 1, length] with which each head writes a row of numbers."""
    bias = nn.Parameter(torch.empty(slot.num_heads, 1, length)) if slot.use_bias else None
    return nn.Parameter(torch.empty(slot.num_heads, slot.head_size, length)), bias


def init_written_rows(weight: Tensor, bias: Tensor | None) -> None:
    init.normal_(weight, std=weight.shape[1] ** -0.5)
    if bias is not None:
        init.zeros_(bias)


def write_rows(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[B, H, T, d] -> [B, H, T, length]."""
    rows = hidden @ weight
    return rows if bias is None else rows + bias


def by_position(rows: Tensor, mask: Mask) -> Tensor:
    """Logits by position [B, H, T, S or more] as logits by key, which padding in front moves to the right."""
    if mask.regular:
        return rows[..., : mask.num_keys]
    return rows.gather(-1, mask.key_positions[:, None, None, :].expand(*rows.shape[:3], -1))


def square_factors(length: int) -> tuple[int, int]:
    """The two factors of `length` that are closest to each other, the smaller first."""
    first = next(a for a in range(math.isqrt(length), 0, -1) if length % a == 0)
    return first, length // first
