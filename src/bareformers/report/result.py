"""What a run, a comparison and a benchmark measured: the schema of `result.json`.

A `RunResult` is one variant trained with one seed; `aggregate` gathers the runs into a `Comparison`, with the mean
over the seeds and the distance between the best and the worst of them. A `Benchmark` holds untrained mixers against
each other. The same words hold everywhere: `quality` is what a model can do, `cost` what it takes (weights, bytes),
`speed` how fast it is.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bareformers.errors import InputError, nearest

Better = Literal["higher", "lower"]


class Schema(BaseModel):
    """What stands in a file: no key unknown, and numbers that are none kept as words."""

    # A diverged run measures NaN: as a string it survives strict JSON parsers and comes back as a float.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Document(Schema):
    """A model with a file of its own."""

    def save(self, path: Path | str) -> Path:
        """Write this as indented JSON to `path`, all of it or nothing; parent folders are created."""
        return write_whole(Path(path), self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote. A missing, damaged or foreign file is an `InputError` that names it."""
        path = Path(path)
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        except ValidationError as error:
            raise InputError(
                f"{path} is not a {cls.__name__} of this version of bareformers: {complaint(error)}"
            ) from error


def complaint(error: ValidationError) -> str:
    """The first thing that does not fit a schema, and where."""
    first = error.errors()[0]
    where, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


class Measure(Schema):
    """One measured number.

    Attributes:
        value: the number; over several seeds their mean.
        unit: `bytes`, `tokens/s`, `ms`, `s`, `%` or whatever else it is counted in; empty for scores and counts.
        better: which direction is the better one; None where neither is.
        spread: largest minus smallest value over the seeds, in `unit`; None with a single seed, where it is unknown.
            In a benchmark the interquartile range over the rounds, and 0 for what is counted and not timed.
        seeds: how many seeds the value is the mean of.
    """

    value: float
    unit: str = ""
    better: Better | None = None
    spread: float | None = None
    seeds: int = 1

    @property
    def finite(self) -> bool:
        """Whether this is a number at all: a diverged run measures NaN or infinity."""
        return math.isfinite(self.value)

    @classmethod
    def over_seeds(cls, measures: Sequence[Measure]) -> Measure:
        """The mean and the spread of one quantity over the seeds of a variant (at least one measure)."""
        first = measures[0]
        values = [measure.value for measure in measures]
        return cls(
            value=math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan,
            unit=first.unit,
            better=first.better,
            spread=max(values) - min(values) if len(values) > 1 else None,
            seeds=len(values),
        )


class _Measured(Schema):
    floor: bool = False
    description: str = ""
    quality: dict[str, Measure] = {}
    cost: dict[str, Measure] = {}
    speed: dict[str, Measure] = {}
    budget: dict[str, Any] = {}
    signature: str | None = None
    status: str = "finished"

    def measure(self, key: str) -> Measure | None:
        """The measure called `key`, be it quality, cost or speed; None where this was not measured."""
        for group in (self.quality, self.cost, self.speed):
            if key in group:
                return group[key]
        return None

    def measures(self) -> Iterator[tuple[str, Measure]]:
        """Every measure with its name: quality, then cost, then speed."""
        for group in (self.quality, self.cost, self.speed):
            yield from group.items()


class RunResult(_Measured, Document):
    """What one run measured: one variant with one seed. Saved as `<variant>/seed<k>/result.json`.

    Attributes:
        variant: the variant's name in the recipe.
        seed: the seed of initialisation and of the order of the data.
        floor: whether this variant is a floor, which mixes nothing or averages everything.
        description: mixers and block in words: "gaussian (encoder, decoder), dot_product (cross) in pre_ln".
        quality: scores by name (`bleu`, `perplexity`, ...).
        cost: `parameters`, `state_bytes`, `peak_memory`, ...
        speed: `train_tokens_per_second`, `decode_tokens_per_second`, ... A cost or speed measured at several lengths
            has one key for each, `<measure>@<length>`: `forward_ms@1024`; the report draws these against length.
        budget: what was asked for and what was spent: tokens, steps, seconds, epochs.
        signature: sacreBLEU's signature, where a translation was scored.
        status: `finished`, or a word for what happened instead.
    """

    variant: str
    seed: int


class VariantResult(_Measured):
    """What one variant measured over its seeds; fields as in `RunResult`.

    Attributes:
        name: the variant's name in the recipe.
        seeds: the seeds it was run with.
        runs: the folders of its runs, relative to the folder of the comparison: `gaussian/seed1`.
        status: `finished`, or the status of the first run that did not.
    """

    name: str
    seeds: list[int]
    runs: list[str]


class Compared(Document):
    """Variants measured side by side, one of them the baseline that the others are held against.

    Attributes:
        name: short name, as the folder is called.
        title: heading of the report; the name where empty.
        description: a sentence or two about what is compared and why.
        created: when, in ISO 8601.
        command: the command that measures all this again.
        baseline: the variant that the others are measured against.
        variants: in the order in which they are shown.
        environment: machine, device, dtype, versions.
        notes: sentences about what was left out, and why.
        schema_version: of this format.
    """

    name: str
    title: str = ""
    description: str = ""
    created: str
    command: str
    baseline: str
    variants: list[VariantResult]
    environment: dict[str, str] = {}
    notes: list[str] = []
    schema_version: Literal[1] = 1

    def variant(self, name: str) -> VariantResult:
        """The variant called `name`; an unknown name is an `InputError`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = [variant.name for variant in self.variants]
        raise InputError(
            f"comparison {self.name!r} has no variant {name!r}{nearest(name, names) or ':'} it has {', '.join(names)}"
        )

    @property
    def reference(self) -> VariantResult:
        """The baseline's results."""
        return self.variant(self.baseline)

    def lengths(self, least: int = 2) -> dict[str, list[int]]:
        """The measures taken at `least` lengths or more, `<measure>@<length>`, with these lengths in order."""
        found: dict[str, set[int]] = {}
        for variant in self.variants:
            for key, _ in variant.measures():
                measure, at, length = key.partition("@")
                if at and length.isdecimal():
                    found.setdefault(measure, set()).add(int(length))
        return {measure: sorted(lengths) for measure, lengths in found.items() if len(lengths) >= least}


class Comparison(Compared):
    """Everything a comparison measured. Saved as `<comparison>/result.json`; the report is built from it.

    Attributes:
        headline: the quality that ranks the variants, a key of their `quality`.
        recipe: the resolved recipe.
        notes: sentences about the data: what was read, removed, and why.
    """

    headline: str
    recipe: dict[str, Any] = {}

    @property
    def seeds(self) -> int:
        """The number of seeds of the variant that has the most."""
        return max((len(variant.seeds) for variant in self.variants), default=0)

    @property
    def single(self) -> list[str]:
        """The variants that ran with one seed where others ran with several."""
        return [variant.name for variant in self.variants if len(variant.seeds) == 1 < self.seeds]

    def keys(self, group: Literal["quality", "cost", "speed"]) -> list[str]:
        """The names of one group's measures over all variants, in order of appearance; the headline comes first.

        Measures at a length (`forward_ms@1024`) are not among them: `lengths` has these.
        """
        found = dict.fromkeys(key for variant in self.variants for key in getattr(variant, group))
        return sorted((key for key in found if "@" not in key), key=lambda key: key != self.headline)


class Benchmark(Compared):
    """What mixers cost against length, without training. Saved as `<benchmark>/result.json`.

    The variants are mixers; every measure stands at its length, as in `forward_ms@1024`.

    Attributes:
        kind: tells this file from that of a comparison.
        settings: role, sizes, lengths and rounds.
    """

    kind: Literal["benchmark"] = "benchmark"
    settings: dict[str, Any] = {}


def aggregate(
    runs: Iterable[RunResult],
    *,
    name: str,
    command: str,
    baseline: str,
    headline: str,
    title: str = "",
    description: str = "",
    order: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    recipe: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
    created: str | None = None,
) -> Comparison:
    """Gather runs into a comparison: one `VariantResult` per variant, means and spreads over its seeds.

    Args:
        runs: in any order; two with the same variant and seed are a `ValueError`.
        order: the names of the variants in the order of the recipe; those not named follow as they appear in `runs`.
        created: ISO date and time; now where None.

    The rest goes into the fields of the same name. An unknown baseline, or a headline that the baseline did not
    measure, is an `InputError`.
    """
    by_variant: dict[str, list[RunResult]] = {variant: [] for variant in order}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    comparison = Comparison(
        name=name,
        title=title,
        description=description,
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        baseline=baseline,
        headline=headline,
        variants=[_over_seeds(variant, runs) for variant, runs in by_variant.items() if runs],
        environment=dict(environment or {}),
        recipe=dict(recipe or {}),
        notes=list(notes),
    )
    measured = comparison.reference.quality
    if headline not in measured:
        raise InputError(
            f"the headline {headline!r} was not measured{nearest(headline, measured) or ':'} "
            f"the qualities of {baseline} are {', '.join(measured) or 'none'}"
        )
    return comparison


def _over_seeds(name: str, runs: list[RunResult]) -> VariantResult:
    runs = sorted(runs, key=lambda run: run.seed)
    seeds = [run.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"variant {name!r} was given twice with the same seed: {seeds}")
    return VariantResult(
        name=name,
        floor=runs[0].floor,
        description=runs[0].description,
        quality=_means([run.quality for run in runs]),
        cost=_means([run.cost for run in runs]),
        speed=_means([run.speed for run in runs]),
        budget=_budget([run.budget for run in runs]),
        signature=runs[0].signature,
        status=next((run.status for run in runs if run.status != "finished"), "finished"),
        seeds=seeds,
        runs=[f"{name}/seed{seed}" for seed in seeds],
    )


def _means(groups: list[dict[str, Measure]]) -> dict[str, Measure]:
    keys = dict.fromkeys(key for group in groups for key in group)
    return {key: Measure.over_seeds([group[key] for group in groups if key in group]) for key in keys}


def _budget(budgets: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers that differ between the seeds (seconds spent) become their mean; everything else is the first run's."""
    merged = dict(budgets[0])
    for key in merged:
        values = [budget[key] for budget in budgets if key in budget]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        if numbers and any(value != values[0] for value in values):
            merged[key] = sum(values) / len(values)
        elif all(isinstance(value, dict) for value in values):
            merged[key] = _budget(values)
    return merged


@dataclass(frozen=True)
class Difference:
    """How far a variant lies from the baseline in one quantity.

    Attributes:
        value: variant minus baseline, in the unit of the measure.
        relative: `value` as a share of the baseline; None where the baseline is 0.
        within_spread: whether it is no larger than the seeds of either variant differ among themselves. Such a
            difference is never a win or a loss.
        tested: whether there is a seed spread to hold it against: False with one seed.
        better: whether the variant is the better of the two; None where neither direction is better, or the two
            are equal.
    """

    value: float
    relative: float | None
    within_spread: bool
    tested: bool
    better: bool | None


def difference(variant: VariantResult, baseline: VariantResult, key: str) -> Difference | None:
    """The difference in the measure `key`; None where either has none, or a number that is not finite."""
    ours, theirs = variant.measure(key), baseline.measure(key)
    return None if ours is None or theirs is None else between(ours, theirs)


def between(ours: Measure, theirs: Measure) -> Difference | None:
    """How far `ours` lies from `theirs`, the baseline's; None where one is no number."""
    if not (ours.finite and theirs.finite):
        return None
    value = ours.value - theirs.value
    spreads = [measure.spread for measure in (ours, theirs) if measure.spread is not None]
    better = ours.better or theirs.better
    return Difference(
        value=value,
        relative=value / abs(theirs.value) if theirs.value else None,
        within_spread=bool(spreads) and abs(value) <= max(spreads),
        tested=bool(spreads),
        better=None if better is None or value == 0 else (value > 0) == (better == "higher"),
    )


def write_csv(comparison: Comparison, path: Path | str) -> Path:
    """Write one row per variant: its name, and each measure's mean and spread in the unit of the measure."""
    keys = list(dict.fromkeys(key for variant in comparison.variants for key, _ in variant.measures()))
    keys.sort(key=lambda key: key != comparison.headline)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [column for key in keys for column in (key, f"{key}_spread")]
    writer.writerow(["variant", "floor", "baseline", "seeds", "status", *columns, "description"])
    for variant in comparison.variants:
        row: list[Any] = [
            variant.name,
            str(variant.floor).lower(),
            str(variant.name == comparison.baseline).lower(),
            len(variant.seeds),
            variant.status,
        ]
        for key in keys:
            measure = variant.measure(key)
            row += ["", ""] if measure is None else [measure.value, "" if measure.spread is None else measure.spread]
        writer.writerow([*row, variant.description])
    return write_whole(Path(path), text.getvalue())


def kind_of(path: Path) -> str:
    """What the `result.json` at `path` says that it is; empty for a comparison, and where it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return ""
    return str(found.get("kind", "")) if isinstance(found, dict) else ""


def write_whole(path: Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8 so that a reader sees the old file or the new one, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
