"""Where to write names in a chart, so that each stands by its mark and none covers another."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bareformers.report.svg import TEXT

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Box:
    """A rectangle in points from the lower left corner of the figure."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.top - self.bottom)


@dataclass(frozen=True)
class Label:
    """A name, the point in data coordinates that it belongs to, and its colour."""

    point: tuple[float, float]
    text: str
    colour: str


def place(axes: Axes, labels: Sequence[Label], obstacles: Sequence[Box]) -> None:
    """Write each label near its point where it covers neither marks nor other labels.

    Labels are set one after the other, each at its cheapest place; of several orders (drawn with a fixed seed) the one
    with the least overlap wins.
    """
    window = axes.get_window_extent()
    frame = Box(window.x0 + 2, window.y0 + 2, window.x1 - 2, window.y1 - 2)
    sizes = [_size_of(axes, label.text) for label in labels]
    points = [pixels(axes, label.point) for label in labels]
    shuffle = random.Random(0).shuffle
    best: tuple[float, dict[int, Box]] = (math.inf, {})
    order = list(range(len(labels)))
    for _ in range(40):
        placed: dict[int, Box] = {}
        covered = total = 0.0
        for index in order:
            taken = [*obstacles, *placed.values()]
            choices = ((_covered(box, frame, taken), far, box) for far, box in _places(points[index], sizes[index]))
            under, far, placed[index] = min(choices, key=lambda choice: choice[0] + choice[1])
            covered, total = covered + under, total + under + far
        if total < best[0]:
            best = (total, placed)
        if not covered:
            break
        shuffle(order)
    for index, box in best[1].items():
        x, y = points[index]
        nearest = (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top))
        if math.dist(nearest, (x, y)) > 16:
            start, end = (axes.transData.inverted().transform(spot) for spot in ((x, y), nearest))
            axes.plot(*zip(start, end, strict=True), color=labels[index].colour, linewidth=0.7, alpha=0.7, zorder=2)
        axes.annotate(
            labels[index].text, (box.left, box.bottom + 0.24 * (box.top - box.bottom)), xycoords="figure pixels",
            color=labels[index].colour, fontsize=TEXT, va="baseline", annotation_clip=False,
        )  # fmt: skip


def _places(point: tuple[float, float], size: tuple[float, float]) -> list[tuple[float, Box]]:
    """Boxes of `size` around `point`, each with the price of its distance and direction."""
    (x, y), (width, height) = point, size
    found = []
    angles = enumerate((0, 180, 90, 270, 40, 140, 220, 320))
    for distance, (turn, angle) in itertools.product((9, 15, 24, 36, 50, 70), angles):
        across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        middle = (x + across * (distance + width / 2), y + up * (distance + height / 2))
        box = Box(middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)
        found.append((2.0 * distance + turn, box))
    return found


def _covered(box: Box, frame: Box, taken: Sequence[Box]) -> float:
    """The price of all that `box` covers, and of what of it lies outside `frame`."""
    outside = box.area - box.overlap(frame)
    return 20 * outside + 10 * sum(box.overlap(other) for other in taken)


def pixels(axes: Axes, point: tuple[float, float]) -> tuple[float, float]:
    """A point in data coordinates as points from the lower left corner of the figure."""
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _size_of(axes: Axes, text: str) -> tuple[float, float]:
    artist = axes.text(0, 0, text, fontsize=TEXT, parse_math=False)
    box = box_of(artist)
    artist.remove()
    return box.right - box.left + 2, TEXT * 1.3


def box_of(artist: Artist) -> Box:
    """The box that an artist covers."""
    extent = artist.get_window_extent()
    return Box(extent.x0, extent.y0, extent.x1, extent.y1)


def spread_out(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending `heights` as little as possible so that neighbours keep `gap`, within `low` and `high`.

    Where they cannot all fit, they keep the gap and reach beyond `high`.
    """
    groups: list[list[float]] = []  # the heights wanted by neighbours that touch each other
    starts: list[float] = []

    def start(group: list[float]) -> float:
        wanted = sum(height - index * gap for index, height in enumerate(group)) / len(group)
        return max(low, min(wanted, high - (len(group) - 1) * gap))

    for height in heights:
        groups.append([height])
        starts.append(start([height]))
        while len(groups) > 1 and starts[-2] + len(groups[-2]) * gap > starts[-1]:
            last = groups.pop()
            starts.pop()
            groups[-1] += last
            starts[-1] = start(groups[-1])
    return [begin + index * gap for begin, group in zip(starts, groups, strict=True) for index in range(len(group))]
