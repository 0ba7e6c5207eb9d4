"""A comparison as a table in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bareformers.report import words
from bareformers.report.result import Comparison, Difference, VariantResult, difference

_COSTS = ("parameters", "state_bytes", "peak_memory")
_SPEEDS = ("train_tokens_per_second", "decode_tokens_per_second")


def table(comparison: Comparison) -> Table:
    """One row per variant: the headline, its difference to the baseline, cost and speed; the report has the rest.

    A difference within the spread of the seeds is dim. Speeds stand relative to the baseline's, with its own in tokens
    per second; floors are marked and dim.
    """
    headline = comparison.headline
    costs = [key for key in _COSTS if key in comparison.keys("cost")]
    speeds = [key for key in _SPEEDS if key in comparison.keys("speed")]
    result = Table(
        title=comparison.title or comparison.name,
        caption=_caption(comparison),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    result.add_column("variant", no_wrap=True)
    result.add_column(words.label(headline), justify="right")
    result.add_column("difference", justify="right")
    for key in (*costs, *speeds):
        result.add_column(words.label(key), justify="right")
    for variant in comparison.variants:
        measure = variant.quality.get(headline)
        like = _like(comparison, headline)
        score = words.NOT_MEASURED if measure is None else words.score(headline, measure.value, like)
        cells = [_name(comparison, variant), Text(score, style="bold"), _difference(comparison, variant)]
        cells += [Text(words.written(variant.cost.get(key))) for key in costs]
        cells += [_speed(comparison, variant, key) for key in speeds]
        result.add_row(*cells, style="dim" if variant.floor else None)
    return result


def _caption(comparison: Comparison) -> str:
    if comparison.seeds == 1:
        return "One seed: differences are not tested against chance."
    return "Means over the seeds; a dim difference is within the spread of the seeds."


def _name(comparison: Comparison, variant: VariantResult) -> Text:
    marks = [
        mark
        for mark, holds in (
            ("baseline", variant.name == comparison.baseline),
            ("floor", variant.floor),
            (variant.status, variant.status != "finished"),
        )
        if holds
    ]
    return Text.assemble(variant.name, (f"  {', '.join(marks)}" if marks else "", "dim"))


def _difference(comparison: Comparison, variant: VariantResult) -> Text:
    found = difference(variant, comparison.reference, comparison.headline)
    if variant.name == comparison.baseline or found is None:
        return Text("")
    headline = comparison.headline
    return Text(words.score(headline, found.value, _like(comparison, headline), sign=True), style=style(found))


def _like(comparison: Comparison, key: str) -> float | None:
    measure = comparison.reference.quality.get(key)
    return measure.value if measure is not None and measure.finite else None


def _speed(comparison: Comparison, variant: VariantResult, key: str) -> Text:
    measure = variant.speed.get(key)
    found = difference(variant, comparison.reference, key)
    if variant.name == comparison.baseline or found is None or found.relative is None:
        return Text(words.written(measure))
    return Text(words.times(1 + found.relative), style=style(found))


def style(found: Difference) -> str:
    """Green for better, red for worse, dim within the spread; none where neither is better or nothing was tested."""
    if found.within_spread or not found.tested or found.better is None:
        return "dim" if found.within_spread else ""
    return "green" if found.better else "red"
