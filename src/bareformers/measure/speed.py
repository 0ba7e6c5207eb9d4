"""Time, by interleaved medians: what is compared runs in turns, so that a slow minute of the machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median over rounds, and the interquartile range."""

    seconds: float
    spread: float
    rounds: int


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time each call `rounds` times in turns, after `warmup` untimed turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for name, call in calls.items():
            _synchronize()
            start = time.perf_counter()
            call()
            _synchronize()
            if turn >= warmup:
                taken[name].append(time.perf_counter() - start)
    return {name: _timing(seconds) for name, seconds in taken.items()}


def _timing(seconds: list[float]) -> Timing:
    if len(seconds) < 2:
        return Timing(seconds[0], 0.0, 1)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(statistics.median(seconds), high - low, len(seconds))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
