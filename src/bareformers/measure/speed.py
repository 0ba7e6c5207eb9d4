"""Time, by interleaved medians: what is compared runs in turns, so that a slow minute of the machine hits all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

SLICE = 0.02  # seconds that a timing of `timed` takes at least: shorter calls are repeated


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median over rounds, and the interquartile range."""

    seconds: float
    spread: float
    rounds: int


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time each call `rounds` times in turns, there and back, after `warmup` untimed turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for name, call in list(calls.items())[:: 1 if turn % 2 == 0 else -1]:
            _synchronize()
            start = time.perf_counter()
            call()
            _synchronize()
            if turn >= warmup:
                taken[name].append(time.perf_counter() - start)
    return {name: _timing(seconds) for name, seconds in taken.items()}


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, Timing]:
    """The time of each call, by interleaved medians after a call or two that warm it up.

    A short call is repeated until it takes `SLICE`. One that takes so long that its rounds would exceed `seconds` gets
    fewer of them, in turns with those that get as few; one that alone exceeds `seconds` is not called again.
    """
    found: dict[str, Timing] = {}
    groups: dict[int, dict[str, Callable[[], Any]]] = {}
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        took = once(call)
        if took > seconds:
            found[name] = Timing(took, 0.0, 1)
            continue
        if took < 10 * SLICE:
            took = once(call)  # the first warms up
        repeats[name] = max(1, math.ceil(SLICE / max(took, 1e-7)))
        turns = max(1, min(rounds, int(seconds / max(took * repeats[name], 1e-7))))
        groups.setdefault(turns, {})[name] = partial(repeat, call, repeats[name])
    for turns, group in groups.items():
        for name, timing in interleaved(group, turns, warmup=0).items():
            count = repeats[name]
            found[name] = Timing(timing.seconds / count, timing.spread / count, timing.rounds)
    return {name: found[name] for name in calls}


def once(call: Callable[[], Any]) -> float:
    """Seconds of a single call."""
    return interleaved({"": call}, rounds=1, warmup=0)[""].seconds


def repeat(call: Callable[[], Any], count: int) -> None:
    for _ in range(count):
        call()


def _timing(seconds: list[float]) -> Timing:
    if len(seconds) < 2:
        return Timing(seconds[0], 0.0, 1)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(statistics.median(seconds), high - low, len(seconds))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
