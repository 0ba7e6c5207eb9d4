"""Where a training step stopped giving numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_finite(tensors: list[Tensor]) -> bool:
    """Whether all entries are numbers; one look at the device for all tensors."""
    # The largest entry would do, but takes ten times as long on a CPU; squares may be no numbers where entries are.
    return bool(nn.utils.get_total_norm(tensors).isfinite()) or all(bool(each.isfinite().all()) for each in tensors)


def fault(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[float, str]:
    """The loss of `forward`, and which part of `model` is the first whose output is no number.

    Where all outputs are numbers, the last parameter whose gradient is none: backward came by it first.
    """
    with first_fault(model) as found, torch.no_grad():
        loss = float(forward())
    if found:
        return loss, f"the first output that is no number comes from {found[0]}"
    names = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return loss, f"the gradient of {names[-1] if names else 'a parameter'} is no number"


@contextmanager
def first_fault(model: nn.Module) -> Iterator[list[str]]:
    """The names of modules whose output is no number, in the order in which they end: parts before wholes."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if any(isinstance(each, Tensor) and not each.isfinite().all() for each in tensors):
                found.append(name)

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
