"""Each paper's equation as a loop over positions: what a mixer means, whatever fast form it has.

A loop reads one sequence without its padding, so a position is an index and nothing is masked: a decoder's query i
reads the keys 0..i, and every other query reads them all. From a module it takes parameters and options, never code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loop = Callable[..., Any]
LOOPS: dict[str, Loop] = {}
LOGITS: dict[str, Loop] = {}


def equation(name: str) -> Callable[[Loop], Loop]:
    """Register the loop `(mixer, x [T, D], source [S, D]) -> y [T, D]` of the mixer `name`; self roles read x twice."""

    def register(loop: Loop) -> Loop:
        LOOPS[name] = loop
        return loop

    return register


def softmax(name: str) -> Callable[[Loop], Loop]:
    """The same for a mixer whose map is one softmax: the loop gives each query's row of logits [H, keys seen]."""

    def register(logits: Loop) -> Loop:
        LOGITS[name] = logits

        @equation(name)
        def loop(mixer, x: Tensor, source: Tensor) -> Tensor:
            return attend(mixer, [row.softmax(-1) for row in logits(mixer, x, source)], source)

        return logits

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


def projected(mixer, part: str, x: Tensor) -> Tensor:
    """The query, key or value of each position, in heads: [T, D] -> [H, T, d]."""
    return split(mixer, convolved(mixer, part, getattr(mixer, part)(x)))


def convolved(mixer, part: str, x: Tensor) -> Tensor:
    """Yang et al. 2024: each channel mixed with its last few positions, then SiLU, where conv says so."""
    taps = getattr(mixer.options, "conv", 0)
    if not taps or part == "query" and mixer.slot.role == "cross":
        return x
    weight = getattr(mixer, f"{part}_conv").weight  # [D, taps], the last tap for the position itself
    rows = []
    for i in range(len(x)):
        row = torch.zeros_like(x[i])
        for back in range(min(taps, i + 1)):
            row = row + weight[:, taps - 1 - back] * x[i - back]
        rows.append(row * row.sigmoid())
    return torch.stack(rows)


def attend(mixer, rows: list[Tensor], source: Tensor) -> Tensor:
    """Every query's row of weights [H, keys seen] times the values, heads side by side, then the output projection."""
    values = projected(mixer, "value", source)
    mixed = []
    for weights in rows:
        mixed.append((weights[..., None] * values[:, : weights.shape[1]]).sum(1).flatten())
    return mixer.output(torch.stack(mixed))


@softmax("dot_product")
def dot_product(mixer, x: Tensor, source: Tensor) -> list[Tensor]:
    """Vaswani et al. 2017, equation 1: q_i K^T / sqrt(d)."""
    queries, keys = projected(mixer, "query", x), projected(mixer, "key", source)
    if mixer.options.positions == "rotary":
        queries, keys = rotated(queries), rotated(keys)
    rows = []
    for i in range(len(x)):
        query, visible = queries[:, i, None], keys[:, : seen(mixer, i, source)]
        if mixer.options.positions == "relative":
            # Dai et al. 2019, section 3.3: (q_i + u) k_j + (q_i + v) W_r r_(i-j).
            distances = i - torch.arange(visible.shape[1], dtype=x.dtype)
            relative = split(mixer, mixer.relative_key(sinusoids(distances, x.shape[1])))
            logits = ((query + mixer.content_bias[:, None]) * visible).sum(-1)
            logits = logits + ((query + mixer.position_bias[:, None]) * relative).sum(-1)
        else:
            logits = (query * visible).sum(-1)
        rows.append(logits / math.sqrt(queries.shape[-1]))
    return rows


@softmax("sliding_window")
def sliding_window(mixer, x: Tensor, source: Tensor) -> list[Tensor]:
    """Beltagy et al. 2020, section 3.1, to the left only: of dot_product's keys the last `window`."""
    rows = []
    for i, logits in enumerate(dot_product(mixer, x, source)):
        hidden = torch.arange(i + 1) < i + 1 - mixer.options.window
        rows.append(logits.masked_fill(hidden, -math.inf))
    return rows


def rates(size: int) -> Tensor:
    """Vaswani et al. 2017, section 3.5: 10000^(-2m/size), in radians a position, for m below size/2."""
    return 10000.0 ** (-2 * torch.arange(size // 2, dtype=torch.float64) / size)


def sinusoids(positions: Tensor, size: int) -> Tensor:
    """[T] -> [T, size], sines in the first half and cosines in the second."""
    angles = positions[:, None] * rates(size)
    return torch.cat([angles.sin(), angles.cos()], -1)


def rotated(x: Tensor) -> Tensor:
    """Su et al. 2021, equation 34: the numbers m and m + d/2 of [H, T, d], a point, turned by position x rate m."""
    first, second = x.chunk(2, -1)
    angles = torch.arange(x.shape[1])[:, None] * rates(x.shape[2])
    sine, cosine = angles.sin(), angles.cos()
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


@equation("gaussian")
def gaussian(mixer, x: Tensor, source: Tensor) -> Tensor:
    """You et al. 2020: w_ij = N(j; ratio i + offset, std^2), a density that is neither cut off nor renormalised."""
    options, role, ratio = mixer.options, mixer.slot.role, 1.0
    offsets = options.offsets or ((-1, 0) if role == "decoder" else (-1, 1))
    stds = options.std if isinstance(options.std, tuple) else (options.std,)
    if role == "cross":
        ratio = mixer.slot.length_ratio if options.length_ratio is None else options.length_ratio
    rows = []
    for i in range(len(x)):
        keys = torch.arange(seen(mixer, i, source), dtype=x.dtype)
        row = []
        for head in range(mixer.slot.num_heads):
            offset, std = offsets[head % len(offsets)], stds[head % len(stds)]
            exponent = -((keys - ratio * i - offset) ** 2) / (2 * std**2)
            density = exponent.exp() / (std * math.sqrt(2 * math.pi))
            row.append(exponent.softmax(-1) if options.normalize else density)
        rows.append(torch.stack(row))
    return attend(mixer, rows, source)


@equation("gaussian_2d")
def gaussian_2d(mixer, x: Tensor, source: Tensor) -> Tensor:
    """The same in a grid that positions fill row by row: the weights are N(row) N(column).

    A position in front of the grid reads all of the grid alike, and no other reads it.
    """
    options, leading = mixer.options, mixer.slot.num_leading
    stds = options.std if isinstance(options.std, tuple) else (options.std,)
    rows = []
    for i in range(len(x)):
        row = torch.zeros(mixer.slot.num_heads, len(source), dtype=x.dtype)
        for head in range(mixer.slot.num_heads):
            (down, right), std = options.offsets[head % len(options.offsets)], stds[head % len(stds)]
            for j in range(leading, len(source)):
                (y, x_), (y_j, x_j) = (divmod(place - leading, options.width) for place in (i, j))
                square = (y_j - y - down) ** 2 + (x_j - x_ - right) ** 2
                row[head, j] = 1 if i < leading else math.exp(-square / (2 * std**2)) / (2 * math.pi * std**2)
        rows.append(row / row.sum(-1, keepdim=True) if options.normalize or i < leading else row)
    return attend(mixer, rows, source)


@softmax("random")
@softmax("fixed_random")
def random(mixer, x: Tensor, source: Tensor) -> list[Tensor]:
    """Tay et al. 2021, section 3.2: softmax(R) V, one logit for each pair of positions, whatever the tokens."""
    rows = []
    for i in range(len(x)):
        row = mixer.logits if mixer.logits.dim() == 2 else mixer.logits[:, i]
        rows.append(row[:, columns(mixer, i, source)])
    return rows


@softmax("factorized_random")
def factorized_random(mixer, x: Tensor, source: Tensor) -> list[Tensor]:
    """Tay et al. 2021, section 3.3: softmax(R1 R2^T) V, with two thin matrices a head."""
    rows = []
    for i in range(len(x)):
        rows.append((mixer.rows[:, i, None] * mixer.columns[:, : seen(mixer, i, source)]).sum(-1))
    return rows


@softmax("dense")
def dense(mixer, x: Tensor, source: Tensor) -> list[Tensor]:
    """Tay et al. 2021, equation 1: the token itself writes its row of logits, W2 relu(W1 x_i + b1) + b2."""
    hidden = split(mixer, mixer.hidden(x).clamp_min(0))
    rows = []
    for i in range(len(x)):
        row = written(hidden[:, i], mixer.projection, mixer.projection_bias)
        rows.append(row[:, columns(mixer, i, source)])
    return rows


@softmax("factorized_dense")
def factorized_dense(mixer, x: Tensor, source: Tensor) -> list[Tensor]:
    """Tay et al. 2021, section 3.3: C = H_A(A) * H_B(B), where each of the a b keys has a pair of its own."""
    hidden = split(mixer, mixer.hidden(x).clamp_min(0))
    rows = []
    for i in range(len(x)):
        first = written(hidden[:, i], mixer.first, mixer.first_bias)
        second = written(hidden[:, i], mixer.second, mixer.second_bias)
        keys = torch.arange(seen(mixer, i, source))
        rows.append(first[:, keys // mixer.factors[1]] * second[:, keys % mixer.factors[1]])
    return rows


def written(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A row of numbers for each head: [H, d] -> [H, numbers]."""
    row = (hidden[..., None] * weight).sum(1)
    return row if bias is None else row + bias[:, 0]


def columns(mixer, query: int, source: Tensor) -> Tensor:
    """Which numbers of the query's row are the logits of the keys it sees.

    There is one for each position or, with max_offset (ours), one for each offset, the last for all beyond.
    """
    keys = torch.arange(seen(mixer, query, source))
    reach = getattr(mixer.options, "max_offset", None)
    return keys if reach is None else reach + (keys - query).clamp(-reach, reach)


@softmax("mixture")
def mixture(mixer, x: Tensor, source: Tensor) -> list[Tensor]:
    """Tay et al. 2021, section 3.4: softmax(sum_m alpha_m S_m(X)) V, the alphas a softmax themselves."""
    shares = mixer.mixing.softmax(-1)
    terms = [LOGITS[term.name](term, x, source) for term in mixer.terms]
    rows = []
    for parts in zip(*terms, strict=True):
        rows.append(sum(share * part for share, part in zip(shares, parts, strict=True)))
    return rows


def remember(
    mixer, x: Tensor, source: Tensor, memory: Any, write: Callable[[Any, int], Any], read: Callable[[Any, int], Tensor]
) -> Tensor:
    """Fast weights: `write(memory, j)` for every key, and what `read(memory, i)` [H, d] finds for every query.

    A decoder reads after each key, anybody else after the last.
    """
    found = []
    for j in range(len(source)):
        memory = write(memory, j)
        if mixer.slot.role == "decoder":
            found.append(read(memory, j))
    if mixer.slot.role != "decoder":
        found = [read(memory, i) for i in range(len(x))]
    return mixer.output(torch.stack(found).flatten(1))


def outer(value: Tensor, key: Tensor) -> Tensor:
    """[H, d], [H, F] -> [H, d, F]."""
    return value[:, :, None] * key[:, None, :]


def times(memory: Tensor, key: Tensor) -> Tensor:
    """[H, d, F], [H, F] -> [H, d]."""
    return (memory * key[:, None, :]).sum(-1)


@equation("linear")
@equation("performer")
def linear(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Katharopoulos et al. 2020 as in Schlag et al. 2021, equations 17 to 19: W_i phi(q_i) / (z_i phi(q_i))."""
    queries = features(mixer, projected(mixer, "query", x))
    keys, values = features(mixer, projected(mixer, "key", source)), projected(mixer, "value", source)

    def write(memory, j):
        weights, total = memory
        return weights + outer(values[:, j], keys[:, j]), total + keys[:, j]

    def read(memory, i):
        weights, total = memory
        y = times(weights, queries[:, i])
        if not getattr(mixer.options, "normalize", True):
            return y
        total = (total * queries[:, i]).sum(-1, keepdim=True)
        return y / total.masked_fill(total == 0, 1)  # a query that matches no key reads 0

    return remember(mixer, x, source, (0.0, 0.0), write, read)


@equation("fast_weights")
def fast_weights(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Schmidhuber 1991 as in Schlag et al. 2021, equations 1 to 3: W_i = s(W_(i-1) + a_i b_i^T), y_i = W_i x_i."""
    queries, keys, values = split(mixer, x), projected(mixer, "key", source), projected(mixer, "value", source)

    def write(memory, j):
        memory = memory + outer(values[:, j], keys[:, j])
        return memory.tanh() if mixer.options.squash else memory

    return remember(mixer, x, source, 0.0, write, lambda memory, i: times(memory, queries[:, i]))


@equation("delta")
def delta(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Schlag et al. 2021, equations 20 to 25: W_i = W_(i-1) + beta_i (v_i - W_(i-1) k_i) k_i^T."""

    def normalized(features: Tensor) -> Tensor:
        if mixer.options.key_norm == "sum":  # equation 29
            return features / features.sum(-1, keepdim=True).clamp_min(1e-6)
        return features / (features.square().sum(-1, keepdim=True) + 1e-6).sqrt()  # Yang et al. 2024

    queries = normalized(features(mixer, projected(mixer, "query", x)))
    keys = normalized(features(mixer, projected(mixer, "key", source)))
    values, betas = projected(mixer, "value", source), mixer.rate(source).sigmoid()

    def write(memory, j):
        error = values[:, j] - times(memory, keys[:, j])
        return memory + betas[j, :, None, None] * outer(error, keys[:, j])

    def read(memory, i):
        y = times(memory, queries[:, i])
        if not mixer.options.output_norm:
            return y
        return y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight

    return remember(mixer, x, source, torch.zeros_like(outer(values[:, 0], keys[:, 0])), write, read)


def features(mixer, x: Tensor) -> Tensor:
    """phi of the feature map that the mixer was told to use, `performer` having its own: [H, T, d] -> [H, T, F]."""
    spec = getattr(mixer.options, "feature_map", "favor")
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    return FEATURES[options.pop("name")](mixer.feature_map, x, **options)


def identity(module, x: Tensor) -> Tensor:
    """phi(x) = x."""
    return x


def elu(module, x: Tensor) -> Tensor:
    """Katharopoulos et al. 2020, equation 7: elu(x) + 1."""
    return torch.where(x > 0, x + 1, x.exp())


def dpfp(module, x: Tensor, nu: int = 1) -> Tensor:
    """Schlag et al. 2021, equation 37: each number of r([x, -x]) times the one that stands 1, .., nu away."""
    rectified = torch.cat([x, -x], -1).clamp_min(0)
    size = rectified.shape[-1]
    products = []
    for away in range(1, nu + 1):
        for i in range(size):
            products.append(rectified[..., i] * rectified[..., (i - away) % size])
    return torch.stack(products, -1)


def favor(module, x: Tensor, num_directions: int | None = None) -> Tensor:
    """Choromanski et al. 2021, lemma 1: exp(-|x|^2 / 2) [exp(R x), exp(-R x)] / sqrt(2m) of x / d^(1/4)."""
    x = x / x.shape[-1] ** 0.25
    products = x @ module.directions.T
    exponents = torch.cat([products, -products], -1) - x.square().sum(-1, keepdim=True) / 2
    return exponents.exp() / math.sqrt(exponents.shape[-1])


FEATURES = {"identity": identity, "elu": elu, "dpfp": dpfp, "favor": favor}


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
