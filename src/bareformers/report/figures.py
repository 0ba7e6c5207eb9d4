"""The charts of the report: quality against cost, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bareformers.report import words
from bareformers.report.labels import Box, Label, box_of, pixels, place, spread_out
from bareformers.report.palette import Look, looks
from bareformers.report.result import Compared, Comparison, Measure, VariantResult
from bareformers.report.svg import FAINT, MUTED, TEXT, chart, dress, inline
from bareformers.report.verdict import best_floor, crossover, crossovers, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Quality against cost


@dataclass(frozen=True)
class _Cost:
    """What stands on a horizontal axis: its title with the unit, and how to read it off a variant in that unit."""

    title: str
    read: Callable[[VariantResult], Measure | None]


def quality_against_cost(comparison: Comparison) -> list[str]:
    """Scatter plots of the headline quality against up to three costs that were measured.

    Up is better and left is cheaper in each: a score where lower is better has its axis upside down, and speeds
    stand as time per token relative to the baseline. Bars are as long as the spread of the seeds, centred on the mean.
    """
    return [_scatter(comparison, cost, f"cost{number}") for number, cost in enumerate(_costs(comparison)[:3], start=1)]


def _costs(comparison: Comparison) -> list[_Cost]:
    baseline = comparison.reference

    def time(key: str, what: str) -> _Cost:
        reference = baseline.speed[key].value

        def read(variant: VariantResult) -> Measure | None:
            measure = variant.speed.get(key)
            if measure is None or not measure.finite or measure.value <= 0:
                return None
            ratio = reference / measure.value
            spread = None if measure.spread is None else ratio * measure.spread / measure.value
            return Measure(value=ratio, spread=spread)

        return _Cost(f"{what} per token, × {baseline.name}", read)

    def plain(key: str) -> _Cost:
        measures = [variant.cost[key] for variant in comparison.variants if key in variant.cost]
        largest = max((measure.value for measure in measures if measure.finite), default=0.0)
        size, unit = words.scale(largest, baseline.cost[key].unit)

        def read(variant: VariantResult) -> Measure | None:
            measure = variant.cost.get(key)
            if measure is None or not measure.finite:
                return None
            return Measure(value=measure.value / size, spread=None if measure.spread is None else measure.spread / size)

        return _Cost(f"{words.label(key)}, {unit}" if unit else words.label(key), read)

    costs = []
    for key, what in (("train_tokens_per_second", "training time"), ("decode_tokens_per_second", "decoding time")):
        if key in baseline.speed and baseline.speed[key].finite and baseline.speed[key].value > 0:
            costs.append(time(key, what))
    costs[1:1] = [plain(key) for key in ("parameters", "state_bytes") if key in baseline.cost]
    costs += [plain(key) for key in ("peak_memory",) if key in baseline.cost]
    return [cost for cost in costs if len(_points(comparison, cost)) > 1]


@dataclass(frozen=True)
class _Point:
    variant: VariantResult
    across: Measure
    up: Measure


def _points(comparison: Comparison, cost: _Cost) -> list[_Point]:
    points = []
    for variant in comparison.variants:
        across = cost.read(variant)
        if across is not None and across.finite and measured(variant, comparison.headline):
            points.append(_Point(variant, across, variant.quality[comparison.headline]))
    return points


def far_floors(comparison: Comparison) -> list[VariantResult]:
    """The floors that lie so far below everything else that they would squeeze it: they stand below a break."""
    key = comparison.headline
    drawn = [variant for variant in comparison.variants if measured(variant, key)]
    lows, highs = [], []
    for variant in drawn:
        if not variant.floor or variant.name == comparison.baseline:
            measure = variant.quality[key]
            lows.append(measure.value - (measure.spread or 0) / 2)
            highs.append(measure.value + (measure.spread or 0) / 2)
    if len(lows) < 2:
        return []
    low, high = min(lows), max(highs)
    lower = comparison.reference.quality[key].better == "lower"
    return [
        variant
        for variant in drawn
        if variant.floor
        and variant.name != comparison.baseline
        and (variant.quality[key].value - high if lower else low - variant.quality[key].value) > 1.5 * (high - low)
    ]


_STRIP = 38.0


def _scatter(comparison: Comparison, cost: _Cost, name: str) -> str:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    points = _points(comparison, cost)
    key = comparison.headline
    lower = comparison.reference.quality[key].better == "lower"
    below = {variant.name for variant in far_floors(comparison)}
    far = [point for point in points if point.variant.name in below]
    near = [point for point in points if point.variant.name not in below]
    figure, axes = chart(400, 330, left=52, right=14, top=12, bottom=44 + (_STRIP + 8) * bool(far))
    _limits(axes, "x", [point.across for point in points])
    _limits(axes, "y", [point.up for point in near], ratio=4.0 if lower else math.inf)
    if lower:
        axes.invert_yaxis()
    axes.set_ylabel(f"{words.label(key)}   ({'axis upside down: ' if lower else ''}up is better)")
    obstacles = _baseline_cross(comparison, axes, near) + ([] if far else _floor_band(comparison, axes))
    _mark_points(comparison, axes, near, obstacles, lambda point: point.variant.name + _role(comparison, point.variant))
    foot = _floor_strip(comparison, axes, far) if far else axes
    foot.set_xlabel(f"{cost.title}   (← cheaper)")
    foot.xaxis.set_major_locator(MaxNLocator(5))
    foot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    described = f"{words.label(key)} against {cost.title}: " + "; ".join(
        f"{point.variant.name} {words.score(key, point.up.value)} at {point.across.value:.3g}" for point in points
    )
    return inline(figure, name, described)


def _role(comparison: Comparison, variant: VariantResult) -> str:
    return " (baseline)" if variant.name == comparison.baseline else " (floor)" if variant.floor else ""


def _mark_points(
    comparison: Comparison,
    axes: Axes,
    points: list[_Point],
    obstacles: list[Box],
    text: Callable[[_Point], str],
) -> None:
    """Draw the points with bars for their spreads, and write `text` of each beside it, clear of `obstacles`."""
    style = looks(comparison)
    labels = []
    for point in points:
        colour, spot = style[point.variant.name].light, (point.across.value, point.up.value)
        across, up = (spread / 2 if spread else None for spread in (point.across.spread, point.up.spread))
        axes.errorbar(*spot, xerr=across, yerr=up, fmt="none", ecolor=colour, elinewidth=1.4)
        axes.plot(*spot, style[point.variant.name].marker, color=colour, markersize=8, markeredgewidth=0, zorder=3)
        obstacles = [*obstacles, *_extent(axes, point.across, point.up)]
        labels.append(Label(spot, text(point), colour))
    place(axes, labels, obstacles)


def _baseline_cross(comparison: Comparison, axes: Axes, points: list[_Point]) -> list[Box]:
    """Dashed lines through the baseline, which part what is better from what is worse, and the boxes they cover."""
    window = axes.get_window_extent()
    boxes = []
    for point in points:
        if point.variant.name == comparison.baseline:
            axes.axhline(point.up.value, color=FAINT, linewidth=1, dashes=(4, 3), zorder=1)
            axes.axvline(point.across.value, color=FAINT, linewidth=1, dashes=(4, 3), zorder=1)
            x, y = pixels(axes, (point.across.value, point.up.value))
            boxes = [Box(window.x0, y - 0.25, window.x1, y + 0.25), Box(x - 0.25, window.y0, x + 0.25, window.y1)]
    return boxes


def _floor_strip(comparison: Comparison, axes: Axes, points: list[_Point]) -> Axes:
    """A strip under a break in the vertical axis, where floors far below stand with their score beside them."""
    figure, above, key = axes.get_figure(root=True), axes.get_position(), comparison.headline
    assert figure is not None
    height = figure.get_figheight() * 72
    strip = figure.add_axes((above.x0, 44 / height, above.width, _STRIP / height))
    dress(strip)
    strip.set_facecolor(FAINT)
    strip.patch.set(visible=True, alpha=0.28)
    strip.set(xlim=axes.get_xlim(), ylim=(0, 1))
    strip.set_yticks([0.5], ["floor" if len(points) == 1 else "floors"])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)
    for shift in (0.0, 4.0):
        axes.annotate(
            "", (-4, -5.5 - shift), (4, -2.5 - shift), xycoords=("axes points"), textcoords="axes points",
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
            annotation_clip=False,
        )  # fmt: skip
    row = [_Point(point.variant, point.across, Measure(value=0.5)) for point in points]
    _mark_points(
        comparison, strip, row, [],
        lambda point: f"{point.variant.name} {words.score(key, point.variant.quality[key].value)}",
    )  # fmt: skip
    return strip


def _limits(axes: Axes, side: str, measures: list[Measure], ratio: float = math.inf) -> None:
    """Room for all measures with their spreads; a logarithmic axis where they span more than `ratio`."""
    low = min(measure.value - (measure.spread or 0) / 2 for measure in measures)
    high = max(measure.value + (measure.spread or 0) / 2 for measure in measures)
    log = low > 0 and high / low > ratio
    if log:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        room = (high / low) ** 0.17
        low, high = low / room, high * room
    else:
        room = 0.17 * (high - low) or 0.05 * abs(high) or 1.0
        # A cost starts at nothing where nothing is near: a state of 0 bytes must not look like some.
        low, high = low - room if low != 0 or side == "y" else -0.06 * high, high + room
    (axes.set_xlim if side == "x" else axes.set_ylim)(low, high)


def _floor_band(comparison: Comparison, axes: Axes) -> list[Box]:
    """Shade all quality that the best floor reaches too; return the box of its caption, where no label may stand."""
    floor = best_floor(comparison)
    if floor is None:
        return []
    level = floor.quality[comparison.headline].value
    axes.axhspan(axes.get_ylim()[0], level, color=FAINT, alpha=0.28, linewidth=0, zorder=0)
    caption = axes.annotate(
        f"what the floor {floor.name} reaches", (1, 0), (-6, 5), xycoords="axes fraction",
        textcoords="offset points", ha="right", va="bottom", color=MUTED, fontsize=10,
    )  # fmt: skip
    return [box_of(caption)]


def _extent(axes: Axes, across: Measure, up: Measure) -> list[Box]:
    """The boxes that a point's marker and bars cover."""
    x, y = pixels(axes, (across.value, up.value))
    boxes = [Box(x - 6, y - 6, x + 6, y + 6)]
    for half, axis in (((across.spread or 0) / 2, 0), ((up.spread or 0) / 2, 1)):
        ends = [
            pixels(axes, (across.value + sign * half * (axis == 0), up.value + sign * half * (axis == 1)))
            for sign in (-1, 1)
        ]
        left, right = sorted(end[0] for end in ends)
        bottom, top = sorted(end[1] for end in ends)
        boxes.append(Box(left - 2, bottom - 2, right + 2, top + 2))
    return boxes


# Cost against length


@dataclass(frozen=True)
class LengthChart:
    """One measure against length, and from where on each variant is better than the baseline."""

    title: str
    svg: str
    crossovers: list[str]


def against_length(comparison: Compared) -> list[LengthChart]:
    """A chart for each measure that was taken at several lengths, on logarithmic axes.

    Empty where there is none. Values that are not above 0 have no place on such an axis and are left out.
    """
    charts = []
    for number, (measure, lengths) in enumerate(comparison.lengths().items(), start=1):
        if svg := _against_length(comparison, measure, lengths, f"length{number}"):
            charts.append(LengthChart(words.label(measure), svg, crossovers(comparison, measure)))
    return charts


def _against_length(comparison: Compared, measure: str, lengths: list[int], name: str) -> str | None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    style, lines, unit = looks(comparison), dict[str, list[tuple[int, float]]](), ""
    for variant in comparison.variants:
        for length in lengths:
            found = variant.measure(f"{measure}@{length}")
            if found is not None and found.finite and found.value > 0:
                lines.setdefault(variant.name, []).append((length, found.value))
                unit = found.unit
    if not lines:
        return None
    height = max(340, 56 + 1.35 * TEXT * len(lines))  # a name for each line at the right
    figure, axes = chart(600, height, left=64, right=14 + 7.4 * min(max(map(len, lines)), 40), top=12, bottom=44)
    axes.set(xscale="log", yscale="log", xlabel="length in tokens", ylabel=words.label(measure))
    for drawn, spots in lines.items():
        look, is_baseline = style[drawn], drawn == comparison.baseline
        dashes: Any = (5, 2) if look.colour == "floor" else (None, None)
        axes.plot(
            *zip(*spots, strict=True), marker=look.marker, color=look.light, dashes=dashes, markeredgewidth=0,
            linewidth=3.0 if is_baseline else 1.7, markersize=5 if is_baseline else 4, zorder=3 if is_baseline else 2,
        )  # fmt: skip
        since = crossover(comparison, comparison.variant(drawn), measure)
        if since is not None and since != lengths[0] and since in dict(spots):
            axes.plot(since, dict(spots)[since], "o", color=look.light, markersize=10, fillstyle="none", zorder=4)
    axes.xaxis.set_major_locator(FixedLocator(lengths, nbins=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    values = [value for spots in lines.values() for _, value in spots]
    if max(values) < 100 * min(values):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tick(value, unit)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # leaders to the names must not move them
    _label_ends(axes, [(drawn, *spots[-1]) for drawn, spots in lines.items()], style)
    longest = "; ".join(f"{drawn} {words.quantity(spots[-1][1], unit)}" for drawn, spots in lines.items())
    return inline(figure, name, f"{words.label(measure)} against length; at the longest: {longest}")


# Learning curves


Rows = Sequence[Mapping[str, Any]]


def curves(comparison: Comparison, metrics: Mapping[str, Sequence[Rows]]) -> list[str]:
    """Loss against tokens and against wall-clock time.

    Args:
        metrics: per variant name, per seed, the rows of `metrics.jsonl`. Variants without rows are left out.

    Lines are the mean validation loss over the seeds in a band from the least to the greatest, with the training loss
    of the first seed behind them in a lighter stroke. Empty where no run was evaluated twice.
    """
    drawn = {
        variant.name: seeds
        for variant in comparison.variants
        if (seeds := [rows for rows in metrics.get(variant.name, ()) if len(_series(rows, "tokens")[0]) > 1])
    }
    if not drawn:
        return []
    return [
        _curve(comparison, drawn, along, title, name)
        for along, title, name in (
            ("tokens", "tokens trained on", "curve-tokens"),
            ("seconds", "seconds of training", "curve-seconds"),
        )
        if all(len(_series(rows, along)[0]) > 1 for seeds in drawn.values() for rows in seeds)
    ]


def _series(rows: Rows, along: str, key: str = "validation_loss") -> tuple[NDArray[Any], NDArray[Any]]:
    pairs = [
        (float(row[along]), float(row[key]))
        for row in rows
        if row.get(along) is not None and row.get(key) is not None and math.isfinite(float(row[key]))
    ]
    return np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])


def _curve(comparison: Comparison, drawn: Mapping[str, list[Rows]], along: str, title: str, name: str) -> str:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    style = looks(comparison)
    floors = {variant.name for variant in comparison.variants if variant.floor}
    margin = 14 + max(len(variant) + 7 * (variant in floors) for variant in drawn) * 7.4
    figure, axes = chart(600, 360, left=48, right=margin, top=12, bottom=44)
    axes.set_xlabel(title)
    axes.set_ylabel("validation loss   (lower is better)")
    ends: list[tuple[str, float, float]] = []
    lowest, first = math.inf, list[float]()
    for variant, seeds in drawn.items():
        look = style[variant]
        series = [_series(rows, along) for rows in seeds]
        length = min(len(x) for x, _ in series)
        x = np.mean([x[:length] for x, _ in series], axis=0)
        losses = np.array([y[:length] for _, y in series])
        mean = losses.mean(axis=0)
        train = _thinned(*_series(seeds[0], along, "loss"))
        axes.plot(*train, color=look.light, linewidth=0.9, alpha=0.28, zorder=1)
        if len(series) > 1:
            axes.fill_between(x, losses.min(axis=0), losses.max(axis=0), color=look.light, alpha=0.16, linewidth=0)
        dashes: Any = (5, 2) if look.colour == "floor" else (None, None)
        axes.plot(x, mean, color=look.light, linewidth=1.9, dashes=dashes, zorder=3)
        ends.append((variant, float(x[-1]), float(mean[-1])))
        lowest = min(lowest, float(losses.min()))
        first.append(float(mean[0]))
    # Losses start far above everything worth seeing, and there a floor may stay.
    start = float(np.median(first))
    worst = max((end for variant, _, end in ends if variant not in floors), default=max(end for *_, end in ends))
    highest = max(worst, min(start, worst + max(0.5 * (worst - lowest), 0.15 * (start - lowest))))
    room = 0.06 * (highest - lowest) or 0.1
    axes.set_ylim(lowest - room, highest + room)
    axes.set_xlim(0, max(x for _, x, _ in ends) * 1.005)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.quantity(value) if value else "0"))
    _label_ends(axes, ends, style)
    described = f"validation loss against {title}; at the end: " + "; ".join(
        f"{variant} {loss:.3f}" for variant, _, loss in ends
    )
    return inline(figure, name, described)


def _thinned(x: NDArray[Any], y: NDArray[Any], points: int = 24) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of consecutive values, at most `points` of them: a noisy curve that stays small in the file."""
    if len(x) <= points:
        return x, y
    return tuple(np.array([part.mean() for part in np.array_split(values, points)]) for values in (x, y))  # type: ignore[return-value]


def _label_ends(axes: Axes, ends: list[tuple[str, float, float]], style: Mapping[str, Look]) -> None:
    """Names at the right edge, in the order of the lines' ends and far enough apart to read."""
    window = axes.get_window_extent()
    line = TEXT * 1.3
    ends = sorted(ends, key=lambda end: end[2])
    heights = [pixels(axes, (x, y))[1] for _, x, y in ends]
    spots = spread_out(heights, line, window.y0 + line / 2, window.y1 - line / 2)
    top = axes.get_ylim()[1]
    for (variant, x, y), spot in zip(ends, spots, strict=True):
        colour = style[variant].light
        if y <= top:
            line_to_name = [pixels(axes, (x, y)), (window.x1 + 8, spot)]
            leader = axes.transData.inverted().transform(line_to_name)
            axes.plot(*leader.T, color=colour, linewidth=0.8, alpha=0.6, dashes=(1, 2), clip_on=False, zorder=2)
            axes.plot(x, y, "o", color=colour, markersize=4.5, markeredgewidth=0, clip_on=False, zorder=4)
        axes.annotate(
            variant if y <= top else f"{variant} {y:.2f} ↑", (window.x1 + 11, spot - 0.36 * TEXT),
            xycoords="figure pixels", color=colour, fontsize=TEXT, va="baseline", annotation_clip=False,
        )  # fmt: skip
