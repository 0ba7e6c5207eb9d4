"""What mixers, or blocks, cost against length, for reading: tables in the terminal, `results.csv`, one HTML file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bareformers.report import figures, palette, words
from bareformers.report.html import Cell, day, mark, template
from bareformers.report.result import Benchmark, VariantResult, difference, kind_of, write_whole
from bareformers.report.table import style
from bareformers.report.verdict import crossover, crossovers

# In this order they are shown; what is not here comes last.
MEASURES = (
    "forward_ms",
    "forward_backward_ms",
    "prefill_ms",
    "step_ms",
    "peak_memory",
    "state_bytes",
    "parameters",
)


def is_benchmark(path: Path) -> bool:
    """Whether the `result.json` at `path` is that of a benchmark; False where it is missing or damaged."""
    return kind_of(path) == "benchmark"


def build(folder: Path | str) -> Path:
    """Write `<folder>/report.html` from `<folder>/result.json`; return its path."""
    folder = Path(folder)
    return write_whole(folder / "report.html", page(Benchmark.load(folder / "result.json")))


def noun(benchmark: Benchmark) -> str:
    """What the variants are, `mixer` or `block`."""
    return "block" if benchmark.settings.get("compared") == "blocks" else "mixer"


def measures(benchmark: Benchmark) -> dict[str, list[int]]:
    """What was measured, in the order of the report, and at which lengths."""
    found = benchmark.lengths(1)
    known = [measure for measure in MEASURES if measure in found]
    return {measure: found[measure] for measure in [*known, *(other for other in found if other not in MEASURES)]}


def overtakes(benchmark: Benchmark, variant: VariantResult, measure: str) -> str:
    """From which measured length on `variant` is better than the baseline, in words: `from 1,024`, `always`.

    A difference within the spread of the timings does not count. Where it is better at some lengths but not at the
    longest, these are named; where at none, it is `never up to 8,192`.
    """
    found = {
        length: difference(variant, benchmark.reference, f"{measure}@{length}")
        for length in benchmark.lengths(1).get(measure, [])
    }
    both = {length: each for length, each in found.items() if each is not None}
    if not both:
        return words.NOT_MEASURED
    first, last = min(both), max(both)
    since = crossover(benchmark, variant, measure)
    if since is None:
        better = [f"{length:,}" for length, each in both.items() if each.better and not each.within_spread]
        return f"only at {words.listed(better)}" if better else f"never up to {last:,}"
    where = "always" if since == first else f"from {since:,}"
    return where if last == max(found) else f"{where}, as far as {last:,}"


def growth(variant: VariantResult, measure: str, lengths: list[int]) -> str:
    """How many times what it was at the shortest length a measure is at the longest; empty where that says nothing."""
    first, last = (variant.measure(f"{measure}@{length}") for length in (lengths[0], lengths[-1]))
    if len(lengths) < 2 or first is None or last is None:
        return ""
    return words.share(last.value / first.value) if first.value else ""


def ratio(benchmark: Benchmark, variant: VariantResult, key: str) -> tuple[str, str]:
    """A measure as a multiple of the baseline's, and its kind as `Cell` has it; empty where there is nothing to hold.

    One round has no spread, and its difference is `untested`.
    """
    found = difference(variant, benchmark.reference, key)
    if variant.name == benchmark.baseline or found is None or found.relative is None:
        return "", ""
    if found.within_spread:
        kind = "level"
    elif found.better is None or not found.tested:
        kind = "neither" if found.better is None else "untested"
    else:
        kind = "better" if found.better else "worse"
    return words.share(1 + found.relative), kind


# The terminal


def tables(benchmark: Benchmark) -> list[Table]:
    """One table a measure, variants by lengths, and one that says from which length on each overtakes the baseline."""
    found = [_table(benchmark, measure, lengths) for measure, lengths in measures(benchmark).items()]
    if found and len(benchmark.variants) > 1:
        found[0].caption = (
            f"The others as multiples of {benchmark.baseline}, dim within the spread of the timings; "
            f"growth: each at the longest length as a multiple of itself at the shortest."
        )
        found.append(_overtaking(benchmark))
    return found


def _table(benchmark: Benchmark, measure: str, lengths: list[int]) -> Table:
    table = _empty(words.label(measure))
    table.add_column(noun(benchmark), no_wrap=True)
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    table.add_column("growth", justify="right")
    for variant in benchmark.variants:
        cells = [_cell(benchmark, variant, f"{measure}@{length}") for length in lengths]
        end = growth(variant, measure, lengths)
        table.add_row(Text(variant.name), *cells, end, style="dim" if variant.floor else None)
    return table


def _cell(benchmark: Benchmark, variant: VariantResult, key: str) -> Text:
    text, _ = ratio(benchmark, variant, key)
    found = difference(variant, benchmark.reference, key)
    if not text or found is None:
        return Text(words.written(variant.measure(key)))
    return Text(text, style=style(found))


def _overtaking(benchmark: Benchmark) -> Table:
    shown = [measure for measure in measures(benchmark) if measure != "parameters"]
    table = _empty(f"From which length on each {noun(benchmark)} is better than {benchmark.baseline}")
    table.caption = "Lengths that were measured; a difference within the spread of the timings does not count."
    table.add_column(noun(benchmark), no_wrap=True)
    for measure in shown:
        table.add_column(words.label(measure))
    for variant in benchmark.variants:
        if variant.name != benchmark.baseline:
            cells = (overtakes(benchmark, variant, measure) for measure in shown)
            table.add_row(Text(variant.name), *cells, style="dim" if variant.floor else None)
    return table


def _empty(title: str) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)


# The file for other programs


def write_csv(benchmark: Benchmark, path: Path | str) -> Path:
    """Write one row for each number: variant, measure, length, value, interquartile range over the rounds, unit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([noun(benchmark), "floor", "measure", "length", "value", "spread", "unit"])
    for variant in benchmark.variants:
        for key, measure in variant.measures():
            name, _, length = key.partition("@")
            spread = "" if measure.spread is None else measure.spread
            writer.writerow(
                [variant.name, str(variant.floor).lower(), name, length, measure.value, spread, measure.unit]
            )
    return write_whole(Path(path), text.getvalue())


# The page


@dataclass(frozen=True)
class Grid:
    """One measure of all variants: a row of cells and the growth for each."""

    title: str
    lengths: list[int]
    rows: list[tuple[VariantResult, list[Cell], str]]


def page(benchmark: Benchmark) -> str:
    """The report as one HTML document that names no other file or address."""
    looks = palette.looks(benchmark)
    shown = [measure for measure in measures(benchmark) if measure != "parameters"]
    return template("benchmark.html.j2").render(
        benchmark=benchmark,
        noun=noun(benchmark),
        label=words.label,
        theme=palette.stylesheet(),
        created=day(benchmark.created),
        marks={name: mark(look) for name, look in looks.items()},
        summary=summary(benchmark),
        shown=shown,
        overtaking=[
            (variant, [overtakes(benchmark, variant, measure) for measure in shown])
            for variant in benchmark.variants
            if variant.name != benchmark.baseline
        ],
        charts=figures.against_length(benchmark),
        grids=list(_grids(benchmark)),
    )


def summary(benchmark: Benchmark) -> str:
    """One sentence about the first measure: who is better than the baseline, and from where on."""
    first = next(iter(measures(benchmark)), None)
    told = crossovers(benchmark, first) if first else []
    if not first or not told:
        return f"Only {benchmark.baseline} was measured: nothing to compare with."
    return f"Better than {benchmark.baseline} in the {words.label(first)}: {'; '.join(told)}."


def _grids(benchmark: Benchmark) -> Iterator[Grid]:
    for measure, lengths in measures(benchmark).items():
        rows = [
            (
                variant,
                [_grid_cell(benchmark, variant, f"{measure}@{length}") for length in lengths],
                growth(variant, measure, lengths),
            )
            for variant in benchmark.variants
        ]
        yield Grid(words.label(measure), lengths, rows)


def _grid_cell(benchmark: Benchmark, variant: VariantResult, key: str) -> Cell:
    found = variant.measure(key)
    text, kind = ratio(benchmark, variant, key)
    spread = ""
    if found is not None and found.unit == "ms" and found.spread is not None:
        spread = words.quantity(found.spread, found.unit)
    return Cell(words.written(found), text, kind, spread)
