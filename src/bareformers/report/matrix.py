"""Mixers x tasks: how far each mixer comes on the way from the best floor to attention.

Of a task, 0 % is the floor that does best, and 100 % the mixer that is held to be whole. Where the floor does as well,
there is no way to go, and no share stands: whatever is said of attention there, this task does not show it.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bareformers.errors import InputError
from bareformers.report import palette, words
from bareformers.report.html import as_yaml, day, template
from bareformers.report.result import Better, Comparison, Document, Measure, Schema, write_whole
from bareformers.report.svg import TEXT, chart, inline
from bareformers.report.verdict import best_floor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HUE = "v1"
CELL, HEAD = (78, 46), (190, 64)  # CSS pixels across and down: of a cell, and of what stands left of and above all


class Cell(Schema):
    """What one mixer does in one task.

    Attributes:
        variant: what it is called in its comparison.
        measure: the quality, with the spread over the seeds.
        share: of the way from the floor to the whole; None where there is no way.
        spread: of the share over the seeds; None with one seed.
        floor: whether it mixes nothing or averages everything.
    """

    variant: str
    measure: Measure
    floor: bool = False
    share: float | None = None
    spread: float | None = None


class TaskRow(Schema):
    """One task.

    Attributes:
        task: what it is called.
        source: the folder of the comparison.
        created: when that was carried out, in ISO 8601.
        metric, unit, better: what is measured in it.
        floor: the floor that does best, by the name of its variant.
        floor_measure: what it reaches.
        whole_measure: what the mixer reaches at which the way ends.
        cells: by mixer; those that were not measured are not among them.
        diverged: mixers of which a run diverged.
    """

    task: str
    source: str
    created: str
    metric: str
    unit: str
    better: Better
    floor: str
    floor_measure: Measure
    whole_measure: Measure
    cells: dict[str, Cell]
    diverged: list[str] = []

    @property
    def distance(self) -> float:
        """From the floor to the whole, positive where the whole is better."""
        return (self.whole_measure.value - self.floor_measure.value) * (1 if self.better == "higher" else -1)

    @property
    def tested(self) -> bool:
        """Whether both ends have several seeds, so that their distance can be held against chance."""
        return self.floor_measure.spread is not None and self.whole_measure.spread is not None

    @property
    def open(self) -> bool:
        """Whether the whole is better than the floor, by more than the seeds of either differ among themselves."""
        spreads = [each.spread for each in (self.floor_measure, self.whole_measure) if each.spread is not None]
        return self.distance > max(spreads, default=0.0)

    def comes_as_far(self, mixer: str) -> bool:
        """Whether a mixer has the whole within the spread of its own or of the whole's seeds, or is better.

        Where seeds differ that much, it must also have left the floor behind by more than its own differ.
        """
        measure = self.cells[mixer].measure
        sign = 1 if self.better == "higher" else -1
        short = (self.whole_measure.value - measure.value) * sign
        above = (measure.value - self.floor_measure.value) * sign
        spreads = [each.spread for each in (measure, self.whole_measure) if each.spread is not None]
        return short <= max(spreads, default=0.0) and above > (measure.spread or 0.0)


class Matrix(Document):
    """Mixers x tasks. Saved as `result.json`.

    Attributes:
        whole: the mixer at which the way ends.
        mixers: the columns.
        recipe: the resolved recipe.
    """

    kind: Literal["matrix"] = "matrix"
    name: str
    description: str = ""
    created: str
    command: str
    whole: str
    mixers: list[str]
    rows: list[TaskRow]
    recipe: dict[str, Any] = {}
    schema_version: Literal[1] = 1

    def reached(self) -> dict[str, tuple[int, int]]:
        """Of each mixer but the whole and the floors: in how many tasks it comes as far, and in how many it was tried.

        Only tasks count where there is a way, and where that is held against chance.
        """
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            for mixer, cell in row.cells.items():
                if row.open and row.tested and mixer != self.whole and not cell.floor:
                    count, tried = found.get(mixer, (0, 0))
                    found[mixer] = (count + row.comes_as_far(mixer), tried + 1)
        return found


def row_of(task: str, source: str, comparison: Comparison, metric: str, whole: str, names: dict[str, str]) -> TaskRow:
    """A row from a comparison.

    Args:
        source: where the comparison is.
        metric: a key of the quality of its variants.
        whole: the mixer at which the way ends.
        names: mixer -> variant; those that the comparison does not have are left out.
    """
    variants = {variant.name: variant for variant in comparison.variants}
    measured = {
        mixer: (name, variants[name].quality[metric])
        for mixer, name in names.items()
        if name in variants
        and variants[name].status == "finished"
        and metric in variants[name].quality
        and variants[name].quality[metric].finite
    }
    if whole not in measured:
        there = ", ".join(comparison.keys("quality"))
        raise InputError(
            f"tasks.{task}: {source} has no {metric} of a variant {names[whole]!r}, and without {whole} no share can "
            f"be taken; its variants are {', '.join(variants)} (write variants: "
            f"{{{whole}: <one of them>}}), its metrics {there}"
        )
    end = measured[whole][1]
    if end.better is None:
        raise InputError(f"tasks.{task}: of {metric} neither direction is better; write another metric")
    floor = best_floor(comparison, metric)
    if floor is None:
        raise InputError(f"tasks.{task}: {source} has no floor, so that there is no way to take shares of; add one")
    row = TaskRow(
        task=task,
        source=source,
        created=comparison.created,
        metric=metric,
        unit=end.unit,
        better=end.better,
        floor=floor.name,
        floor_measure=floor.quality[metric],
        whole_measure=end,
        cells={
            mixer: Cell(variant=name, measure=measure, floor=variants[name].floor)
            for mixer, (name, measure) in measured.items()
        },
        diverged=[mixer for mixer, name in names.items() if name in variants and variants[name].status == "diverged"],
    )
    if row.open:
        for cell in row.cells.values():
            sign = 1 if row.better == "higher" else -1
            cell.share = (cell.measure.value - row.floor_measure.value) * sign / row.distance
            cell.spread = None if cell.measure.spread is None else cell.measure.spread / row.distance
    return row


def build(folder: Path) -> Path:
    """Write `<folder>/report.html` from `<folder>/result.json`; return its path."""
    return write_whole(folder / "report.html", page(Matrix.load(folder / "result.json")))


def verdict(matrix: Matrix) -> str:
    """In how many tasks attention is better than the floor by more than chance, and what comes as far there."""
    tested = [row for row in matrix.rows if row.tested]
    rows = [row for row in tested if row.open]
    tasks = f"{len(tested)} {'task' if len(tested) == 1 else 'tasks'} with several seeds"
    if not tested:
        return "One seed of every task: nothing here is held against chance."
    if not rows:
        return f"In none of the {tasks} is {matrix.whole} better than the best floor by more than chance."
    said = f"{matrix.whole} is better than the best floor by more than chance in {len(rows)} of {tasks}"
    tried = [row for row in rows if any(not cell.floor for mixer, cell in row.cells.items() if mixer != matrix.whole)]
    alone = [
        row.task for row in tried if not any(row.comes_as_far(mixer) for mixer in row.cells if mixer != matrix.whole)
    ]
    if tried and not alone:
        said += "; in each of them another mixer comes as far" if len(rows) > 1 else "; another mixer comes as far"
    elif alone:
        said += f"; nothing else that was tried comes as far in {words.listed(alone)}"
    reached = matrix.reached()
    if counts := [f"{mixer} in {count} of {asked}" for mixer, (count, asked) in reached.items() if count]:
        said += f". As far come {words.listed(counts)}"
    return said + "."


def caveats(matrix: Matrix) -> list[str]:
    """What a reader must know before believing a cell."""
    found = []
    if single := [row.task for row in matrix.rows if not row.tested]:
        found.append(f"One seed of {words.listed(single)}: shares there are not held against chance.")
    if closed := [row.task for row in matrix.rows if not row.open]:
        found.append(
            f"In {words.listed(closed)} {matrix.whole} does no better than the best floor, so there is no way to take "
            f"shares of."
        )
    if lost := [f"{mixer} in {row.task}" for row in matrix.rows for mixer in row.diverged]:
        found.append(f"Diverged, and so left out: {words.listed(lost)}.")
    return found


# The terminal


def table(matrix: Matrix) -> Table:
    """A row for each task, a column for each mixer."""
    found = Table(
        title=f"{matrix.name}: share of the way from the best floor to {matrix.whole}",
        caption="± half of the spread over the seeds; dim where the floor is as good.",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    found.add_column("task", min_width=14)
    for mixer in matrix.mixers:
        found.add_column(mixer, justify="right", overflow="fold")
    for row in matrix.rows:
        cells = [Text(written(row, mixer), style="" if row.open else "dim") for mixer in matrix.mixers]
        found.add_row(row.task, *cells)
    return found


def parts(row: TaskRow, mixer: str) -> tuple[str, str]:
    """A cell's share with half of its spread, or the plain number alone where there is no way."""
    cell = row.cells.get(mixer)
    if cell is None:
        return words.NOT_MEASURED, ""
    if cell.share is None:
        return words.score(row.metric, cell.measure.value, row.whole_measure.value), ""
    return percent(cell.share), "" if cell.spread is None else f"±{words.NBSP}{50 * cell.spread:.0f}"


def percent(share: float) -> str:
    """A share in whole percent, for spreads are wider than their tenths."""
    return f"{round(100 * share)}{words.NBSP}%".replace("-", "\N{MINUS SIGN}")


def written(row: TaskRow, mixer: str) -> str:
    """A cell in one piece."""
    return words.NBSP.join(filter(None, parts(row, mixer)))


def write_csv(matrix: Matrix, path: Path) -> Path:
    """Write one row for each task and mixer that was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["task", "mixer", "share", "share_spread", "metric", "value", "spread", "seeds", "floor", "results"]
    )
    for row in matrix.rows:
        for mixer, cell in row.cells.items():
            measure = cell.measure
            numbers = ["" if each is None else each for each in (cell.share, cell.spread)]
            spread = "" if measure.spread is None else measure.spread
            writer.writerow(
                [row.task, mixer, *numbers, row.metric, measure.value, spread, measure.seeds, row.floor, row.source]
            )
    return write_whole(path, text.getvalue())


# The page


def draw(matrix: Matrix) -> Figure:
    """The matrix: the deeper the colour, the farther a mixer comes."""
    from matplotlib.patches import Rectangle

    across, down = len(matrix.mixers), len(matrix.rows)
    width, height = HEAD[0] + CELL[0] * across + 4, HEAD[1] + CELL[1] * down + 4
    figure, axes = chart(width, height, left=HEAD[0], right=4, top=HEAD[1], bottom=4)
    axes.set_axis_off()
    axes.set_xlim(0, across)
    axes.set_ylim(down, 0)
    ink, muted, hue, faint = (palette.THEMES[name][0] for name in ("ink", "muted", HUE, "faint"))
    for column, mixer in enumerate(matrix.mixers):
        axes.text(column + 0.5, -0.16, mixer.replace("_", "_\n", 1), ha="center", va="bottom", color=ink, fontsize=TEXT)
    for line, row in enumerate(matrix.rows):
        axes.text(-0.12, line + 0.4, row.task, ha="right", va="center", color=ink, fontsize=TEXT)
        axes.text(-0.12, line + 0.74, way(row), ha="right", va="center", color=muted, fontsize=9)
        for column, mixer in enumerate(matrix.mixers):
            share = row.cells[mixer].share if mixer in row.cells else None
            shade = 0.0 if share is None else 0.62 * min(max(share, 0.0), 1.0)
            box = Rectangle((column + 0.02, line + 0.04), 0.96, 0.92, edgecolor=faint, linewidth=0.6, facecolor="none")
            axes.add_patch(box)
            if shade:
                filled = Rectangle((column + 0.02, line + 0.04), 0.96, 0.92, facecolor=hue, alpha=shade, linewidth=0)
                axes.add_patch(filled)
            number, spread = parts(row, mixer)
            middle, colour = column + 0.5, ink if row.open else muted
            axes.text(
                middle, line + (0.4 if spread else 0.5), number, ha="center", va="center", color=colour, fontsize=TEXT
            )
            axes.text(middle, line + 0.74, spread, ha="center", va="center", color=muted, fontsize=9)
    return figure


def way(row: TaskRow) -> str:
    """Where the way of a task begins and ends."""
    like = row.whole_measure.value
    ends = (words.score(row.metric, each.value, like) for each in (row.floor_measure, row.whole_measure))
    return f"{words.label(row.metric)} {' → '.join(ends)}"


@dataclass(frozen=True)
class Line:
    """A task in the table of the page."""

    row: TaskRow
    metric: str
    numbers: list[str]


def page(matrix: Matrix) -> str:
    """The report as one HTML document that names no other file or address."""
    shares = "; ".join(
        f"{row.task}: {', '.join(f'{mixer} {written(row, mixer)}' for mixer in row.cells)}" for row in matrix.rows
    )
    return template("matrix.html.j2").render(
        matrix=matrix,
        theme=palette.stylesheet(),
        created=day(matrix.created),
        verdict=verdict(matrix),
        caveats=caveats(matrix),
        figure=inline(draw(matrix), "matrix", f"share of the way from the best floor to {matrix.whole}; {shares}"),
        lines=[
            Line(
                row,
                f"{words.label(row.metric)}, {row.better} is better",
                [_number(row, mixer) for mixer in matrix.mixers],
            )
            for row in matrix.rows
        ],
        reached=matrix.reached(),
        recipe=as_yaml(matrix.recipe),
        sources=[(row.task, row.source, day(row.created)) for row in matrix.rows],
    )


def _number(row: TaskRow, mixer: str) -> str:
    """The plain number of a cell."""
    if mixer not in row.cells:
        return words.NOT_MEASURED
    measure = row.cells[mixer].measure
    return words.with_spread(row.metric, measure.value, measure.spread, row.whole_measure.value)
