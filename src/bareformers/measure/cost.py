"""What a model costs in parameters, products and memory: read off the module, its operations, state and allocations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_embedding_parameters(model: Any) -> int:
    """Of those, how many are token embeddings: the share that no mixer changes."""
    return sum(parameter.numel() for parameter in model.get_input_embeddings().parameters())


@torch.no_grad()
def state_bytes(model: Any, inputs: dict[str, Tensor]) -> int:
    """Bytes that decoding remembers for each sequence after reading `inputs`, summed over the tensors of the cache."""
    model.eval()
    cache = model(**inputs, use_cache=True).past_key_values
    rows = next(iter(inputs.values())).shape[0]
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(cache, set())) // rows


@torch.no_grad()
def multiply_adds(model: Any, inputs: dict[str, Tensor]) -> int:
    """Multiply-adds that one more row like the first of `inputs` adds to a forward pass: those of matrix products and
    convolutions.

    What is made of weights alone, once for all rows, is left out, and so is what works on numbers one by one (norms,
    softmax, sums). Products of queries and keys count whole, also where a causal kernel would skip half of them.
    """
    model.eval()

    def products(rows: int) -> int:
        batch = {name: tensor[:1].expand(rows, *tensor.shape[1:]) for name, tensor in inputs.items()}
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**batch, use_cache=False)
        return counter.get_total_flops() // 2

    products(1)  # what a model keeps of its weights is there from now on
    return products(2) - products(1)


def _tensors(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from _tensors(value, seen)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from _tensors(value, seen)
    elif hasattr(thing, "__dict__"):
        yield from _tensors(vars(thing), seen)


def peak_bytes(step: Callable[[], Any], device: torch.device) -> int:
    """The most memory that tensors made by `step` take at once beyond what was there: its activations, for training."""
    step()  # the first call makes what stays: gradients and workspaces
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    kineto = profiler.profiler
    assert kineto is not None
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
