"""Signal propagation: what each layer makes of the hidden states, and of the gradient that comes back.

The numbers are those of He & Hofmann (ICLR 2024, arXiv:2311.01906) and of work around it. They are taken on one batch,
at its real positions, from what any model of `transformers` says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

Stack = tuple[str, Sequence[Tensor], Sequence[Tensor | None], Tensor | None]
"""Name, hidden states [B, T, D] by depth, self maps [B or 1, H, T, S] by layer, real positions [B, T] or None."""


@dataclass(frozen=True)
class LayerSignal:
    """The hidden states between two layers; None where there is nothing to measure.

    Attributes:
        stack: `encoder` or `decoder` of an encoder-decoder; empty where a model has one stack.
        layer: 0 for the embeddings, 1 for what leaves the first block, and so on.
        rms: the root mean square of all numbers: the norm of a row over the square root of its width.
        cosine: between two positions, see `mean_cosine`.
        effective_rank: of the positions, see `effective_rank`.
        attention_entropy: of the map in the block before, see `attention_entropy`.
        kurtosis: of the neurons, see `kurtosis`.
        gradient_norm: of the loss with respect to these hidden states, over all positions.
    """

    stack: str
    layer: int
    rms: float
    cosine: float | None
    effective_rank: float
    attention_entropy: float | None
    kurtosis: float
    gradient_norm: float | None

    def row(self) -> dict[str, Any]:
        """As JSON: six significant digits, and None for what is no finite number."""
        return {name: _short(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def signal(model: Any, batch: Mapping[str, Tensor]) -> list[LayerSignal]:
    """The signal of every layer of `model` on `batch`, the encoder's first.

    Args:
        model: any model of `transformers` that takes `output_hidden_states`. It is measured in evaluation mode and left
            as it was, gradients of parameters included.
        batch: its inputs, with `labels` where gradient norms are wanted. Padding is what `attention_mask` says; in a
            decoder that reads `labels`, where these are -100.
    """
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            out = model(**inputs, output_hidden_states=True, output_attentions=True, use_cache=False)
            stacks = _stacks(model, inputs, out)
            gradients = _gradients(getattr(out, "loss", None), [each for _, hidden, *_ in stacks for each in hidden])
    finally:
        for module, mode in modes.items():
            module.training = mode
    found = []
    for name, hidden, weights, real in stacks:
        for layer, states in enumerate(hidden):
            rows, gradient = real_rows(states.detach(), real).double(), gradients.get(id(states))
            before = weights[layer - 1] if layer and len(weights) == len(hidden) - 1 else None
            found.append(
                LayerSignal(
                    stack=name,
                    layer=layer,
                    rms=rms(rows),
                    cosine=mean_cosine(rows),
                    effective_rank=effective_rank(rows),
                    attention_entropy=None if before is None else attention_entropy(before.detach(), real),
                    kurtosis=kurtosis(rows),
                    gradient_norm=None if gradient is None else float(real_rows(gradient, real).double().norm()),
                )
            )
    return found


def _stacks(model: Any, inputs: Mapping[str, Tensor], out: Any) -> list[Stack]:
    keep = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    if not model.config.is_encoder_decoder:
        return [("", out.hidden_states or (), getattr(out, "attentions", None) or (), keep)]
    target = None
    if "decoder_attention_mask" in inputs:
        target = inputs["decoder_attention_mask"].bool()
    elif "decoder_input_ids" not in inputs and "labels" in inputs:
        target = inputs["labels"] != -100
    return [
        ("encoder", out.encoder_hidden_states or (), out.encoder_attentions or (), keep),
        ("decoder", out.decoder_hidden_states or (), out.decoder_attentions or (), target),
    ]


def _gradients(loss: Tensor | None, states: list[Tensor]) -> dict[int, Tensor]:
    """d loss / d state by the identity of the state; those that the loss does not depend on are left out."""
    wanted = [state for state in states if state.requires_grad]
    if loss is None or not loss.requires_grad or not wanted:
        return {}
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {id(state): grad for state, grad in zip(wanted, gradients, strict=True) if grad is not None}


# Of tensors


def real_rows(states: Tensor, real: Tensor | None) -> Tensor:
    """[B, T, D] -> [N, D], the rows at the real positions [B, T] (bool; None: all)."""
    return states.flatten(0, 1) if real is None else states[real]


def rms(rows: Tensor) -> float:
    """The root mean square of all entries of `rows` [N, D]."""
    return float(rows.square().mean().sqrt())


def mean_cosine(rows: Tensor) -> float | None:
    """The mean cosine over all pairs of two different rows of `rows` [N, D]; None where there is but one.

    1 is rank collapse: all positions point the same way. No N x N matrix is made: the cosines of all pairs, those of a
    row with itself included, sum to the squared length of the sum of the unit vectors. Rows are not centred, and one of
    zeros has the cosine 0 with all others.
    """
    count = len(rows)
    if count < 2:
        return None
    lengths = rows.norm(dim=1, keepdim=True)
    units = rows / torch.where(lengths > 0, lengths, 1.0)
    return float((units.sum(0).square().sum() - units.square().sum()) / (count * (count - 1)))


def effective_rank(rows: Tensor) -> float:
    """How many directions the rows of `rows` [N, D] use: from 1 up to the smaller of N and D.

    exp of the entropy of the eigenvalues of the Gram matrix X X^T, divided by their sum: its effective rank by Roy &
    Vetterli (EUSIPCO 2007), which is that of X with squared singular values. A direction thus counts by its energy.
    """
    if not bool(rows.isfinite().all()):
        return math.nan
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    energies = torch.linalg.eigvalsh(gram).clamp_min(0)
    return float(torch.special.entr(energies / energies.sum()).sum().exp())


def kurtosis(rows: Tensor) -> float:
    """How unequally strong the neurons (columns) of `rows` [N, D] are: 1 where all are alike, D where only one is.

    mean_j s_j^2 / (mean_j s_j)^2 over the second moments s_j of the neurons (He et al., NeurIPS 2024,
    arXiv:2405.19279). The code of He & Hofmann reports this minus 1, the variance of s_j divided by their mean.
    """
    moments = rows.square().mean(0)
    return float(moments.square().mean() / moments.mean().square())


def attention_entropy(weights: Tensor, real: Tensor | None = None) -> float | None:
    """The entropy of the rows of a map in nats, the mean over heads and real queries: 0 reads one key, log S all alike.

    Rows that do not sum to 1, as those of Gaussian densities, are divided by their sum, and rows of zeros do not count.

    Args:
        weights: [B or 1, H, T, S]. A map with negative entries, as shaped ones have, is no distribution: None.
        real: [B, T], which queries count; None: all.
    """
    if bool((weights < 0).any()):
        return None
    weights = weights.double()
    sums = weights.sum(-1)
    counted = sums > 0 if real is None else (sums > 0) & real[:, None]
    if not bool(counted.any()):
        return None
    shares = weights / torch.where(sums > 0, sums, 1.0)[..., None]
    return float(torch.special.entr(shares).sum(-1).expand_as(counted)[counted].mean())
