"""How attention comes to be sparse, for reading: a table in the terminal, `results.csv`, one HTML file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bareformers.report import palette, words
from bareformers.report.html import day, template
from bareformers.report.result import Document, Measure, Schema, write_whole
from bareformers.report.svg import Panel, chart, inline

HEADLINE = "distinct_entropy"
TITLES = {
    "common": "attention on common tokens",
    "distinct": "attention on distinct tokens",
    "largest": "largest attention",
    "entropy": "entropy over all tokens",
    "distinct_entropy": "entropy on distinct tokens",
    "loss": "loss",
}
HUES = [name for name in palette.THEMES if name.startswith("v")]
NAMED = 4  # pairs or settings in a sentence, at the most


class Setting(Schema):
    """What came of one pair of learning rates.

    Attributes:
        learning_rate_z: of the attention, Z.
        ratio: the learning rate of Y as a multiple of it.
        final: each measure after the last iteration, the mean over next tokens and seeds.
        course: each measure at each of the times, the mean over the seeds.
        lowest, highest: the same over the seeds.
        by_seed: the headline after the last iteration, of each seed.
    """

    learning_rate_z: float
    ratio: float
    final: dict[str, Measure]
    course: dict[str, list[float]]
    lowest: dict[str, list[float]]
    highest: dict[str, list[float]]
    by_seed: list[float]

    @property
    def finite(self) -> bool:
        """Whether all that was measured at the end are numbers, of all seeds."""
        return all(measure.finite for measure in self.final.values())


class ScanAndSnap(Document):
    """How attention developed at several learning rates. Saved as `result.json`.

    Attributes:
        times: iterations done, of each point of a course.
        seconds: that all settings and seeds took together.
        tokens: of the vocabulary.
        seeds: of the start and of the sequences.
        recipe: the resolved recipe.
    """

    kind: Literal["scan_and_snap"] = "scan_and_snap"
    name: str
    description: str = ""
    created: str
    command: str
    times: list[int]
    settings: list[Setting]
    seconds: float
    tokens: int
    seeds: list[int]
    recipe: dict[str, Any] = {}
    environment: dict[str, str] = {}
    schema_version: Literal[1] = 1

    def setting(self, learning_rate_z: float, ratio: float) -> Setting:
        """What came of these learning rates."""
        return next(each for each in self.settings if (each.learning_rate_z, each.ratio) == (learning_rate_z, ratio))

    @property
    def learning_rates(self) -> list[float]:
        """Those of Z, in rising order."""
        return sorted({each.learning_rate_z for each in self.settings})

    @property
    def ratios(self) -> list[float]:
        """In rising order."""
        return sorted({each.ratio for each in self.settings})


def build(folder: Path) -> Path:
    """Write `<folder>/report.html` from `<folder>/result.json`; return its path."""
    return write_whole(folder / "report.html", page(ScanAndSnap.load(folder / "result.json")))


# What the paper says, and whether it is so


@dataclass(frozen=True)
class Ordering:
    """One claim, held against all pairs of neighbouring settings.

    A difference is that of single seeds, which had the same start and sequences in both settings. Where 0 lies within
    the spread of the differences, the seeds disagree, and nothing can be told.

    Attributes:
        claim: in words.
        pairs: how many there are, without those that overflowed.
        against: the pairs whose means over the seeds speak against it, in words.
        unsettled: those on which the seeds disagree, in words.
        agreeing: how many pairs of single seeds say what is claimed.
        seeds: how many seeds there are.
        overflowed: how many pairs have a setting without numbers.
    """

    claim: str
    pairs: int
    against: list[str]
    unsettled: list[str]
    agreeing: int
    seeds: int
    overflowed: int = 0

    @property
    def sentence(self) -> str:
        if not self.pairs:
            if self.overflowed:
                return f"Whether {self.claim} cannot be told, for the numbers overflowed."
            return f"Whether {self.claim} was not asked, for there is nothing to compare."
        every = {1: "the one pair", 2: "both pairs"}.get(self.pairs, f"all {self.pairs} pairs")
        if len(self.unsettled) == self.pairs:
            return f"Whether {self.claim} cannot be told: seeds disagree in {every}{self.one_by_one}."
        held = self.pairs - len(self.against)
        if not self.against:
            said = f"As in the paper, {self.claim}: in {every} of neighbouring settings{self.one_by_one}"
        elif 2 * held <= self.pairs:
            said = f"Other than in the paper, {self.claim} in only {held} of {self.pairs} pairs{self.one_by_one}"
        else:
            said = (
                f"Mostly as in the paper, {self.claim}: in {held} of {self.pairs} pairs of neighbouring settings"
                f"{self.one_by_one}, but not {_few(self.against)}"
            )
        return f"{said}; seeds disagree {_few(self.unsettled)}, which cannot be told." if self.unsettled else f"{said}."

    @property
    def one_by_one(self) -> str:
        """How many single seeds agree, in words."""
        if self.seeds == 1:
            return " (of one seed)"
        return f" by the means ({self.agreeing} of {self.pairs * self.seeds} seed by seed)"


def _few(pairs: list[str]) -> str:
    """The first of them, so that a sentence of a large sweep has an end."""
    return words.listed(pairs if len(pairs) <= NAMED else [*pairs[: NAMED - 1], f"in {len(pairs) - NAMED + 1} more"])


def orderings(result: ScanAndSnap) -> list[Ordering]:
    """Tian et al. 2023, Figure 6: what makes the attention on distinct tokens sparser, and what denser."""
    rates, ratios = result.learning_rates, result.ratios
    faster = [
        (f"at ratio {ratio:g} from rate {low:g} to {high:g}", result.setting(low, ratio), result.setting(high, ratio))
        for ratio in ratios
        for low, high in zip(rates, rates[1:], strict=False)
    ]
    larger = [
        (f"at rate {rate:g} from ratio {low:g} to {high:g}", result.setting(rate, low), result.setting(rate, high))
        for rate in rates
        for low, high in zip(ratios, ratios[1:], strict=False)
    ]
    return [
        _ordering("a higher learning rate makes attention sparser", faster, rises=False),
        _ordering("a higher ratio makes it denser", larger, rises=True),
    ]


def _ordering(claim: str, pairs: list[tuple[str, Setting, Setting]], rises: bool) -> Ordering:
    against, unsettled, agreeing, sign = [], [], 0, 1 if rises else -1
    counted = [pair for pair in pairs if pair[1].finite and pair[2].finite]
    for where, low, high in counted:
        one, other = low.final[HEADLINE].value, high.final[HEADLINE].value
        differences = [(more - less) * sign for less, more in zip(low.by_seed, high.by_seed, strict=True)]
        agreeing += sum(difference > 0 for difference in differences)
        if (other - one) * sign <= 0:
            against.append(f"{where} ({_score(one)} to {_score(other)})")
        if len(differences) > 1 and min(differences) <= 0 <= max(differences):
            unsettled.append(where)
    seeds = len(pairs[0][1].by_seed) if pairs else 0
    return Ordering(claim, len(counted), against, unsettled, agreeing, seeds, len(pairs) - len(counted))


def verdict(result: ScanAndSnap) -> str:
    """Whether the orderings of the paper hold, in two sentences, and a third where numbers overflowed."""
    said = [ordering.sentence for ordering in orderings(result)]
    lost = [f"at rate {each.learning_rate_z:g} and ratio {each.ratio:g}" for each in result.settings if not each.finite]
    if lost:
        said.append(f"The numbers overflowed {_few(lost)}.")
    return " ".join(said)


# The terminal


def table(result: ScanAndSnap) -> Table:
    """The entropy on distinct tokens at the end: a row for each learning rate, a column for each ratio."""
    found = Table(
        title=f"{result.name}: {TITLES[HEADLINE]}, in nats",
        caption=caption(result),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    found.add_column("learning rate of Z")
    for ratio in result.ratios:
        found.add_column(f"ratio {ratio:g}", justify="right")
    for rate in result.learning_rates:
        found.add_row(f"{rate:g}", *(_written(result.setting(rate, ratio).final[HEADLINE]) for ratio in result.ratios))
    return found


def caption(result: ScanAndSnap) -> str:
    """What the numbers of the table are."""
    over = f"; ± half of the spread over {words.seeds(len(result.seeds))}" if len(result.seeds) > 1 else ", of one seed"
    begun = f"The {TITLES[HEADLINE]} began at {_score(result.settings[0].course[HEADLINE][0])}; lower is sparser."
    return f"After {result.times[-1]:,} iterations{over}. {begun}"


def _written(measure: Measure) -> str:
    spread = "" if measure.spread is None or not measure.finite else f" ± {_score(measure.spread / 2)}"
    return f"{_score(measure.value)}{spread}"


def _score(value: float) -> str:
    return words.score("entropy", value, like=1.0)


# The file for other programs


def write_csv(result: ScanAndSnap, path: Path) -> Path:
    """Write one row for each setting, measure and time: the mean over the seeds, the lowest and the highest."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["learning_rate_z", "ratio", "measure", "iteration", "value", "lowest", "highest"])
    for each in result.settings:
        for name, values in each.course.items():
            for time, *numbers in zip(result.times, values, each.lowest[name], each.highest[name], strict=True):
                writer.writerow([each.learning_rate_z, each.ratio, name, time, *numbers])
    return write_whole(path, text.getvalue())


# The page


@dataclass(frozen=True)
class Figures:
    """Panels side by side, one for each learning rate."""

    title: str
    reading: str
    panels: list[Panel]


def page(result: ScanAndSnap) -> str:
    """The report as one HTML document that names no other file or address."""
    grids = [
        (
            TITLES[name],
            [
                (rate, [_written(result.setting(rate, ratio).final[name]) for ratio in result.ratios])
                for rate in result.learning_rates
            ],
        )
        for name in (HEADLINE, *(name for name in TITLES if name not in (HEADLINE, "loss")))
    ]
    return template("scan_and_snap.html.j2").render(
        result=result,
        theme=palette.stylesheet(),
        created=day(result.created),
        verdict=verdict(result),
        caption=caption(result),
        keys=[(f"{ratio:g}", _hue(result, ratio)) for ratio in result.ratios],
        figures=list(_figures(result)),
        grids=grids,
        seconds=words.quantity(result.seconds, "s"),
    )


def _hue(result: ScanAndSnap, ratio: float) -> str:
    return HUES[result.ratios.index(ratio)]


def _figures(result: ScanAndSnap) -> Iterator[Figures]:
    yield Figures(
        "Who is read",
        "Solid: attention on the tokens that stand in the context of one next token alone; dashed: on those that stand "
        "in the contexts of all.",
        list(_panels(result, {"distinct": True, "common": False}, "mass")),
    )
    yield Figures(
        "How many distinct tokens are read",
        "Entropy of the attention on distinct tokens alone, in nats, which falls as few of them take all; the shade is "
        "the range over the seeds.",
        list(_panels(result, {"distinct_entropy": True}, "distinct")),
    )
    yield Figures(
        "How many tokens are read",
        "Entropy over all tokens, in nats; the shade is the range over the seeds.",
        list(_panels(result, {"entropy": True}, "entropy")),
    )


def _panels(result: ScanAndSnap, measures: dict[str, bool], kind: str) -> Iterator[Panel]:
    """A panel for each learning rate; of the measures those that are True are solid."""
    from matplotlib.ticker import MaxNLocator

    sides = [side[name] for each in result.settings for name in measures for side in (each.lowest, each.highest)]
    values = [value for side in sides for value in side if math.isfinite(value)]
    low, high = (0.0, 1.0) if kind == "mass" else (min(values), max(values))
    room = 0.04 * (high - low) or 0.1
    for number, rate in enumerate(result.learning_rates):
        figure, axes = chart(400, 270, left=44, right=12, top=10, bottom=40)
        axes.set_xlabel("iterations")
        axes.set_xlim(0, result.times[-1])
        axes.set_ylim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        for ratio in result.ratios:
            each, colour = result.setting(rate, ratio), palette.THEMES[_hue(result, ratio)][0]
            for name, solid in measures.items():
                course = each.course[name]
                if solid:
                    axes.plot(result.times, course, color=colour, linewidth=1.9, zorder=3)
                else:
                    axes.plot(result.times, course, color=colour, linewidth=1.4, dashes=(4, 3), zorder=2)
                if kind != "mass":
                    between_seeds = each.lowest[name], each.highest[name]
                    axes.fill_between(result.times, *between_seeds, color=colour, alpha=0.12, linewidth=0)
        finals = {ratio: result.setting(rate, ratio).final for ratio in result.ratios}
        ends = (
            f"ratio {ratio:g} {' and '.join(_score(final[name].value) for name in measures)}"
            for ratio, final in finals.items()
        )
        what = " and ".join(TITLES[name] for name in measures)
        said = f"{what} over time at learning rate {rate:g}; at the end: {'; '.join(ends)}"
        yield Panel(f"learning rate {rate:g}", "of Z", inline(figure, f"{kind}-{number}", said))
