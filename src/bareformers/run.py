"""Carries out a recipe: variants x seeds -> run folders -> results -> report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bareformers.assessment import MODELS, check_members
from bareformers.data.tasks import TaskData
from bareformers.errors import InputError
from bareformers.execution import (
    Carrier,
    Job,
    budget,
    check_scores,
    check_unfreezing,
    compare,
    fit,
    fresh,
    hollow,
    one_by_one,
    resumable,
)
from bareformers.measure import cost
from bareformers.models import BareConfig
from bareformers.recipe import Recipe, Start, Task, Training
from bareformers.report.result import Comparison
from bareformers.run_folder import Log, Run, claim, import_plugins, is_trained, load_data
from bareformers.training.ledger import saved
from bareformers.variants import common_tokenizer, configure, describe, is_floor


def run(recipe: Recipe, command: str, log: Log = print, carry: Carrier = one_by_one) -> Comparison:
    """Carry out `recipe` in its folder, and return what was measured.

    Args:
        command: what the user typed, for the report and for resuming.
        log: takes sentences about what is going on.
        carry: carries out the single runs.
    """
    import_plugins(recipe.plugins)
    data = read(recipe)
    for note in data.notes:
        log(note)
    runs = expand(recipe, data)
    begin(recipe, runs)
    with resumable(command):
        carry([Job(each, data, train) for each in runs], log)
        return compare(recipe, runs, data, command, log)


def read(recipe: Recipe) -> TaskData:
    """What the runs of a recipe learn from, with the tokenizer of those that they start from."""
    tokenizer = common_tokenizer(recipe)
    data = load_data(recipe.data, recipe.task, tokenizer)
    if tokenizer is not None:
        size = f"{len(tokenizer):,} tokens"
        said = f"The tokenizer, of {size}, is that of the runs that this starts from; vocab_size is not read."
        data = replace(data, notes=(*data.notes, said))
    return data


def begin(recipe: Recipe, runs: Sequence[Run]) -> None:
    """Make the folders of all runs; an `InputError` where one of them holds something else."""
    dumped = recipe.model_dump(mode="json")
    claim(recipe, {key: dumped[key] for key in ("kind", "data", "task", "model", "start_from")}, runs)


def expand(recipe: Recipe, data: TaskData) -> list[Run]:
    """All runs of a recipe; whatever is wrong with any variant is an `InputError` here, before anything is trained."""
    check_members(data, recipe.evaluation.model_dump())
    runs = []
    for variant in recipe.variants:
        training = recipe.training_for(variant)
        check_scores(training, data, "training")
        sized: dict[Start | None, tuple[BareConfig, int]] = {}
        for seed in recipe.seeds_for(variant):
            start = recipe.start_for(variant, seed)
            if start not in sized:
                config = configure(recipe, variant, data, start)
                sized[start] = config, size_of(data.form, config, variant)
            found = run_of(
                recipe,
                variant,
                seed,
                *sized[start],
                training,
                data=recipe.data,
                task=recipe.task,
                model=recipe.model_for(variant),
                start=start,
            )
            check_unfreezing(found, data)
            runs.append(found)
    return runs


def size_of(form: str, config: BareConfig, variant: str) -> int:
    """Parameters of a model; an `InputError` where it cannot be built."""
    try:
        return cost.num_parameters(hollow(MODELS[form], config))
    except InputError as error:
        raise InputError(f"variant {variant!r}: {error}") from None


def run_of(
    recipe: Recipe,
    label: str,
    seed: int,
    config: BareConfig,
    size: int,
    training: Training,
    *,
    data: dict[str, Any],
    task: Task,
    model: dict[str, Any],
    start: Start | None,
    **sections: Any,
) -> Run:
    """The run `label` with `seed`, in the folder of that name.

    Args:
        size: parameters.
        data, task, model: as its recipe says them.
        sections: whatever else its weights depend on.
    """
    resolved = {
        "variant": label,
        "seed": seed,
        "plugins": recipe.plugins,
        "data": data,
        "task": task.model_dump(mode="json"),
        "model": model,
        "training": training.model_dump(mode="json"),
        "evaluation": recipe.evaluation.model_dump(mode="json"),
        "start_from": None if start is None else start.model_dump(mode="json"),
        **sections,
    }
    folder = recipe.folder / label / f"seed{seed}"
    return Run(label, seed, folder, config, size, training, start, resolved, floor=is_floor(config))


def train(each: Run, data: TaskData, note: Log) -> dict[str, Any]:
    """Train one run and save its model, unless that was done before; returns its budget."""
    if not is_trained(each):
        model = fresh(MODELS[data.form], each.config, each.seed, each.start)
        origin = f"; weights of {each.start.run}" if each.start is not None and each.start.weights else ""
        note(f"{describe(each.config)}; {each.size:,} parameters{origin}")
        fit(each, model, data, note)
    return budget(each.training, saved(each.folder / "model"), data)
