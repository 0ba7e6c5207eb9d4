"""Each layout with its T x T matrices written out: what a block means, whatever fast form it has.

As in `equations`, one sequence is read without its padding, and modules give parameters and options, never code. A
layout is a function of all blocks of a stack, for some carry a second stream, and most end with a norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bareformers.blocks.layers import NearIdentity
from tests.reference.equations import LOGITS, LOOPS, split

Layout = Callable[..., Tensor]
LAYOUTS: dict[str, Layout] = {}


def layout(name: str) -> Callable[[Layout], Layout]:
    """Register the function `(blocks, x [T, D], context [S, D] or None) -> y [T, D]` of the block `name`."""

    def register(function: Layout) -> Layout:
        LAYOUTS[name] = function
        return function

    return register


def naive(
    blocks, x: Tensor, keep: Tensor | None, context: Tensor | None = None, context_keep: Tensor | None = None
) -> Tensor:
    """What a stack of `blocks`, in float64, makes of a padded batch: [B, T, D], zeros at padding.

    Args:
        blocks: all of one layout, with self mixers that have a map.
        x: [B, T, D] float64.
        keep: [B, T] bool, or None where all is real.
        context: [B, S, D] float64 for cross mixers.
        context_keep: [B, S] bool, or None.
    """
    name = blocks[0].name
    if name not in LAYOUTS:
        raise LookupError(
            f"block {name!r} has no reference: write its equations in tests/reference/blocks.py under @layout({name!r})"
        )
    y = torch.zeros_like(x)
    for row in range(len(x)):
        real = torch.ones_like(x[row, :, 0], dtype=torch.bool) if keep is None else keep[row]
        source = None
        if context is not None:
            source = context[row] if context_keep is None else context[row, context_keep[row]]
        if real.any():
            y[row, real] = LAYOUTS[name](blocks, x[row, real], source)
    return y


@layout("post_ln")
def post_ln(blocks, x: Tensor, context: Tensor | None) -> Tensor:
    """Vaswani et al. 2017: norm(x + F(x)); with DeepNorm, Wang et al. 2022, norm(alpha x + F(x))."""
    for block in blocks:
        place, alpha = block.place, 1.0
        if block.options.deep_norm:
            alpha, _ = deep_norm(place.role, place.num_layers, place.num_other_layers)
        for norm, function in sublayers(block, context):
            x = normed(norm, alpha * x + function(x))
    return x


def deep_norm(role: str, num_layers: int, num_other_layers: int) -> tuple[float, float]:
    """Wang et al. 2022, figure 2: alpha, and beta of the initialisation, for N encoder and M decoder layers."""
    if num_other_layers == 0:
        return (2 * num_layers) ** (1 / 4), (8 * num_layers) ** (-1 / 4)
    if role == "encoder":
        n, m = num_layers, num_other_layers
        return 0.81 * (n**4 * m) ** (1 / 16), 0.87 * (n**4 * m) ** (-1 / 16)
    m = num_layers
    return (3 * m) ** (1 / 4), (12 * m) ** (-1 / 4)


@layout("pre_ln")
def pre_ln(blocks, x: Tensor, context: Tensor | None) -> Tensor:
    """Xiong et al. 2020: x + F(norm(x)), and a norm at the end."""
    for block in blocks:
        for norm, function in sublayers(block, context):
            x = x + function(normed(norm, x))
    return normed(blocks[-1].final_norm, x)


@layout("resi_dual")
def resi_dual(blocks, x: Tensor, context: Tensor | None) -> Tensor:
    """Xie et al. 2023: x = norm(x + F(x)) beside r = r + s F(x), which starts at s x; at the end x + norm(r)."""
    scale = blocks[0].options.scale
    r = scale * x
    for block in blocks:
        for norm, function in sublayers(block, context):
            y = function(x)
            x, r = normed(norm, x + y), r + scale * y
    return x + normed(blocks[-1].final_norm, r)


@layout("parallel")
def parallel(blocks, x: Tensor, context: Tensor | None) -> Tensor:
    """Chowdhery et al. 2023, section 2: x + mixer(norm(x)) + ffn(norm(x)), and ours + cross(norm(x))."""
    for block in blocks:
        z = normed(block.norm, x)
        x = x + attention(block.mixer, z) + feed_forward(block, z)
        if context is not None:
            x = x + reading(block.cross_mixer, z, context)
    return normed(blocks[-1].final_norm, x)


@layout("v_skipinit")
@layout("sas")
def sas(blocks, x: Tensor, context: Tensor | None) -> Tensor:
    """He & Hofmann 2024, equations 12 and 13: h = S(norm(x)), and then a h + g ffn(norm(h)).

    Value-SkipInit (equation 4 and figure 2) differs in what S does with values. Ours is h + cross(norm(h)) in between.
    """
    for block in blocks:
        h = attention(block.mixer, normed(block.mixer_norm, x))
        if context is not None:
            h = h + reading(block.cross_mixer, normed(block.cross_norm, h), context)
        x = block.skip_gain.gain * h + block.ffn.outer.gain * feed_forward(block, normed(block.ffn_norm, h))
    return normed(blocks[-1].final_norm, x)


@layout("sas_p")
def sas_p(blocks, x: Tensor, context: Tensor | None) -> Tensor:
    """He & Hofmann 2024, section 4.3: S(norm(x)) + g ffn(norm(x)), no skip at all; ours + g cross(norm(x))."""
    for block in blocks:
        z = normed(block.norm, x)
        x = attention(block.mixer, z) + block.ffn.outer.gain * feed_forward(block, z)
        if context is not None:
            x = x + block.cross_gain.gain * reading(block.cross_mixer, z, context)
    return normed(blocks[-1].final_norm, x)


def sublayers(block, context: Tensor | None) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """The norm and the function of each sub-layer: self mixer, cross mixer, feed-forward network."""
    yield block.mixer_norm, lambda x: attention(block.mixer, x)
    if context is not None:
        yield block.cross_norm, lambda x: reading(block.cross_mixer, x, context)
    yield block.ffn_norm, lambda x: feed_forward(block, x)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Ba et al. 2016, or Zhang & Sennrich 2019, which leaves the mean and the bias out, or no norm."""
    if isinstance(norm, nn.Identity):
        return x
    bias = 0.0
    if isinstance(norm, nn.LayerNorm):
        x, bias = x - x.mean(-1, keepdim=True), norm.bias
    return norm.weight * x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() + bias


def feed_forward(block, x: Tensor) -> Tensor:
    """W2 relu(W1 x); with geglu (Shazeer 2020) W2 (gelu(a) b) for the halves a and b of W1 x."""
    hidden, act = block.ffn.inner(x), block.place.hidden_act
    if act == "relu":
        hidden = hidden.clamp_min(0)
    else:
        assert act == "geglu"
        a, b = hidden.tensor_split(2, -1)
        hidden = a * (1 + torch.erf(a / math.sqrt(2))) / 2 * b
    product = hidden @ block.ffn.outer.weight.T
    return product if block.ffn.outer.bias is None else product + block.ffn.outer.bias


def reading(mixer, x: Tensor, context: Tensor) -> Tensor:
    """The cross mixer, which no block shapes."""
    return LOOPS[mixer.name](mixer, x, context)


def attention(mixer, x: Tensor) -> Tensor:
    """Concat_h[M_h V_h] W_O."""
    mixed = shaped_map(mixer, x) @ split(mixer, values(mixer, x))
    return mixer.output(mixed.transpose(0, 1).flatten(1))


def values(mixer, x: Tensor) -> Tensor:
    """W_V x; x itself in sas and sas_p, but for their first layer, where W_V = a I + b dW."""
    if not isinstance(mixer.value, NearIdentity):
        return mixer.value(x)
    change = x @ mixer.value.change.weight.T
    return mixer.value.skip_gain.gain * x + mixer.value.change_gain.gain * change


def shaped_map(mixer, x: Tensor) -> Tensor:
    """M, [H, T, T]: the map A or, where a block shapes it, g (alpha I + beta A - gamma C) (equations 4, 5 and 12)."""
    matrix = attention_map(mixer, x)
    if mixer.shaping is None:
        return matrix
    alpha, beta, *gamma = mixer.shaping.gains
    matrix = alpha * torch.eye(len(x), dtype=x.dtype) + beta * matrix
    return mixer.shaping.gain * (matrix - gamma[0] * uniform(mixer, x) if gamma else matrix)


def attention_map(mixer, x: Tensor) -> Tensor:
    """A, [H, T, T], with zeros where a query may not look."""
    if mixer.name == "average":
        return uniform(mixer, x).expand(mixer.slot.num_heads, -1, -1)
    if mixer.name == "gaussian":
        return gaussian(mixer, x)
    rows = [row.softmax(-1) for row in LOGITS[mixer.name](mixer, x, x)]
    return torch.stack([F.pad(row, (0, len(x) - row.shape[-1])) for row in rows], 1)


def visible(mixer, x: Tensor) -> Tensor:
    """[T, T]: 1 where a query may look."""
    ones = torch.ones(len(x), len(x), dtype=x.dtype)
    return ones.tril() if mixer.slot.role == "decoder" else ones


def uniform(mixer, x: Tensor) -> Tensor:
    """C, [T, T]: what A would be if all logits were equal."""
    seen = visible(mixer, x)
    return seen / seen.sum(-1, keepdim=True)


def gaussian(mixer, x: Tensor) -> Tensor:
    """You et al. 2020: A_ij = N(j; i + offset, 1), the offsets in turn over the heads."""
    offsets: Any = (-1, 0) if mixer.slot.role == "decoder" else (-1, 1)
    positions = torch.arange(len(x), dtype=x.dtype)
    heads = []
    for head in range(mixer.slot.num_heads):
        distance = positions - positions[:, None] - offsets[head % 2]
        heads.append(torch.exp(-(distance**2) / 2) / math.sqrt(2 * math.pi))
    return torch.stack(heads) * visible(mixer, x)
