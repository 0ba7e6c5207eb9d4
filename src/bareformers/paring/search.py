"""Which place gets which mixer: a greedy search for what saves most within a budget of quality.

Nothing here knows what a model is: quality, and what a candidate saves, are functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bareformers.errors import InputError
from bareformers.report.paring import Tried
from bareformers.report.result import write_whole

Assignment = dict[str, str]
"""Candidates by place; what is not named keeps its attention."""

TINY = 1e-9  # what a sum of measured numbers may be off by


@dataclass
class Trace:
    """What a search saw and did.

    Attributes:
        original: the quality before anything was replaced.
        max_drop: the budget.
        alone: by place and candidate, the drop where nothing else is replaced.
        savings: by place and candidate.
        steps: in order, the rejected ones too.
        remark: a sentence about how it ended.
    """

    original: float
    max_drop: float
    alone: dict[str, dict[str, float]] = field(default_factory=dict)
    savings: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: list[Tried] = field(default_factory=list)
    remark: str = ""

    @property
    def accepted(self) -> list[Tried]:
        return [step for step in self.steps if step.accepted]

    @property
    def assignment(self) -> Assignment:
        """What was found."""
        return self.after(len(self.accepted))

    def after(self, count: int) -> Assignment:
        """The assignment once so many steps had been accepted."""
        return {step.place: step.candidate for step in self.accepted[:count]}


class Option(NamedTuple):
    """A step that could be taken: what it saves beyond what is there, and what it is expected to lose."""

    place: str
    candidate: str
    gain: float
    loss: float


class Scores:
    """A quality that is measured once for each assignment, and kept in a file from which a search goes on."""

    def __init__(self, quality: Callable[[Assignment], float], file: Path | None = None) -> None:
        self._quality, self._file = quality, file
        self.known: dict[str, float] = {}
        if file is not None and file.exists():
            try:
                self.known = {str(key): float(value) for key, value in json.loads(file.read_text("utf-8")).items()}
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise InputError(f"{file} is damaged: {error}; remove it, and the search begins again") from error

    def __call__(self, assignment: Assignment) -> float:
        key = json.dumps(assignment, sort_keys=True)
        if key not in self.known:
            self.known[key] = self._quality(dict(assignment))
            if self._file is not None:
                write_whole(self._file, json.dumps(self.known, indent=1) + "\n")
        return self.known[key]


def lost(original: float, quality: float) -> float:
    """The drop of a quality of which more is better."""
    return original - quality


def search(
    places: Mapping[str, Sequence[str]],
    quality: Callable[[Assignment], float],
    saving: Callable[[str, str], float],
    max_drop: float,
    *,
    noise: float = 0.0,
    drop: Callable[[float, float], float] = lost,
    file: Path | None = None,
    log: Callable[[str], None] = lambda sentence: None,
) -> Trace:
    """Replace, one place after the other, what saves most for what it loses, while the whole stays within `max_drop`.

    First every candidate is tried alone in every place. Then steps are taken greedily by the saving for each point that
    is expected to be lost: the drop alone, times how much more the candidate was seen to lose together with others than
    alone. The quality of the whole is measured after each step, and one that leaves the budget is taken back, for good:
    what was too much, alone or so far, does not become less with more replaced. A place may get another candidate later
    that saves more.

    Args:
        places: the candidates that each may get, in the order in which they are tried where all else is equal.
        quality: of the whole with an assignment; it is asked once for each.
        saving: of a candidate in a place, in any unit; what saves nothing is never taken.
        max_drop: the most that may be lost.
        noise: drops below it count as it, since they cannot be told apart.
        drop: of the original quality and another, what is lost; no number is a drop without end.
        file: where qualities are kept.
    """
    scores = Scores(quality, file)

    def dropped(assignment: Assignment) -> float:
        found = drop(trace.original, scores(assignment))
        return found if math.isfinite(found) else math.inf

    def floored(loss: float) -> float:
        return max(loss, noise, TINY)

    trace = Trace(scores({}), max_drop)
    for place, candidates in places.items():
        trace.savings[place] = {each: saving(place, each) for each in candidates}
        trace.alone[place] = {each: dropped({place: each}) for each in candidates}
        log(f"{place}: " + ", ".join(f"{each} {value:+.4g}" for each, value in trace.alone[place].items()))
    now: Assignment = {}
    at, rejected = 0.0, set[tuple[str, str]]()
    seen: dict[str, float] = {}
    expected: dict[str, float] = {}

    def options() -> list[Option]:
        found = []
        for place, candidates in places.items():
            own = now.get(place)
            has, costs = (trace.savings[place][own], trace.alone[place][own]) if own else (0.0, 0.0)
            for each in candidates:
                gain = trace.savings[place][each] - has
                alone = trace.alone[place][each]
                if gain > TINY and alone <= max_drop + TINY and (place, each) not in rejected:
                    found.append(Option(place, each, gain, floored(alone - costs)))
        return found

    def worth(option: Option) -> tuple[float, float]:
        factor = seen.get(option.candidate, 1.0) / expected.get(option.candidate, 1.0)
        return option.gain / (option.loss * factor), option.gain

    while possible := options():
        best = max(possible, key=worth)  # the first of those that are worth the same
        tried = {**now, best.place: best.candidate}
        found = dropped(tried)
        fits = found <= max_drop + TINY
        saved = sum(trace.savings[place][each] for place, each in tried.items())
        trace.steps.append(
            Tried(
                place=best.place,
                candidate=best.candidate,
                before=now.get(best.place),
                quality=scores(tried),
                drop=found,
                saved=saved,
                accepted=fits,
            )
        )
        log(f"{best.candidate} in {best.place}: drop {found:.4g}, " + ("taken" if fits else "too much"))
        if math.isfinite(found):
            seen[best.candidate] = seen.get(best.candidate, 0.0) + floored(found - at)
            expected[best.candidate] = expected.get(best.candidate, 0.0) + best.loss
        if fits:
            now, at = tried, found
        else:
            rejected.add((best.place, best.candidate))
    trace.remark = _remark(trace)
    return trace


def _remark(trace: Trace) -> str:
    """How a search ended, in a sentence."""
    if trace.assignment:
        count = len(trace.assignment)
        return f"{count} of {len(trace.savings)} places can be replaced for a drop of at most {trace.max_drop:g}."
    if not any(value > TINY for savings in trace.savings.values() for value in savings.values()):
        return "No candidate saves anything in any place, so nothing is replaced."
    finite = [value for drops in trace.alone.values() for value in drops.values() if math.isfinite(value)]
    least = f": the least that one costs alone is {min(finite):.4g}" if finite else ""
    return f"Nothing can be replaced for a drop of at most {trace.max_drop:g}{least}."
