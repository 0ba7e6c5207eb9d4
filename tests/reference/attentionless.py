"""Attentionless Transformers (Bozic et al. 2024) as equations: sentences padded to L, one for each prefix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.equations import equation


def network(mixer, sentences: Tensor, net: int) -> Tensor:
    """[N, L, D] -> [N, positions, out]: LN, Linear, LeakyReLU, LN, Linear; the first norm counts the padding."""
    x = F.layer_norm(sentences, sentences.shape[1:]) * mixer.input_norm.weight[net] + mixer.input_norm.bias[net]
    hidden = F.leaky_relu(x.flatten(1) @ matrix(mixer.first, net) + mixer.first_bias[net], 0.01)
    hidden = F.layer_norm(hidden, hidden.shape[1:]) * mixer.hidden_norm.weight[net] + mixer.hidden_norm.bias[net]
    y = hidden @ matrix(mixer.second, net).T
    return y.view(len(y), -1, mixer.out) + mixer.second_bias[net]


def matrix(part, net: int) -> Tensor:
    """[L D, width]; the factorised one (ours) is P[l, a] C[d, c]."""
    if hasattr(part, "weight"):
        return part.weight[net].flatten(0, 1)
    return torch.kron(part.positions[net], part.channels[net])


def written(mixer, sentences: list[Tensor]) -> Tensor:
    """What the networks, of one head each or of all, write side by side: [N, positions, D]."""
    return torch.cat([network(mixer, torch.stack(sentences), net) for net in range(mixer.nets)], -1)


def padded(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (0, 0, 0, length - len(x)))


@equation("alr")
@equation("aslr")
def alr(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Section 3: the network writes what the output projection reads; a causal one its last position, prefix by prefix.

    In the cross role the sentence is that of the context and then the target, which the authors' form sees whole.
    """
    length, role = mixer.slot.max_length, mixer.slot.role
    context = padded(source, mixer.slot.max_context_length) if role == "cross" else x[:0]
    if role == "encoder" or role == "cross" and mixer.options.sees_future:
        return mixer.output(written(mixer, [torch.cat([context, padded(x, length)])])[0, : len(x)])
    prefixes = []
    for i in range(len(x)):
        prefixes.append(torch.cat([context, padded(x[: i + 1], length)]))
    return mixer.output(written(mixer, prefixes)[:, 0])


@equation("alrr")
@equation("elr")
def elr(mixer, x: Tensor, source: Tensor) -> Tensor:
    """Section 3: the network writes the stream."""
    return written(mixer, [padded(x, mixer.slot.max_length)])[0, : len(x)]
