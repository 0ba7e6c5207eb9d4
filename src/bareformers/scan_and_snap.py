"""Carries out a recipe of kind `scan_and_snap`: how the attention of one layer without positions comes to be sparse."""

from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter

from torch import Tensor

from bareformers.dynamics import Course, Descent, Language, Rates, learn
from bareformers.measure import environment
from bareformers.recipe import ScanAndSnapRecipe
from bareformers.report.result import Measure, write_whole
from bareformers.report.scan_and_snap import HEADLINE, ScanAndSnap, Setting, build, write_csv
from bareformers.run_folder import Log, refuse_other

FREE = ("name", "description", "output")  # what numbers do not depend on


def run(recipe: ScanAndSnapRecipe, command: str, log: Log = print) -> ScanAndSnap:
    """Carry out `recipe` in its folder, and return what was found; what a folder holds already is not computed again.

    Args:
        command: what the user typed, for the report.
        log: takes sentences about what is going on.
    """
    resolved = recipe.model_dump(mode="json")
    advice = f"write output=<another folder>, another name, or remove {recipe.folder}"
    refuse_other(recipe.folder, {key: value for key, value in resolved.items() if key not in FREE}, advice)
    write_whole(recipe.folder / "recipe.yaml", recipe.dump())
    outcome = recipe.folder / "result.json"
    if outcome.exists():
        log(f"{recipe.folder} was finished before")
        found = ScanAndSnap.load(outcome).model_copy(update={"name": recipe.name, "description": recipe.description})
    else:
        found = _measured(recipe, command, log)
    found.save(outcome)
    write_csv(found, recipe.folder / "results.csv")
    build(recipe.folder)
    return found


def _measured(recipe: ScanAndSnapRecipe, command: str, log: Log) -> ScanAndSnap:
    language = Language(recipe.classes, recipe.last_tokens, recipe.common, recipe.distinct)
    initial = (3 * language.size) ** -0.5 if recipe.initial == "auto" else recipe.initial
    descent = Descent(recipe.length, recipe.batch, recipe.iterations, recipe.momentum, initial)
    rates = [Rates(rate, ratio) for rate in recipe.learning_rate_z for ratio in recipe.ratios]
    runs = len(rates) * len(recipe.seeds)
    log(f"{len(rates)} settings with {len(recipe.seeds)} seeds each, {language.size} tokens")
    started = perf_counter()
    course = learn(language, descent, rates, recipe.seeds)
    seconds = perf_counter() - started
    log(f"{runs} runs of {recipe.iterations:,} iterations in {seconds:.1f} s, {seconds / runs:.2f} s each")
    return ScanAndSnap(
        name=recipe.name,
        description=recipe.description,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        times=course.times,
        settings=[_setting(each, course, index) for index, each in enumerate(rates)],
        seconds=seconds,
        tokens=language.size,
        seeds=recipe.seeds,
        recipe=recipe.model_dump(mode="json"),
        environment={**environment.describe("fp32"), "dtype": "fp64"},
    )


def _setting(rates: Rates, course: Course, index: int) -> Setting:
    found = {name: values[:, index] for name, values in course.found.items()}  # [times, seeds]
    return Setting(
        learning_rate_z=rates.z,
        ratio=rates.ratio,
        final={name: Measure.over_seeds([_measure(name, value) for value in each[-1]]) for name, each in found.items()},
        course={name: _numbers(each.mean(-1)) for name, each in found.items()},
        lowest={name: _numbers(each.amin(-1)) for name, each in found.items()},
        highest={name: _numbers(each.amax(-1)) for name, each in found.items()},
        by_seed=_numbers(found[HEADLINE][-1]),
    )


def _measure(name: str, value: Tensor) -> Measure:
    return Measure(value=float(value), unit="nats" if name in (HEADLINE, "entropy", "loss") else "")


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
