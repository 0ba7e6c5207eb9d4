"""What a sweep gave: its schema, the laws that fit it, and how they are shown.

`result.json` for the report, `results.csv` for other programs, a table in the terminal and one HTML file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bareformers.report import palette, words
from bareformers.report.html import as_yaml, day, mark, template
from bareformers.report.power_law import LEAST, Law, fit
from bareformers.report.result import Document, Measure, Schema, write_whole
from bareformers.report.svg import Panel, chart, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Axis = Literal["parameters", "tokens"]
EXPONENTS: dict[Axis, str] = {"parameters": "alpha", "tokens": "beta"}
SYMBOLS = {"alpha": "α", "beta": "β", "E": "E"}


class Point(Schema):
    """One variant at one point of the grid.

    Attributes:
        name: of the point, and of its folder.
        values: what the point says of each key of the sweep.
        setting: what it says of keys that make a model neither larger nor its data more, in words.
        loss: on the test side, the mean over the seeds; None where it diverged.
        losses: of each seed.
        parameters: without those of token embeddings.
        multiply_adds: of a forward pass of one sequence.
        tokens, epochs, seconds: that a training took, the mean over the seeds.
    """

    name: str
    variant: str
    floor: bool = False
    values: dict[str, Any]
    setting: str = ""
    status: str = "finished"
    loss: Measure | None = None
    losses: list[float] = []
    parameters: float = math.nan
    multiply_adds: float = math.nan
    tokens: float = math.nan
    epochs: float = math.nan
    seconds: float = math.nan

    @property
    def counts(self) -> bool:
        """Whether it can be fitted and drawn."""
        values = [self.parameters, self.tokens, *self.losses]
        whole = self.status == "finished" and bool(self.losses)
        return whole and all(math.isfinite(value) and value > 0 for value in values)

    @property
    def mean(self) -> float:
        return math.fsum(self.losses) / len(self.losses)

    @property
    def distinct(self) -> float:
        """Tokens of the training side that were predicted at least once."""
        return self.tokens / max(1.0, self.epochs)

    @property
    def amount(self) -> Any:
        """What the sweep says of how much is learnt from."""
        return self.values.get("tokens", self.values.get("share"))


class Fit(Schema):
    """A law of one variant in one setting; `law` is None, and `remark` says why, where there are too few points.

    Attributes:
        axes: what the law depends on.
        held: what the others have in common, in words.
    """

    variant: str
    setting: str = ""
    axes: list[Axis]
    points: int
    law: Law | None = None
    held: str = ""
    remark: str = ""

    @property
    def falls(self) -> bool:
        """Whether there is a law by which the loss falls with everything that it depends on."""
        return self.law is not None and self.law.falls

    @property
    def told(self) -> Law | None:
        """The law, if points lie on it and it is known how sure it is."""
        return self.law if self.law is not None and self.law.holds and self.law.intervals else None


class Scale(Document):
    """Everything a sweep measured. Saved as `result.json`.

    Attributes:
        baseline: the variant that the others are held against.
        sweep: what grew, and the values that it took.
        unit: of the loss.
        counts_distinct: whether data is counted in distinct tokens, as where a share of the training side is read, or
            in tokens that training predicted.
        points: in the order of the grid and of the variants.
    """

    kind: Literal["sweep"] = "sweep"
    name: str
    description: str = ""
    created: str
    command: str
    baseline: str
    sweep: dict[str, Any]
    unit: str
    counts_distinct: bool
    points: list[Point]
    fits: list[Fit]
    notes: list[str] = []
    recipe: dict[str, Any] = {}
    environment: dict[str, str] = {}
    schema_version: Literal[1] = 1

    @property
    def variants(self) -> dict[str, bool]:
        """The variants in their order, and whether each is a floor."""
        return {point.variant: point.floor for point in self.points}

    @property
    def settings(self) -> list[str]:
        return list(dict.fromkeys(point.setting for point in self.points))

    @property
    def tokens(self) -> str:
        """What the data is counted in."""
        return "distinct training tokens" if self.counts_distinct else "training tokens"

    def data(self, point: Point) -> float:
        """How much a point learnt from."""
        return point.distinct if self.counts_distinct else point.tokens


def build(folder: Path) -> Path:
    """Write `<folder>/report.html` from `<folder>/result.json`; return its path."""
    return write_whole(folder / "report.html", page(Scale.load(folder / "result.json")))


# The laws


def fits(points: Sequence[Point], counts_distinct: bool) -> list[Fit]:
    """The laws of each variant in each setting, as far as there are points for them."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        group = groups.setdefault((point.variant, point.setting), [])
        if point.counts:
            group.append(point)
    return [found for group in groups.items() for found in _fits(*group, counts_distinct)]


def _fits(group: tuple[str, str], points: list[Point], counts_distinct: bool) -> Iterator[Fit]:
    variant, setting = group
    sizes, amounts = ({_x(axis)(point) for point in points} for axis in ("size", "amount"))
    varied: list[Axis] = [*(["parameters"] if len(sizes) > 1 else []), *(["tokens"] if len(amounts) > 1 else [])]  # type: ignore[list-item]
    enough = min(len(sizes), len(amounts)) >= 3 and len(points) >= LEAST["joint"]
    if not varied:
        remark = "one point lies on every law, so none is fitted" if points else "nothing ended in numbers"
        yield Fit(variant=variant, setting=setting, axes=[], points=len(points), remark=remark)
    elif len(varied) == 2 and enough and (both := _fit(variant, setting, varied, points, counts_distinct)).falls:
        yield both
    else:
        for axis in varied:
            kept, held = points, ""
            if len(varied) == 2:
                other = _x("amount" if axis == "parameters" else "size")
                most = max(map(other, points))
                kept = [point for point in points if other(point) == most]
                held = "at the most data" if axis == "parameters" else "at the largest size"
            yield _fit(variant, setting, [axis], kept, counts_distinct, held)


def _x(kind: str) -> Any:
    return (lambda point: point.parameters) if kind == "size" else (lambda point: point.amount)


def _fit(
    variant: str, setting: str, axes: list[Axis], points: list[Point], counts_distinct: bool, held: str = ""
) -> Fit:
    given = {
        "parameters": [point.parameters for point in points],
        "tokens": [point.distinct if counts_distinct else point.tokens for point in points],
    }
    x = {axis: given[axis] for axis in axes}
    found = Fit(variant=variant, setting=setting, axes=axes, points=len(points), held=held)
    distinct = min(len(set(values)) for values in x.values())
    if distinct < LEAST["power"]:
        return found.model_copy(update={"remark": f"all points have equally many {axes[0]}, so no law is fitted"})
    form: Any = "joint" if len(axes) == 2 else "floored" if distinct >= LEAST["floored"] else "power"
    law = fit([point.losses for point in points], form=form, **x)  # type: ignore[arg-type]
    remarks = []
    if form == "power":
        remarks.append(f"{distinct} points are too few for an irreducible loss, so this is a pure power law")
    if not law.falls:
        remarks.append(f"the loss does not fall with {axes[0] if axes[0] == 'parameters' else 'data'}")
    elif not law.holds:
        remarks.append(
            f"the points lie on no such law, which explains {words.percent(law.explained)} of their variance"
        )
    elif not law.intervals:
        remarks.append("how sure it is cannot be told from two points of one seed")
    return found.model_copy(update={"law": law, "remark": "; ".join(remarks)})


def written(law: Law) -> str:
    """A law as a formula with its numbers."""
    v = law.values
    terms = [_number(v["E"])] if "E" in v else []
    for scale, exponent, symbol in (("A", "alpha", "N"), ("B", "beta", "D")):
        if scale in v:
            magnitude = math.log10(v[scale]) / max(v[exponent], 1e-9)  # of N_c or D_c
            exponent_said = _number(v[exponent])
            is_scale = law.form != "joint" and abs(magnitude) < 30
            terms.append(
                f"({_large(10**magnitude)} / {symbol})^{exponent_said}"
                if is_scale
                else f"{_large(v[scale])} / {symbol}^{exponent_said}"
            )
    return " + ".join(terms)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _large(value: float) -> str:
    return words.quantity(value) if 0.01 <= value < 1e15 else f"{value:.1e}"


def _exponent(law: Law, name: str) -> str:
    """`0.34 (0.32 to 0.37)`; empty where the law has none of that name."""
    if name not in law.values:
        return ""
    interval = law.intervals.get(name)
    return _number(law.values[name]) + (f" ({_number(interval[0])} to {_number(interval[1])})" if interval else "")


def verdict(scale: Scale) -> str:
    """How the loss falls with what grew, and which variants differ in that beyond what is unsure."""
    sentences = []
    for setting in scale.settings:
        for axis in EXPONENTS:
            if said := _said(scale, setting, axis):
                sentences.append(f"At {setting}, {said[0].lower()}{said[1:]}" if setting else said)
    return " ".join(sentences) or "Nothing grew at more than one point, so there is no law to tell."


def _said(scale: Scale, setting: str, axis: Axis) -> str:
    asked = {each.variant: each for each in scale.fits if each.setting == setting and axis in each.axes}
    if not asked:
        return ""
    noun, exponent = "parameters" if axis == "parameters" else scale.tokens, EXPONENTS[axis]
    told = {variant: law for variant, each in asked.items() if (law := each.told) is not None}
    first = told.get(scale.baseline)
    if first is None:
        return f"No law of {noun} can be told for {scale.baseline}."
    groups: dict[str, list[str]] = {}
    for variant in asked:
        if variant != scale.baseline:
            groups.setdefault(_compared(first, told.get(variant), exponent), []).append(variant)
    held = f" ({asked[scale.baseline].held})" if asked[scale.baseline].held else ""
    if first.tells(exponent):
        parts = [f"The loss of {scale.baseline} falls with {noun}{held} with exponent {_exponent(first, exponent)}"]
    else:
        parts = [
            f"How fast the loss of {scale.baseline} falls with {noun}{held} these points do not tell: the exponent may "
            f"be anything from {' to '.join(map(_number, first.intervals[exponent]))}"
        ]
    parts += [f"{how} {words.listed(names)}" for how, names in groups.items()]
    return f"{'; '.join(parts)}."


def _compared(first: Law, other: Law | None, exponent: str) -> str:
    """How the law of another variant differs from that of the baseline; only what is sure is a difference."""
    if other is None:
        return "no law can be told for"
    if first.form != other.form:
        return "another form of law fits"
    (low, high), (least, most) = first.intervals[exponent], other.intervals[exponent]
    if least > high:
        return "the exponent is larger for"
    return "the exponent is smaller for" if most < low else "it cannot be told apart for"


# The terminal


def table(scale: Scale) -> Table:
    """The loss: a row for each point, a column for each variant."""
    found = Table(
        title=f"{scale.name}: loss, in {scale.unit}",
        caption=caption(scale),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    found.add_column("point")
    for variant in scale.variants:
        found.add_column(variant, justify="right")
    by_place = {(point.name, point.variant): point for point in scale.points}
    for name in dict.fromkeys(point.name for point in scale.points):
        found.add_row(name, *(loss_of(by_place[name, variant]) for variant in scale.variants))
    return found


def caption(scale: Scale) -> str:
    """What the numbers are."""
    seeds = max((len(point.losses) for point in scale.points), default=0)
    return f"± half of the spread over {words.seeds(seeds)}." if seeds > 1 else "One seed."


def loss_of(point: Point) -> str:
    """The loss of a point in words."""
    if point.loss is None or not point.loss.finite or point.status != "finished":
        return point.status if point.status != "finished" else words.NOT_MEASURED
    return words.with_spread("loss", point.loss.value, point.loss.spread)


# The file for other programs


def write_csv(scale: Scale, path: Path) -> Path:
    """Write a row for each point and variant: what the point says, what came of it, the loss of each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(scale.sweep)
    numbers = ("parameters", "multiply_adds", "tokens", "epochs", "seconds")
    writer.writerow(["point", *keys, "variant", "floor", "status", *numbers, "loss", "loss_spread", "losses"])
    for point in scale.points:
        loss = [""] * 2 if point.loss is None else [point.loss.value, _blank(point.loss.spread)]
        writer.writerow(
            [
                point.name,
                *(point.values[key] for key in keys),
                point.variant,
                str(point.floor).lower(),
                point.status,
                *(_blank(getattr(point, name)) for name in numbers),
                *loss,
                " ".join(map(str, point.losses)),
            ]
        )
    return write_whole(path, text.getvalue())


def _blank(value: float | None) -> Any:
    return "" if value is None or not math.isfinite(value) else value


# The page


@dataclass(frozen=True)
class Figures:
    """Panels side by side: those of one setting."""

    title: str
    panels: list[Panel]


def page(scale: Scale) -> str:
    """The report as one HTML document that names no other file or address."""
    looks = palette.looks_of(scale.variants, scale.baseline)
    return template("scale.html.j2").render(
        scale=scale,
        theme=palette.stylesheet(),
        created=day(scale.created),
        verdict=verdict(scale),
        caption=caption(scale),
        caveats=list(caveats(scale)),
        marks={name: mark(look) for name, look in looks.items()},
        figures=[
            Figures(setting, list(_panels(scale, setting, looks, f"scale{number}")))
            for number, setting in enumerate(scale.settings)
        ],
        symbols=SYMBOLS,
        fits=[(each, *_cells(each)) for each in scale.fits],
        points=[(point, loss_of(point), *_costs(scale, point)) for point in scale.points],
        recipe=as_yaml(scale.recipe),
    )


def caveats(scale: Scale) -> Iterator[str]:
    """What speaks against reading the laws as they stand."""
    if any(point.epochs > 1.05 for point in scale.points) and not scale.counts_distinct:
        yield "Some points read their text more than once, and laws of fresh text do not hold there."
    if lost := list(dict.fromkeys(f"{point.variant} at {point.name}" for point in scale.points if not point.counts)):
        named = lost if len(lost) <= 4 else [*lost[:3], f"{len(lost) - 3} more"]
        yield f"Left out of the laws, since it did not end in numbers: {words.listed(named)}."
    if all(len(point.losses) < 2 for point in scale.points):
        yield "There is one seed: what is unsure follows from the distance of points from their law alone."


def _cells(each: Fit) -> tuple[str, list[str], str]:
    if each.law is None:
        return "", [""] * len(SYMBOLS), ""
    return written(each.law), [_exponent(each.law, name) for name in SYMBOLS], f"{100 * each.law.error:.2g} %"


def _costs(scale: Scale, point: Point) -> list[str]:
    return [
        words.quantity(point.parameters),
        words.quantity(scale.data(point)),
        words.score("epochs", point.epochs, like=10.0),
        words.quantity(point.multiply_adds),
        words.quantity(point.seconds, "s"),
    ]


def _panels(scale: Scale, setting: str, looks: dict[str, palette.Look], name: str) -> Iterator[Panel]:
    points = [point for point in scale.points if point.setting == setting and point.counts]
    sizes, amounts = ({_x(kind)(point) for point in points} for kind in ("size", "amount"))
    parted = len(sizes) > 1 and len(amounts) > 1
    if len(sizes) > 1:
        hint = "without embeddings; one line for each amount of data, the most in full colour" if parted else ""
        svg = _drawn(scale, points, looks, "parameters", f"{name}-n")
        yield Panel("Against parameters", hint or "without embeddings", svg)
    if len(amounts) > 1:
        hint = "one line for each size, the largest in full colour" if parted else "predicted in training"
        yield Panel(f"Against {scale.tokens}", hint, _drawn(scale, points, looks, "tokens", f"{name}-d"))
    if len({point.name for point in points}) > 1:
        yield Panel("Against training time", "of one run", _drawn(scale, points, looks, "seconds", f"{name}-s"))


def _drawn(scale: Scale, points: list[Point], looks: dict[str, palette.Look], axis: str, name: str) -> str:
    """The points of one setting, and the laws that were fitted to them, on logarithmic axes."""
    figure, axes = chart(400, 320, left=52, right=14, top=12, bottom=44)
    label = {"parameters": "parameters", "tokens": scale.tokens, "seconds": "training time"}[axis]
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel=f"loss, {scale.unit}")

    def across(point: Point) -> float:
        return point.seconds if axis == "seconds" else scale.data(point) if axis == "tokens" else point.parameters

    other = _x("amount" if axis == "parameters" else "size")
    ranks = sorted({other(point) for point in points}, key=lambda value: (value is not None, value))
    for variant, look in looks.items():
        laws = [each for each in scale.fits if each.variant == variant and each.setting == points[0].setting]
        for rank in ranks:
            line = sorted((p for p in points if p.variant == variant and other(p) == rank), key=across)
            if not line or axis == "seconds" and not all(point.seconds > 0 for point in line):
                continue
            alpha = 1.0 if rank == ranks[-1] or axis == "seconds" else 0.4
            _marked(axes, [(across(point), point) for point in line], look, alpha)
            curve = None if axis == "seconds" else _curve(scale, laws, axis, line, rank == ranks[-1])
            if curve is not None:
                axes.plot(*curve, color=look.light, alpha=alpha, linewidth=1.8, zorder=2)
            elif axis != "seconds":
                means = [point.mean for point in line]
                axes.plot([across(point) for point in line], means, color=look.light, alpha=0.5 * alpha, linewidth=0.8)
    _ticks(axes, "s" if axis == "seconds" else "")
    ends = (f"{p.variant} {words.score('loss', p.mean)} at {words.quantity(across(p))}" for p in points)
    return inline(figure, name, f"loss against {label}: {'; '.join(ends)}")


def _marked(axes: Axes, spots: Iterable[tuple[float, Point]], look: palette.Look, alpha: float) -> None:
    for x, point in spots:
        half = (max(point.losses) - min(point.losses)) / 2
        axes.errorbar(x, point.mean, yerr=half or None, fmt="none", ecolor=look.light, elinewidth=1.2, alpha=alpha)
        axes.plot(x, point.mean, look.marker, color=look.light, markersize=5, markeredgewidth=0, alpha=alpha, zorder=3)


def _curve(scale: Scale, laws: list[Fit], axis: str, line: list[Point], is_last: bool) -> Any:
    """A law through the points of a line; None where none holds there."""
    found = next((each for each in laws if axis in each.axes and each.law is not None and each.law.holds), None)
    if found is None or found.law is None or len(line) < 2 or found.held and not is_last:
        return None
    ends = [[point.parameters for point in line], [scale.data(point) for point in line]]
    sizes, data = (np.geomspace(min(values), max(values), 60) for values in ends)
    return (sizes if axis == "parameters" else data), found.law.loss(sizes, data)


def _ticks(axes: Axes, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1,) if high > 300 * low else (1, 3) if high > 30 * low else (1, 2, 5))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tick(value, unit)))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for side in (axes.xaxis, axes.yaxis):
        side.set_minor_locator(NullLocator())
