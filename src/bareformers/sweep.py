"""Carries out a recipe of kind `sweep`: a comparison at each point of a grid, and the laws of what they give.

Each point is an ordinary comparison in a folder of its own, `<folder>/<point>/`, so a point that is finished is never
trained again, and points that are added to the grid are trained alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bareformers import run as comparing
from bareformers.data.tasks import TaskData
from bareformers.errors import unknown
from bareformers.execution import Carrier, Job, compare, one_by_one, resumable
from bareformers.models import BareConfig
from bareformers.recipe import DATA_KEYS, SIZE_KEYS, Recipe, Sweep, Task
from bareformers.report.result import Comparison, RunResult, VariantResult, write_whole
from bareformers.report.scale import Point, Scale, build, fits, write_csv
from bareformers.run_folder import Log, Run, import_plugins, refuse_other

OTHER_KEYS = ("sizes", "max_length", "share", "tokens")  # of a sweep, beside the fields of the model


def run(recipe: Sweep, command: str, log: Log = print, carry: Carrier = one_by_one) -> Scale:
    """Carry out `recipe` in its folder, and return what was measured and the laws that it follows.

    Args:
        command: what the user typed, for the report and for resuming.
        log: takes sentences about what is going on.
        carry: carries out the single runs, those of all points at once.
    """
    import_plugins(recipe.plugins)
    check_keys(recipe)
    advice = f"write output=<another folder>, another name, or remove {recipe.folder}"
    refuse_other(recipe.folder, {"kind": "sweep"}, advice)
    points = recipe.points()
    data = read(points, log)
    runs = {
        name: [replace(each, point=name) for each in comparing.expand(point, data[name])]
        for name, point in points.items()
    }
    for name, point in points.items():
        comparing.begin(point, runs[name])
    write_whole(recipe.folder / "recipe.yaml", recipe.dump())
    log(f"{len(points)} points, {sum(map(len, runs.values()))} runs")
    with resumable(command):
        carry([Job(each, data[name], comparing.train) for name in points for each in runs[name]], log)
        found = {name: compare(point, runs[name], data[name], command, log) for name, point in points.items()}
    scale = gathered(recipe, found, runs, command)
    scale.save(recipe.folder / "result.json")
    write_csv(scale, recipe.folder / "results.csv")
    build(recipe.folder)
    return scale


def check_keys(recipe: Sweep) -> None:
    """An `InputError` for a key of the sweep that nothing has."""
    fields = set(BareConfig.__annotations__)
    for key in recipe.sweep:
        if key not in fields | set(OTHER_KEYS):
            raise unknown("key of sweep", key, fields | set(OTHER_KEYS))
    for name, size in recipe.sizes.items():
        for key in size:
            if key not in fields | {"learning_rate"}:
                raise unknown(f"key of sweep.sizes.{name}", key, fields | {"learning_rate"})


def read(points: Mapping[str, Recipe], log: Log) -> dict[str, TaskData]:
    """What each point learns from, read once where points agree on it."""
    found: dict[str, TaskData] = {}
    by_task: dict[Task, TaskData] = {}
    said: dict[str, None] = {}
    for name, point in points.items():
        if point.task not in by_task:
            by_task[point.task] = comparing.read(point)
            said |= dict.fromkeys(by_task[point.task].notes)
        found[name] = by_task[point.task]
    for note in said:
        log(note)
    return found


def gathered(recipe: Sweep, found: Mapping[str, Comparison], runs: Mapping[str, list[Run]], command: str) -> Scale:
    """What the comparisons of all points measured, and the laws that fit it."""
    first = next(iter(found.values()))
    points = [
        point
        for values, name in zip(recipe.grid(), found, strict=True)
        for point in points_of(name, values, found[name], runs[name])
    ]
    notes = dict.fromkeys(note for comparison in found.values() for note in comparison.notes)
    return Scale(
        name=recipe.name,
        description=recipe.description,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        baseline=recipe.baseline_name,
        sweep=recipe.model_dump(mode="json")["sweep"],
        unit=next((point.loss.unit for point in points if point.loss is not None and point.loss.finite), ""),
        counts_distinct="share" in recipe.sweep,
        points=points,
        fits=fits(points, "share" in recipe.sweep),
        notes=list(notes),
        recipe=recipe.model_dump(mode="json"),
        environment=first.environment,
    )


def value_of(variant: VariantResult, cost: str) -> float:
    """A measured cost; not a number where it was not measured."""
    return variant.cost[cost].value if cost in variant.cost else math.nan


def setting_of(values: Mapping[str, Any]) -> str:
    """What a point says of the keys that make neither model nor data larger, in words; laws are fitted within."""
    return ", ".join(f"{key} {value}" for key, value in values.items() if key not in (*SIZE_KEYS, *DATA_KEYS))


def points_of(name: str, values: Mapping[str, Any], comparison: Comparison, runs: list[Run]) -> list[Point]:
    """What each variant gave at one point of the grid."""
    found = []
    for variant in comparison.variants:
        results = [RunResult.load(each.result_file) for each in runs if each.variant == variant.name]
        found.append(
            Point(
                name=name,
                variant=variant.name,
                floor=variant.floor,
                values=dict(values),
                setting=setting_of(values),
                status=variant.status,
                loss=variant.quality.get("loss"),
                losses=[result.quality["loss"].value for result in results if "loss" in result.quality],
                parameters=value_of(variant, "parameters_without_embeddings"),
                multiply_adds=value_of(variant, "multiply_adds"),
                **{key: variant.budget[key] for key in ("tokens", "epochs", "seconds") if key in variant.budget},
            )
        )
    return found
