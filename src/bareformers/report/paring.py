"""What a paring tried and did: quality against what was saved along the way, and what each place can do without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bareformers.report import words
from bareformers.report.palette import THEMES
from bareformers.report.result import Document, Schema
from bareformers.report.svg import FAINT, MUTED, Panel, chart, inline


class Tried(Schema):
    """One candidate that the search tried in one place, on top of what it had accepted before.

    Attributes:
        before: the candidate that was there; None for the attention.
        quality: of the whole, with it.
        drop: what is lost of the quality of the original, with it.
        saved: what all candidates in place save together, with it.
    """

    place: str
    candidate: str
    before: str | None
    quality: float
    drop: float
    saved: float
    accepted: bool


class Trial(Schema):
    """The model after so many accepted steps, fine-tuned, on what verifies."""

    steps: int
    quality: float
    drop: float
    replaced: dict[str, str]


class ParingStudy(Document):
    """Everything that a paring saw. Saved as `<paring>/trace.json`.

    Attributes:
        metric: whose drop is bounded.
        target: what is saved: `latency` as a share of the forward pass, `parameters`, or `state` in bytes.
        max_drop: the bound.
        searched_drop: what the search may lose, which is more where fine-tuning is to win some back.
        in_percent: whether drops are in percent of the original, and not in points.
        original: the metric of the original, on what the search looks at.
        attention: the share of the forward pass that attention takes, by what was timed.
        alone: by place and candidate, the drop where nothing else is replaced.
        savings: by place and candidate.
        steps: of the search, the rejected ones too.
        trials: on what verifies, with ever fewer steps until the bound holds.
        final: what was replaced, by place.
        remark: how it ended, in a sentence.
        settings: what the search looked at, and what verifies, in a sentence.
    """

    metric: str
    target: Literal["latency", "parameters", "state"]
    max_drop: float
    searched_drop: float
    in_percent: bool
    original: float
    attention: dict[str, float]
    alone: dict[str, dict[str, float]]
    savings: dict[str, dict[str, float]]
    steps: list[Tried]
    trials: list[Trial]
    final: dict[str, str]
    remark: str
    settings: str = ""


@dataclass(frozen=True)
class Cell:
    """The drop of a candidate alone in a place, and what it saves there.

    Attributes:
        shade: how much of the budget the drop takes, in percent; None where the candidate was taken in the end.
    """

    drop: str
    saved: str
    shade: int | None = 0


@dataclass(frozen=True)
class ParingFigure:
    """The whole section."""

    metric: str
    unit: str
    bound: str
    settings: str
    attention: list[str]
    panels: list[Panel]
    candidates: list[str]
    rows: list[tuple[str, list[Cell], str]]
    steps: list[tuple[str, str, str, str, bool]]
    trials: list[tuple[int, str, str, bool]]


def draw(study: ParingStudy | None) -> ParingFigure | None:
    """The section of the report; None where there was no paring."""
    if study is None:
        return None
    candidates = list(dict.fromkeys(name for drops in study.alone.values() for name in drops))
    rows = [
        (place, [_cell(study, place, name) for name in candidates], study.final.get(place, "attention"))
        for place in study.alone
    ]
    steps = [
        (step.place, step.candidate, _points(step.drop), saved(study, step.saved), step.accepted)
        for step in study.steps
    ]
    trials = [
        (
            trial.steps,
            words.score(study.metric, trial.quality),
            _points(trial.drop),
            trial.drop <= study.max_drop + 1e-9,
        )
        for trial in study.trials
    ]
    return ParingFigure(
        metric=words.label(study.metric),
        unit="percent of the original" if study.in_percent else "points",
        bound=f"{study.searched_drop:g}",
        settings=study.settings,
        attention=[f"{words.percent(share)} ({what})" for what, share in study.attention.items()],
        panels=[_way(study)] if study.steps else [],
        candidates=candidates,
        rows=rows,
        steps=steps,
        trials=trials,
    )


def saved(study: ParingStudy, value: float) -> str:
    """What is saved, in words."""
    if study.target == "latency":
        return words.percent(value)
    return words.quantity(value, "bytes" if study.target == "state" else "")


def _points(drop: float) -> str:
    return words.NOT_MEASURED if drop == float("inf") else f"{drop:+.3g}".replace("-", "\N{MINUS SIGN}")


def _cell(study: ParingStudy, place: str, name: str) -> Cell:
    if name not in study.alone[place]:
        return Cell(words.NOT_MEASURED, "")
    drop, saving = study.alone[place][name], study.savings[place][name]
    if study.final.get(place) == name:
        shade = None
    else:
        bound = study.searched_drop
        shade = round(100 * min(max(drop, 0.0) / bound, 1.0)) if bound else 100 * (drop > 0)
    return Cell(_points(drop), saved(study, saving), shade)


def _way(study: ParingStudy) -> Panel:
    """The drop of the whole against what is saved: accepted steps as a line, rejected ones as crosses."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = chart(520, 320, left=62, right=24, top=14, bottom=44)
    size, unit = _scale(study)
    taken = [step for step in study.steps if step.accepted]
    left = [step for step in study.steps if not step.accepted and step.drop < float("inf")]
    ink, hue = THEMES["v1"][0], THEMES["v2"][0]
    axes.axhline(study.searched_drop, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
    axes.plot(
        [0.0, *(step.saved / size for step in taken)], [0.0, *(step.drop for step in taken)],
        color=ink, linewidth=1.8, marker="o", markersize=5, markeredgewidth=0, zorder=3,
    )  # fmt: skip
    highest = max([study.searched_drop, *(step.drop for step in taken)])
    lowest = min([0.0, *(step.drop for step in taken)])
    room = max(highest - lowest, 1e-6)
    edge = highest + room * (0.6 if left else 0.1)
    if left:
        axes.plot(
            [step.saved / size for step in left], [min(step.drop, edge) for step in left],
            color=hue, linewidth=0, marker="X", markersize=6, markeredgewidth=0, zorder=2, clip_on=False,
        )  # fmt: skip
    axes.set_ylim(edge, lowest - 0.1 * room)  # up is better
    axes.set_xlabel(f"saved, {unit}")
    axes.set_ylabel(f"drop of {words.label(study.metric)}   (up is better)")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", color=FAINT, linewidth=0.6, alpha=0.5)
    end = taken[-1] if taken else None
    said = f"after {len(taken)} steps a drop of {end.drop:.3g}, {saved(study, end.saved)} saved" if end else "no step"
    described = f"The search for what to replace: {said}; the bound is {study.searched_drop:g}"
    return Panel("along the way", "the whole, after each step of the search", inline(figure, "paring", described))


def _scale(study: ParingStudy) -> tuple[float, str]:
    """What to divide savings by on an axis, and what they are in then."""
    if study.target == "latency":
        return 0.01, "% of the forward pass"
    largest = max([abs(step.saved) for step in study.steps], default=1.0)
    size, unit = words.scale(largest, "bytes" if study.target == "state" else "")
    return size, f"{unit} {'of state' if study.target == 'state' else 'parameters'}".strip()
