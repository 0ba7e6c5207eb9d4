"""Which layers can go: what quality is left when students take the place of the teacher's mixers, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import model_validator

from bareformers.report import words
from bareformers.report.palette import Look
from bareformers.report.result import Difference, Document, Measure, Schema, between
from bareformers.report.svg import FAINT, MUTED, Panel, chart, inline

Role = Literal["encoder", "decoder", "cross", "all"]
Order = Literal["alone", "bottom", "top", "all"]

NEAR = 0.01  # the share of the teacher's quality that a layer that can go may cost
FAR = 0.1  # and from which on the table is shaded no darker


class Replaced(Schema):
    """The teacher with some of its layers replaced by those of a student.

    Attributes:
        student: its name in the recipe.
        role: `encoder`, `decoder` or `cross`; `all` where those of every role of the student were replaced at once.
        order: which layers: one `alone`, those from the `bottom` up to one, those from one up to the `top`, or `all`.
        layers: the layers replaced, counted from 0, in order.
        quality: what the model can do then.
    """

    student: str
    role: Role
    order: Order
    layers: list[int]
    quality: dict[str, Measure]


class LayerStudy(Document):
    """What is left of a teacher with some layers replaced. Saved as `<comparison>/layers.json`.

    Attributes:
        headline: the quality that is drawn, a key of every `quality`.
        settings: a sentence: what was scored, and how.
        teacher: what it can do whole, measured in the same way.
        depth: its number of layers, by role.
        rows: one for each set of layers.
    """

    headline: str
    settings: str
    teacher: dict[str, Measure]
    depth: dict[str, int]
    rows: list[Replaced]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.headline not in self.teacher:
            raise ValueError(f"the headline {self.headline!r} was not measured of the teacher")
        for row in self.rows:
            if row.role != "all" and row.role not in self.depth:
                raise ValueError(f"{row.student} replaces layers of the role {row.role!r}, whose depth is not given")
            beyond = [layer for layer in row.layers if not 0 <= layer < self.layers_of(row.role)]
            if beyond or not row.layers:
                layers = self.layers_of(row.role)
                raise ValueError(f"{row.student} replaces layers {row.layers} of {layers} in the role {row.role!r}")
        return self

    def layers_of(self, role: str) -> int:
        """The number of layers of a role; of `all` the most that one has."""
        return max(self.depth.values(), default=0) if role == "all" else self.depth[role]

    def measured(self, student: str, role: str, order: Order) -> dict[int, Measure]:
        """The headline by layer for `alone`, else by the number of layers replaced, from the lowest."""
        found = {
            row.layers[0] if order == "alone" else len(row.layers): row.quality[self.headline]
            for row in self.rows
            if (row.student, row.role, row.order) == (student, role, order) and self.headline in row.quality
        }
        return {number: found[number] for number in sorted(found) if found[number].finite}

    def whole(self, student: str, role: str) -> Measure | None:
        """The headline with all layers of the role replaced."""
        return next(iter(self.measured(student, role, "all").values()), None)


# The figure


@dataclass(frozen=True)
class Cell:
    """The headline with a layer replaced, and its difference to the teacher's.

    Attributes:
        kind: `better`, `worse`, `level` (within the spread of the seeds), `untested` (one seed) or `neither`.
        shade: how much of the teacher's quality is lost, of the most that is told apart, in percent; None where at
            most a hundredth is: the layer can go.
    """

    number: str
    difference: str = ""
    kind: str = "neither"
    shade: int | None = 0


@dataclass(frozen=True)
class RoleFigure:
    """One role: what can go, in a sentence; panels; and a table of students by layers alone and all.

    Attributes:
        tested: whether there are several seeds that say so.
    """

    title: str
    sentence: str
    tested: bool
    panels: list[Panel]
    layers: list[int]
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class LayerFigure:
    """The whole section: `students` are those drawn, `teacher` is its headline."""

    headline: str
    settings: str
    teacher: str
    students: list[str]
    roles: list[RoleFigure]


_TITLES = {
    "encoder": "Encoder",
    "decoder": "Decoder",
    "cross": "Cross",
    "all": "All roles of a student at once",
}
_PANELS: dict[Order, tuple[str, str]] = {
    "alone": ("alone", "each layer by itself, all others the teacher's"),
    "bottom": ("from the bottom", "the lowest layers, up to all"),
    "top": ("from the top", "the highest layers, up to all"),
}


def draw(study: LayerStudy | None, looks: Mapping[str, Look]) -> LayerFigure | None:
    """The section of the report, None where there is nothing to show; `looks` are those of the comparison."""
    if study is None or not study.teacher[study.headline].finite:
        return None
    students = [student for student in dict.fromkeys(row.student for row in study.rows) if student in looks]
    roles = [found for role in _TITLES if (found := _role(study, role, students, looks))]
    if not roles:
        return None
    teacher = words.score(study.headline, study.teacher[study.headline].value)
    return LayerFigure(words.label(study.headline), study.settings, teacher, students, roles)


def _role(study: LayerStudy, role: str, students: list[str], looks: Mapping[str, Look]) -> RoleFigure | None:
    own = [row for row in study.rows if row.role == role and row.student in students]
    students = [student for student in students if student in {row.student for row in own}]
    if not students:
        return None
    tested = all(measure.seeds > 1 for row in own for measure in row.quality.values())
    alone = sorted({layer for student in students for layer in study.measured(student, role, "alone")})
    rows = [
        (
            student,
            [
                _cell(study, measure)
                for measure in (
                    *map(study.measured(student, role, "alone").get, alone),
                    study.whole(student, role),
                )
            ],
        )
        for student in students
    ]
    panels = [panel for order in _PANELS if (panel := _panel(study, role, order, students, looks))]
    return RoleFigure(_TITLES[role], _sentence(study, role, students), tested, panels, alone, rows)


def _loss(study: LayerStudy, measure: Measure) -> float | None:
    """What is lost of the teacher's quality, as a share of it; below 0 where something is gained."""
    found = between(measure, study.teacher[study.headline])
    if found is None or found.relative is None:
        return None
    return found.relative if measure.better == "lower" else -found.relative


def _can_go(study: LayerStudy, measure: Measure | None) -> bool:
    loss = None if measure is None else _loss(study, measure)
    return loss is not None and loss <= NEAR


def _cell(study: LayerStudy, measure: Measure | None) -> Cell:
    found = None if measure is None else between(measure, study.teacher[study.headline])
    if measure is None or found is None:
        return Cell(words.NOT_MEASURED)
    like = study.teacher[study.headline].value
    loss = _loss(study, measure)
    shade = 0 if loss is None else None if loss <= NEAR else round(100 * min(loss / FAR, 1.0))
    number = words.score(study.headline, measure.value, like)
    text = words.score(study.headline, found.value, like, sign=True)
    return Cell(number, f"≈ {text}" if found.within_spread and found.value else text, _kind(found), shade)


def _kind(found: Difference) -> str:
    if found.within_spread:
        return "level"
    if found.better is None:
        return "neither"
    return "untested" if not found.tested else "better" if found.better else "worse"


def _sentence(study: LayerStudy, role: str, students: list[str]) -> str:
    """What can be replaced for at most a hundredth of the teacher's quality, by the student that replaces most."""
    depth, parts = study.layers_of(role), []
    alone = {student: study.measured(student, role, "alone") for student in students}
    if any(alone.values()):
        loose = {
            student: [layer for layer, measure in points.items() if _can_go(study, measure)]
            for student, points in alone.items()
        }
        best = max(loose, key=lambda student: len(loose[student]))
        numbers = words.listed([str(layer) for layer in loose[best]])
        which = "any layer" if len(loose[best]) == depth else f"layer{'s' * (len(loose[best]) > 1)} {numbers}"
        parts.append(f"alone {which} ({best})" if loose[best] else "alone none")
    ends: dict[Order, str] = {"bottom": "lowest", "top": "highest"}
    for order, end in ends.items():
        runs = {student: _run(study, student, role, order) for student in students}
        if any(study.measured(student, role, order) for student in students):
            best = max(runs, key=lambda student: runs[student])  # the first of those that reach as far
            count = runs[best]
            size = "all" if count == depth else f"the {end} {count}"
            parts.append(f"from the {order} {size} ({best})" if count else f"from the {order} none")
    if not parts:
        whole = {student: measure for student in students if (measure := study.whole(student, role))}
        done = [student for student, measure in whole.items() if _can_go(study, measure)]
        said = f"all layers at once ({words.listed(done)})" if done else "not all layers at once"
        parts.append(said if whole else "not measured")
    return "; ".join(parts)


def _run(study: LayerStudy, student: str, role: str, order: Order) -> int:
    """How many layers can go one after the other before quality falls for the first time."""
    measured, count = study.measured(student, role, order), 0
    while _can_go(study, measured.get(count + 1)):
        count += 1
    return count


def _panel(study: LayerStudy, role: str, order: Order, students: list[str], looks: Mapping[str, Look]) -> Panel | None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    lines = {student: study.measured(student, role, order) for student in students}
    if not any(lines.values()):
        return None
    key, teacher, depth = study.headline, study.teacher[study.headline].value, study.layers_of(role)
    figure, axes = chart(340, 260, left=52, right=14, top=14, bottom=40)
    axes.axhline(teacher, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
    for student, points in lines.items():
        look, numbers = looks[student], list(points)
        values = [measure.value for measure in points.values()]
        halves = [(measure.spread or 0) / 2 for measure in points.values()]
        axes.errorbar(numbers, values, yerr=halves, fmt="none", ecolor=look.light, elinewidth=1.1, alpha=0.6, zorder=2)
        if order != "alone":
            numbers, values = [0, *numbers], [teacher, *values]
        dashes: tuple[float, float] | tuple[None, None] = (5, 2) if look.colour == "floor" else (None, None)
        axes.plot(
            numbers, values, color=look.light, linewidth=0.8 if order == "alone" else 1.8, dashes=dashes,
            marker=look.marker, markersize=6 if order == "alone" else 4, markeredgewidth=0, zorder=3,
        )  # fmt: skip
    # Both cumulative panels have the same scale.
    both: tuple[Order, ...] = () if order == "alone" else ("bottom", "top")
    beside = [study.measured(student, role, other).values() for student in students for other in both]
    values = [measure.value for measures in beside for measure in measures]
    if values:
        room = 0.05 * (max(*values, teacher) - min(*values, teacher)) or 1.0
        axes.set_ylim(min(*values, teacher) - room, max(*values, teacher) + room)
    low, high = axes.get_ylim()
    if high - low < 2 * NEAR * abs(teacher):  # differences too small to matter should not fill the panel
        axes.set_ylim(teacher - 1.5 * NEAR * abs(teacher), teacher + 1.5 * NEAR * abs(teacher))
    lower = study.teacher[key].better == "lower"
    if lower:
        axes.invert_yaxis()
    axes.set_xlim(-0.3 if order == "alone" else 0, depth - 0.7 if order == "alone" else depth + 0.15)
    axes.set_xlabel("layer" if order == "alone" else f"layers replaced, from the {order}")
    axes.set_ylabel(f"{words.label(key)}   ({'axis upside down: ' if lower else ''}up is better)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", color=FAINT, linewidth=0.6, alpha=0.5)
    title, hint = _PANELS[order]
    ends = "; ".join(
        f"{student} {words.score(key, points[max(points)].value)}" for student, points in lines.items() if points
    )
    described = f"{words.label(key)} with layers of the {role} replaced {title}; the teacher has "
    described += f"{words.score(key, teacher)}; at the last: {ends}"
    return Panel(title, hint, inline(figure, f"layers-{role}-{order}", described))
