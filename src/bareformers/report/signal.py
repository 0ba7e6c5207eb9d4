"""Signal propagation as small multiples: a panel for each measure, depth from left to right, a line for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bareformers.report import words
from bareformers.report.palette import Look
from bareformers.report.svg import Panel, chart, inline

Layers = Sequence[Mapping[str, Any]]

# What a layer has, in the order of the panels, and what to look for.
MEASURES = {
    "rms": "root mean square of the hidden states",
    "cosine": "between positions; at 1 all say the same",
    "effective_rank": "how many directions the positions use",
    "attention_entropy": "in nats, mean over heads; 0 reads one position",
    "kurtosis": "of neurons; 1 where all are equally strong",
    "gradient_norm": "of the loss with respect to the hidden states",
}


@dataclass(frozen=True)
class Depths:
    """One model at its initialisation and as trained: its layers, each with its stack, its number and the measures."""

    name: str
    look: Look
    before: Layers
    after: Layers


@dataclass(frozen=True)
class SignalFigure:
    """The panels of one stack; its name is empty where there is but one."""

    stack: str
    panels: list[Panel]


def draw(models: Sequence[Depths]) -> list[SignalFigure]:
    """A figure for each stack. Measures that no model has are left out, and so are numbers that are not finite."""
    stacks = dict.fromkeys(str(row["stack"]) for model in models for row in (*model.before, *model.after))
    figures = []
    for stack in stacks:
        panels = [panel for key in MEASURES if (panel := _panel(models, stack, key))]
        if panels:
            figures.append(SignalFigure(stack, panels))
    return figures


def _panel(models: Sequence[Depths], stack: str, key: str) -> Panel | None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    drawn = [(model, _points(model.before, stack, key), _points(model.after, stack, key)) for model in models]
    values = [value for _, before, after in drawn for _, value in (*before, *after)]
    if not values:
        return None
    figure, axes = chart(340, 230, left=52, right=12, top=10, bottom=40)
    axes.set_xlabel("layer")
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 200 * min(values) else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for model, before, after in drawn:
        colour = model.look.light
        if before:
            axes.plot(*zip(*before, strict=True), color=colour, linewidth=1.3, alpha=0.6, dashes=(4, 3), zorder=2)
        if after:
            axes.plot(
                *zip(*after, strict=True), color=colour, linewidth=1.9, marker=model.look.marker, markersize=4,
                markeredgewidth=0, zorder=3,
            )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    title = words.label(key)
    last = "; ".join(f"{model.name} {_tick(points[-1][1])}" for model, *both in drawn if (points := both[1] or both[0]))
    svg = inline(figure, f"signal-{stack or 'model'}-{key}", f"{title} by layer; at the last: {last}")
    return Panel(title, MEASURES[key], svg)


def _points(layers: Layers, stack: str, key: str) -> list[tuple[int, float]]:
    return [
        (int(row["layer"]), float(row[key]))
        for row in layers
        if row["stack"] == stack and row.get(key) is not None and math.isfinite(row[key])
    ]


def _tick(value: float) -> str:
    text = words.quantity(value) if abs(value) >= 1e4 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")
