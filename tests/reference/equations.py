"""Each paper's equation as a loop over queries: what a mixer means, whatever fast form it has.

A loop reads one sequence without its padding, so a position is an index and nothing is masked: a decoder's query i
reads the keys 0..i, and every other query reads them all. From a module it takes parameters and options, never code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Loop = Callable[..., Tensor]
LOOPS: dict[str, Loop] = {}


def equation(name: str) -> Callable[[Loop], Loop]:
    """Register the loop `(mixer, x [T, D], source [S, D]) -> y [T, D]` of the mixer `name`; self roles read x twice."""

    def register(loop: Loop) -> Loop:
        LOOPS[name] = loop
        return loop

    return register


def naive(
    mixer, x: Tensor, keep: Tensor | None, context: Tensor | None = None, context_keep: Tensor | None = None
) -> Tensor:
    """What `mixer`, in float64, makes of a padded batch: [B, T, D], zeros at padding.

    Args:
        mixer: a `TokenMixer` in float64.
        x: [B, T, D] float64.
        keep: [B, T] bool, or None where all is real.
        context: [B, S, D] float64 for the cross role.
        context_keep: [B, S] bool, or None.
    """
    if mixer.name not in LOOPS:
        raise LookupError(
            f"mixer {mixer.name!r} has no reference loop: write its equation in tests/reference/equations.py "
            f"under @equation({mixer.name!r})"
        )
    y = torch.zeros_like(x)
    for row in range(len(x)):
        real = torch.ones_like(x[row, :, 0], dtype=torch.bool) if keep is None else keep[row]
        tokens = source = x[row, real]
        if context is not None:
            source = context[row] if context_keep is None else context[row, context_keep[row]]
        if len(tokens):
            y[row, real] = LOOPS[mixer.name](mixer, tokens, source)
    return y


def seen(mixer, query: int, source: Tensor) -> int:
    """How many keys the query may read."""
    return query + 1 if mixer.slot.role == "decoder" else len(source)


def split(mixer, x: Tensor) -> Tensor:
    """[T, D] -> [H, T, d]."""
    return torch.stack(x.split(mixer.slot.hidden_size // mixer.slot.num_heads, dim=-1))


def attend(mixer, rows: list[Tensor], source: Tensor) -> Tensor:
    """Every query's row of weights [H, keys seen] times the values, heads side by side, then the output projection."""
    values = split(mixer, mixer.value(source))
    mixed = []
    for weights in rows:
        mixed.append((weights[..., None] * values[:, : weights.shape[1]]).sum(1).flatten())
    return mixer.output(torch.stack(mixed))


@equation("dot_product")
def dot_product(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Vaswani et al. 2017, equation 1: softmax(q_i K^T / sqrt(d)) V."""
    queries, keys = split(mixer, mixer.query(x)), split(mixer, mixer.key(source))
    rows = []
    for i in range(len(x)):
        visible = keys[:, : seen(mixer, i, source)]
        logits = (visible * queries[:, i, None]).sum(-1) / math.sqrt(queries.shape[-1])
        rows.append(logits.softmax(-1))
    return attend(mixer, rows, source)


@equation("gaussian")
def gaussian(mixer, x: Tensor, source: Tensor) -> Tensor:
    """You et al. 2020: w_ij = N(j; ratio i + offset, std^2), a density that is neither cut off nor renormalised."""
    options, role = mixer.options, mixer.slot.role
    offsets = options.offsets or ((-1, 0) if role == "decoder" else (-1, 1))
    ratio = options.length_ratio if role == "cross" else 1.0
    rows = []
    for i in range(len(x)):
        keys = torch.arange(seen(mixer, i, source), dtype=x.dtype)
        row = []
        for head in range(mixer.slot.num_heads):
            exponent = -((keys - ratio * i - offsets[head % len(offsets)]) ** 2) / (2 * options.std**2)
            density = exponent.exp() / (options.std * math.sqrt(2 * math.pi))
            row.append(exponent.softmax(-1) if options.normalize else density)
        rows.append(torch.stack(row))
    return attend(mixer, rows, source)


@equation("random")
def random(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Tay et al. 2021, section 3.2: softmax(R) V, one logit for each pair of positions, whatever the tokens."""
    rows = []
    for i in range(len(x)):
        rows.append(mixer.logits[:, i, : seen(mixer, i, source)].softmax(-1))
    return attend(mixer, rows, source)


@equation("dense")
def dense(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Tay et al. 2021, equation 1: the token itself writes its row of logits, W2 relu(W1 x_i + b1) + b2."""
    hidden = split(mixer, mixer.hidden(x).clamp_min(0))
    rows = []
    for i in range(len(x)):
        logits = (hidden[:, i, :, None] * mixer.projection).sum(1)
        if mixer.projection_bias is not None:
            logits = logits + mixer.projection_bias[:, 0]
        rows.append(logits[:, : seen(mixer, i, source)].softmax(-1))
    return attend(mixer, rows, source)


@equation("average")
def average(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Zhang et al. 2018, equation 1: the mean of the values seen."""
    rows = []
    for i in range(len(x)):
        count = seen(mixer, i, source)
        rows.append(torch.full((mixer.slot.num_heads, count), 1 / count, dtype=x.dtype))
    return attend(mixer, rows, source)


@equation("none")
def none(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Nothing moves."""
    return torch.zeros_like(x)
