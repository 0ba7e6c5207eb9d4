"""The report: one HTML file that opens anywhere, offline, from what a comparison left in its folder."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bareformers.errors import InputError
from bareformers.report import figures, layers, maps, palette, paring, signal, words
from bareformers.report.layers import LayerStudy
from bareformers.report.paring import ParingStudy
from bareformers.report.result import Comparison, Measure, VariantResult, difference, write_whole
from bareformers.report.verdict import best_floor, caveats, kept, kept_means, predicate, verdict

if TYPE_CHECKING:
    import jinja2
    from numpy.typing import NDArray

SAMPLES = 8
SHOWN_START, SHOWN_END = 500, 200  # letters of a long prompt
Study = TypeVar("Study", LayerStudy, ParingStudy)


def build(folder: Path | str) -> Path:
    """Write `<folder>/report.html` from `<folder>/result.json` and what the runs left beside it; return its path.

    Reads `layers.json` of a distillation, `trace.json` of a paring, and per run `metrics.jsonl`, `signal.jsonl`,
    `samples.json` and `maps.npz`. Where one is missing the report says so in its place, or leaves the section out; a
    missing or damaged `result.json` is an `InputError`.
    """
    folder = Path(folder)
    comparison = Comparison.load(folder / "result.json")
    return write_whole(folder / "report.html", page(comparison, Runs.read(folder, comparison)))


@dataclass
class Runs:
    """What the runs of a comparison left behind, by variant name.

    Attributes:
        metrics: per seed the rows of `metrics.jsonl`.
        signal: the rows of `signal.jsonl` of the first seed.
        samples: `samples.json` of the first seed that has one.
        maps: the arrays of `maps.npz` of the first seed that has one.
        layers: which layers of a teacher can go; None where there was none.
        paring: what was tried to pare a model down; None where there was none.
        problems: a sentence for each file that is there but cannot be read.
    """

    metrics: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    signal: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    maps: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    layers: LayerStudy | None = None
    paring: ParingStudy | None = None
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, comparison: Comparison) -> Runs:
        """Read what is there; nothing here is needed for a report."""
        runs = cls()
        runs.layers = runs._study(LayerStudy, folder / "layers.json")
        runs.paring = runs._study(ParingStudy, folder / "trace.json")
        for variant in comparison.variants:
            if variant.runs and (rows := runs._signal(folder / variant.runs[0] / "signal.jsonl")):
                runs.signal[variant.name] = rows
            for name in variant.runs:
                run = folder / name
                if rows := runs._rows(run / "metrics.jsonl"):
                    runs.metrics.setdefault(variant.name, []).append(rows)
                if variant.name not in runs.samples and (samples := runs._samples(run / "samples.json")):
                    runs.samples[variant.name] = samples
                if variant.name not in runs.maps and (arrays := runs._maps(run / "maps.npz")):
                    runs.maps[variant.name] = arrays
        return runs

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        rows = []
        for number, line in enumerate(self._text(path).splitlines(), start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                self._problem(path, f"line {number} is not JSON")
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def _signal(self, path: Path) -> list[dict[str, Any]]:
        rows = self._rows(path)
        try:
            whole = all({"stack", "layer"} <= set(layer) for row in rows for layer in row["layers"])
        except (TypeError, KeyError):
            whole = False
        if not whole:
            self._problem(path, "each row needs layers with their stack and number")
        return rows if whole else []

    def _samples(self, path: Path) -> dict[str, Any] | None:
        text = self._text(path)
        if not text:
            return None
        try:
            found = json.loads(text)
            complete = all({"source", "reference", "output"} <= set(sample) for sample in found["samples"])
        except (json.JSONDecodeError, TypeError, KeyError):
            complete = False
        if not complete:
            self._problem(path, "it needs a kind and samples with source, reference and output")
            return None
        return dict(found)

    def _study(self, kind: type[Study], path: Path) -> Study | None:
        try:
            return kind.load(path) if path.exists() else None
        except InputError as error:
            self._problem(path, str(error).replace(str(path), "it"))
            return None

    def _maps(self, path: Path) -> dict[str, NDArray[Any]] | None:
        import numpy as np

        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            self._problem(path, str(error))
            return None

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            self._problem(path, str(error))
            return ""

    def _problem(self, path: Path, reason: str) -> None:
        self.problems.append(f"{'/'.join(path.parts[-3:])} was left out: {reason}.")


def page(comparison: Comparison, runs: Runs) -> str:
    """The report as one HTML document that names no other file or address."""
    looks = palette.looks(comparison)
    depths = _depths(looks, runs.signal)
    return template("report.html.j2").render(
        comparison=comparison,
        label=words.label,
        verdict=runs.paring.remark if runs.paring else verdict(comparison),
        caveats=caveats(comparison, needs_floor=runs.paring is None),
        theme=palette.stylesheet(),
        created=day(comparison.created),
        seeds=f"1 to {comparison.seeds} seeds" if comparison.single else words.seeds(comparison.seeds),
        looks=looks,
        marks={name: mark(look) for name, look in looks.items()},
        lines=_lines(comparison),
        longest=max(len(variant.name) for variant in comparison.variants),
        kept_means=kept_means(comparison),
        floor=best_floor(comparison),
        broken=bool(figures.far_floors(comparison)),
        scatter=figures.quality_against_cost(comparison),
        columns=_columns(comparison),
        rows=_rows(comparison),
        layers=layers.draw(runs.layers, looks),
        paring=paring.draw(runs.paring),
        bars=_bars(comparison),
        against_length=figures.against_length(comparison),
        curves=figures.curves(comparison, runs.metrics),
        signal=signal.draw(depths),
        shown=[model.name for model in depths],
        maps=maps.draw({variant.name: runs.maps.get(variant.name, {}) for variant in comparison.variants}),
        labelled=maps.LABELLED,
        samples=_samples(comparison, runs.samples),
        signatures=sorted({variant.signature for variant in comparison.variants if variant.signature}),
        budget=_budget(comparison),
        problems=runs.problems,
        recipe=as_yaml(comparison.recipe),
    )


def _depths(looks: Mapping[str, palette.Look], found: Mapping[str, list[dict[str, Any]]]) -> list[signal.Depths]:
    """The first and the last row of each variant: at initialisation, and at the end of its training."""
    return [
        signal.Depths(
            name,
            looks[name],
            before=rows[0]["layers"] if rows[0].get("step") == 0 else [],
            after=rows[-1]["layers"] if rows[-1].get("step") != 0 else [],
        )
        for name, rows in found.items()
    ]


def template(name: str) -> jinja2.Template:
    """A page of the folder `templates`, into which text goes as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


# One line per variant


@dataclass(frozen=True)
class Line:
    """A variant on the first screen."""

    variant: VariantResult
    sentence: str
    kept: str
    bar: float | None


def _lines(comparison: Comparison) -> list[Line]:
    lines = []
    for variant in comparison.variants:
        share = kept(comparison, variant)
        lines.append(
            Line(
                variant,
                predicate(comparison, variant.name),
                _kept(share),
                None if share is None else 100 * min(max(share, 0.0), 1.0),
            )
        )
    return lines


def _kept(share: float | None) -> str:
    if share is None:
        return words.NOT_MEASURED
    return words.percent(share) if share >= 0 else f"<{words.NBSP}0{words.NBSP}%"


_SHAPES = {
    "o": '<circle cx="6" cy="6" r="4.6"/>',
    "s": '<rect x="1.8" y="1.8" width="8.4" height="8.4"/>',
    "^": '<path d="M6 1 11 10.5H1z"/>',
    "v": '<path d="M6 11 11 1.5H1z"/>',
    "D": '<path d="M6 .6 11.4 6 6 11.4.6 6z"/>',
    "P": '<path d="M4 1h4v3h3v4H8v3H4V8H1V4h3z"/>',
    "X": '<path d="M3.4.8 6 3.4 8.6.8l2.6 2.6L8.6 6l2.6 2.6-2.6 2.6L6 8.6l-2.6 2.6L.8 8.6 3.4 6 .8 3.4z"/>',
    "*": '<path d="M6 .5 7.4 4.3h4L8.2 6.7l1.2 4L6 8.3l-3.4 2.4 1.2-4L.6 4.3h4z"/>',
}


def mark(look: palette.Look) -> str:
    """A variant's mark in the figures, small enough to stand in a line of text."""
    shape, fill = _SHAPES[look.marker], f"var(--{look.colour})"
    return f'<svg class="mark" viewBox="0 0 12 12" aria-hidden="true" fill="{fill}">{shape}</svg>'


# The table


@dataclass(frozen=True)
class Cell:
    """A number in the table and how it differs from the baseline's.

    Attributes:
        kind: `better`, `worse`, `level` (within the spread of the seeds), `untested` (one seed) or `neither` (no
            direction is better, or no difference).
    """

    number: str
    difference: str = ""
    kind: str = "neither"
    spread: str = ""


def _columns(comparison: Comparison) -> list[str]:
    return [*comparison.keys("quality"), *comparison.keys("cost"), *comparison.keys("speed")]


def _rows(comparison: Comparison) -> list[tuple[VariantResult, list[Cell]]]:
    columns = _columns(comparison)
    return [(variant, [_cell(comparison, variant, key) for key in columns]) for variant in comparison.variants]


def _cell(comparison: Comparison, variant: VariantResult, key: str) -> Cell:
    measure, baseline = variant.measure(key), comparison.reference
    if measure is None or not measure.finite:
        return Cell(words.NOT_MEASURED)
    reference = baseline.measure(key)
    like = None if reference is None or not reference.finite else reference.value
    is_score = key in variant.quality
    number = words.score(key, measure.value, like) if is_score else words.quantity(measure.value, measure.unit)
    spread = ""
    if is_score and measure.spread is not None:
        spread = words.score(key, measure.spread, like)
    found = None if variant.name == comparison.baseline else difference(variant, baseline, key)
    if found is None:
        return Cell(number, spread=spread)
    if is_score:
        text = words.score(key, found.value, like, sign=True)
    elif found.relative is None or key.endswith("_per_second"):
        text = "" if found.relative is None else words.times(1 + found.relative)
    else:
        text = ("+" if found.value > 0 else "−" if found.value < 0 else "±") + words.change(found.relative)
    if found.within_spread:
        kind = "level"
    elif found.better is None or text.startswith("±"):
        kind = "neither"
    elif not found.tested:
        kind = "untested"
    else:
        kind = "better" if found.better else "worse"
    return Cell(number, f"≈ {text}" if kind == "level" and found.value else text, kind, spread)


# Cost and speed as bars


@dataclass(frozen=True)
class Bars:
    """One cost or speed of all variants: name, width in percent of the largest, and the number."""

    title: str
    hint: str
    rows: list[tuple[VariantResult, float, str]]


def _bars(comparison: Comparison) -> list[Bars]:
    found = []
    for key in (*comparison.keys("cost"), *comparison.keys("speed")):
        measures = [(variant, variant.measure(key)) for variant in comparison.variants]
        values = [measure.value for _, measure in measures if measure is not None and measure.finite]
        largest = max(values, default=0.0)
        if largest <= 0:
            continue
        better = next(measure.better for _, measure in measures if measure is not None)
        hint = {"higher": "longer is better", "lower": "shorter is better", None: ""}[better]
        found.append(Bars(words.label(key), hint, [_bar(variant, measure, largest) for variant, measure in measures]))
    return found


def _bar(variant: VariantResult, measure: Measure | None, largest: float) -> tuple[VariantResult, float, str]:
    if measure is None or not measure.finite:
        return variant, 0.0, words.NOT_MEASURED
    return variant, round(100 * max(measure.value, 0.0) / largest, 2), words.quantity(measure.value, measure.unit)


# Samples


@dataclass(frozen=True)
class Sample:
    """One source with its reference, and per variant its output in pieces: `(text, kind)`.

    A piece is `same`, `other` (the reference has something else here) or `gap` (words of the reference, left out). An
    image is shown by its address, which holds it.
    """

    source: str
    reference: str
    outputs: list[tuple[VariantResult, list[tuple[str, str]]]]
    image: str = ""


@dataclass(frozen=True)
class Samples:
    """Samples of all variants for the same sources.

    Attributes:
        kind: `generation`, `answers` or `regression`, or one of those whose outputs are held against references.
        source, reference: what these are called.
    """

    kind: str
    source: str
    reference: str
    items: list[Sample]


_SOURCE_AND_REFERENCE = {
    "answers": ("prompt", "reference"),
    "classification": ("text", "class"),
    "filling": ("what is read", "what was there"),
    "generation": ("prompt", "true continuation"),
    "images": ("image", "class"),
    "multi_task": ("task and text", "class or score"),
    "recall": ("prompt", "right answers"),
    "regression": ("text", "score"),
    "translation": ("source", "reference"),
}


def _samples(comparison: Comparison, found: Mapping[str, Mapping[str, Any]]) -> Samples | None:
    if not found:
        return None
    kind = str(next(iter(found.values())).get("kind"))
    kind = kind if kind in _SOURCE_AND_REFERENCE else "generation"
    outputs = {
        name: {str(sample["source"]): str(sample["output"]) for sample in samples["samples"]}
        for name, samples in found.items()
    }
    first = {
        str(sample["source"]): str(sample["reference"]) for samples in found.values() for sample in samples["samples"]
    }
    samples = [sample for samples in found.values() for sample in samples["samples"]]
    images = {str(sample["source"]): str(sample.get("image", "")) for sample in samples}
    kinds = {str(sample["source"]): str(sample.get("kind", kind)) for sample in samples}
    # Sources that most variants have come first, so that outputs stand beside each other.
    ranked = sorted(first, key=lambda source: -sum(source in by_source for by_source in outputs.values()))[:SAMPLES]
    items = [
        Sample(
            shortened(source) if kind == "answers" else source,
            first[source],
            [
                (variant, _pieces(kinds[source], outputs[variant.name][source], first[source]))
                for variant in comparison.variants
                if source in outputs.get(variant.name, {})
            ],
            images[source] if images[source].startswith("data:image/png;base64,") else "",
        )
        for source in ranked
    ]
    return Samples(kind, *_SOURCE_AND_REFERENCE[kind], items) if items else None


def shortened(text: str) -> str:
    """A long prompt without its middle."""
    if len(text) <= SHOWN_START + SHOWN_END:
        return text
    return f"{text[:SHOWN_START].rstrip()} […] {text[-SHOWN_END:].lstrip()}"


def _pieces(kind: str, output: str, reference: str) -> list[tuple[str, str]]:
    """The pieces of `output`, where its kind allows it compared with the reference word by word; else one piece."""
    if kind in ("answers", "generation", "regression") or not output.strip():
        return [(output, "same")] if output.strip() else []
    ours, theirs = output.split(), reference.split()
    if kind == "recall":
        return [(our, "same" if our == their else "other") for our, their in zip(ours, theirs, strict=False)]
    pieces = []
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    for operation, start, end, their_start, their_end in matcher.get_opcodes():
        if operation == "delete" or operation == "replace":
            pieces.append((" ".join(ours[start:end]), "other"))
        elif operation == "insert":
            pieces.append((" ".join(theirs[their_start:their_end]), "gap"))
        else:
            pieces.append((" ".join(ours[start:end]), "same"))
    return pieces


# What was asked and spent


@dataclass(frozen=True)
class Budget:
    """What was asked of and spent on each variant; `rows` has one row where all variants agree."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


def _budget(comparison: Comparison) -> Budget | None:
    flat = {variant.name: dict(_flat(variant.budget)) for variant in comparison.variants}
    columns = list(dict.fromkeys(key for values in flat.values() for key in values))
    if not columns:
        return None
    rows = [(name, [_spent(key, values.get(key)) for key in columns]) for name, values in flat.items()]
    if len({tuple(values) for _, values in rows}) == 1:
        rows = [("every variant", rows[0][1])]
    names = [column.removesuffix("seconds") + "time" if column.endswith("seconds") else column for column in columns]
    return Budget([name.replace("_", " ") for name in names], rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", value


def _spent(key: str, value: Any) -> str:
    if value is None:
        return words.NOT_MEASURED
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if key.endswith("seconds"):
        return words.quantity(value, "s")
    return f"{value:,}" if float(value).is_integer() else f"{value:,.1f}"


def day(created: str) -> str:
    """An ISO date and time as a day for people."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y}"


def as_yaml(recipe: dict[str, Any]) -> str:
    """A recipe as its author may have written it."""
    import yaml

    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100) if recipe else ""
