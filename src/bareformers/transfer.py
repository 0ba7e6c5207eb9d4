"""Carries out a transfer: language models of general text, of the task's text, and the classifiers that they become.

Each stage is a run with a folder of its own, `general/<name>/seed<k>`, `adapted/<name>/seed<k>` and
`<variant>/seed<k>`, and begins with the weights of the one before it. The names of the first two follow from what makes
their weights, so that what several variants have in common is trained once, whatever the order of these; so is a model
of general text that all seeds begin with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bareformers.assessment import ASSESSMENTS, evaluate
from bareformers.data.corpus import NOUNS, cache_folder, counted
from bareformers.data.tasks import TaskData, training_texts
from bareformers.data.tokens import train_tokenizer
from bareformers.errors import Diverged, InputError
from bareformers.execution import carry_out, check_unfreezing, compare, resumable
from bareformers.measure import environment
from bareformers.models import BareConfig
from bareformers.recipe import General, Recipe, Start, Task, Training, Transfer
from bareformers.report.result import Comparison, RunResult
from bareformers.run import run_of, size_of, train
from bareformers.run_folder import Log, Run, claim, corpus_of, import_plugins, is_trained, load_model, prepared
from bareformers.variants import configure

FOLDERS = {"general": "general", "adaptation": "adapted"}
TEXTS = {"general": "general text", "adaptation": "the task's text"}


@dataclass(frozen=True)
class Sides:
    """What the stages read, all with one tokenizer; a language model's data is None where no stage reads it."""

    general: TaskData | None
    adaptation: TaskData | None
    classifier: TaskData
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Step:
    """A run of one stage, what it reads, the step that it begins with, and what its weights depend on beside both."""

    run: Run
    data: TaskData
    before: Step | None
    sections: dict[str, Any]

    @property
    def is_done(self) -> bool:
        return self.run.result_file.exists()


@dataclass(frozen=True, eq=False)
class Chain:
    """The steps of one variant with one seed, by stage; the last is `classifier`."""

    variant: str
    steps: dict[str, Step]

    @property
    def classifier(self) -> Run:
        return self.steps["classifier"].run


def run(recipe: Transfer, command: str, log: Log = print) -> Comparison:
    """Carry out `recipe` in its folder, and return what was measured of the classifiers.

    Args:
        command: what the user typed, for the report and for resuming.
        log: takes sentences about what is going on.
    """
    import_plugins(recipe.plugins)
    sides = read(recipe)
    for note in sides.notes:
        log(note)
    chains = expand(recipe, sides)
    for sentence in sharing(chains):
        log(sentence)
    steps = wanted(chains)
    dumped = recipe.model_dump(mode="json")
    shared = {key: dumped[key] for key in ("kind", "data", "task", "model", "language_model")}
    claim(recipe, shared, [step.run for step in steps])
    with resumable(command):
        for step in steps:
            carry_out(step.run, step.data, log, partial(make, step.before))
        data = replace(sides.classifier, notes=(*sides.notes, *told(recipe, chains, sides)))
        return compare(recipe, [each.classifier for each in chains], data, command, log)


def read(recipe: Transfer) -> Sides:
    """The texts of all stages, and the tokenizer that is trained on all that they learn from."""
    labelled = corpus_of(recipe.data, "data")
    if labelled.kind != "labelled":
        raise InputError(f"a transfer ends in a classifier of texts, and data gives {NOUNS[labelled.kind]}s")
    general = None if recipe.general is None else corpus_of(recipe.general.data, "general.data")
    if general is not None and general.kind not in ("documents", "labelled"):
        raise InputError(f"general.data gives {NOUNS[general.kind]}s, and a language model reads documents")
    task, languages = recipe.task, language_task(recipe)
    texts = chain(() if general is None else training_texts(general), training_texts(labelled))
    tokenizer = train_tokenizer(texts, task.vocab_size, cache_folder())
    classifier = prepared(labelled, task, tokenizer)
    first = None if general is None else prepared(general, languages, tokenizer)
    second = None if recipe.adaptation is None else prepared(labelled, adaptation_task(recipe), tokenizer)
    trained_on = "the training texts of the task" if general is None else "the general and the task's training texts"
    notes = [*classifier.notes, f"One tokenizer, of {len(tokenizer):,} tokens, is trained on {trained_on}."]
    notes += [f"General text: {note}" for note in (() if first is None else first.notes)]
    notes += [f"The task's text: {note}" for note in (() if second is None else second.notes[len(labelled.notes) :])]
    return Sides(first, second, classifier, tuple(notes))


def language_task(recipe: Transfer) -> Task:
    """The task of the stages before the classifier."""
    return Task(name=recipe.language_model, vocab_size=recipe.task.vocab_size, max_length=recipe.task.max_length)


def adaptation_task(recipe: Transfer) -> Task:
    """The same, of the task's own texts, of which as large a share is read as by the classifier."""
    return language_task(recipe).model_copy(update={"share": recipe.task.share})


def expand(recipe: Transfer, sides: Sides) -> list[Chain]:
    """All runs of a recipe; whatever is wrong with any variant is an `InputError` here, before anything is trained."""
    made: dict[Path, Step] = {}
    chains = []
    # What ranks classifiers says nothing of language models.
    language_evaluation = recipe.evaluation.model_copy(update={"headline": ""}).model_dump(mode="json")
    for variant in recipe.variants:
        language, classifier = language_config(recipe, variant, sides), configure(recipe, variant, sides.classifier)
        language_size = None if language is None else size_of(recipe.language_model, language, variant)
        size = size_of(recipe.task.name, classifier, variant)
        for seed in recipe.seeds_for(variant):
            steps: dict[str, Step] = {}
            last: Step | None = None
            for name in FOLDERS:
                stage, data = recipe.stage_for(variant, name), getattr(sides, name)
                if stage is not None:
                    assert language is not None and language_size is not None and data is not None
                    own = stage.seed if isinstance(stage, General) and stage.seed is not None else seed
                    source = stage.data if isinstance(stage, General) else recipe.data
                    model = recipe.language_model_for(variant)
                    task = language_task(recipe) if isinstance(stage, General) else adaptation_task(recipe)
                    sections = essence(source, task, model, stage.training)
                    label = f"{FOLDERS[name]}/{short_name([*line(last), sections])}"
                    run = run_of(
                        recipe,
                        label,
                        own,
                        language,
                        language_size,
                        stage.training,
                        data=source,
                        task=task,
                        model=model,
                        evaluation=language_evaluation,
                        **lineage(last),
                    )
                    last = steps[name] = made.setdefault(run.folder, Step(run, data, last, sections))
            run = run_of(
                recipe,
                variant,
                seed,
                classifier,
                size,
                recipe.training_for(variant),
                data=recipe.data,
                task=recipe.task,
                model=recipe.model_for(variant),
                **lineage(last),
            )
            steps["classifier"] = Step(run, sides.classifier, last, {})
            chains.append(Chain(variant, steps))
    for step in dict.fromkeys(step for each in chains for step in each.steps.values()):
        check_unfreezing(step.run, step.data)
    return chains


def language_config(recipe: Transfer, variant: str, sides: Sides) -> BareConfig | None:
    """The config of the language models of a variant; None where it has none."""
    data = sides.general or sides.adaptation
    if data is None or all(recipe.stage_for(variant, name) is None for name in FOLDERS):
        return None
    given = {variant: recipe.language_model_for(variant)}
    plain = Recipe(
        name=recipe.name, data={}, task=language_task(recipe), variants=given, training=recipe.training_for(variant)
    )
    return configure(plain, variant, data)


def essence(data: dict[str, Any], task: Task, model: dict[str, Any], training: Training) -> dict[str, Any]:
    """What the weights of a stage depend on beside its seed and the stage before it.

    Without defaults, so that it stays the same where a section takes a new key.
    """
    asked, settings = (section.model_dump(mode="json", exclude_defaults=True) for section in (task, training))
    return {"data": data, "task": asked, "model": model, "training": settings}


def line(step: Step | None) -> list[dict[str, Any]]:
    """The sections of a step and of all before it, the first stage first."""
    return [] if step is None else [*line(step.before), step.sections]


def short_name(stages: Sequence[dict[str, Any]]) -> str:
    """Eight hexadecimal digits that follow from what `stages` say, in whatever order of keys."""
    # Once more, since keys that are numbers become strings, which can be sorted among others.
    plain = json.loads(json.dumps(stages, default=str))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def begun_by(step: Step | None) -> dict[str, Any] | None:
    """What a run depends on that begins with the weights of `step`."""
    if step is None:
        return None
    return {**step.sections, "seed": step.run.seed, "begun_by": begun_by(step.before)}


def lineage(step: Step | None) -> dict[str, Any]:
    """The start of a run that begins with the weights of `step`, and what these depend on."""
    return {"start": None if step is None else Start(run=str(step.run.folder)), "begun_by": begun_by(step)}


def wanted(chains: Sequence[Chain]) -> list[Step]:
    """The steps in their order, without those that are gone and that nothing unfinished begins with.

    Raises:
        InputError: a model was removed that something unfinished begins with.
    """
    found: dict[Step, None] = {}
    for each in chains:
        kept: list[Step] = []
        is_begun_with = False
        for step in reversed(each.steps.values()):
            if is_begun_with and step.is_done and not is_trained(step.run) and not diverged(step.run):
                raise InputError(f"{step.run.folder} has a result and no model; remove it to train it again")
            is_kept = step.is_done or is_begun_with or step is each.steps["classifier"]
            if is_kept:
                kept.append(step)
            is_begun_with = is_kept and not step.is_done
        found |= dict.fromkeys(reversed(kept))
    return list(found)


def diverged(each: Run) -> bool:
    """Whether a run that has a result is without a model for that reason."""
    return RunResult.load(each.result_file).status == "diverged"


def make(before: Step | None, each: Run, data: TaskData, note: Log) -> dict[str, Any]:
    """Train a run that begins with the weights of another, unless that was done before; returns its budget.

    Of a language model that goes on from another, the budget also has what both score on the validation side.
    """
    if before is not None and not is_trained(each) and diverged(before.run):
        raise Diverged(f"{before.run.label}, which it begins with, diverged")
    spent = train(each, data, note)
    if before is None or data.task == "classification":
        return spent
    spent["validation"] = {when: score(run, data) for when, run in (("before", before.run), ("after", each))}
    return spent


def score(each: Run, data: TaskData) -> float:
    """What ranks language models, of a trained one on the validation side of `data`."""
    model, _ = load_model(each.folder)
    model.to(environment.default_device())
    found, *_ = evaluate(model, replace(data, test=data.validation), {**each.recipe["evaluation"], "samples": 0})
    return found[ASSESSMENTS[data.task].headline].value


def sharing(chains: Sequence[Chain]) -> Iterator[str]:
    """Sentences about whose the stages before the classifiers are."""
    variants: dict[str, dict[str, None]] = {}
    for each in chains:
        for name in FOLDERS:
            if name in each.steps:
                variants.setdefault(each.steps[name].run.variant, {})[each.variant] = None
    for label, names in variants.items():
        yield f"{label} is trained {'once ' if len(names) > 1 else ''}for {', '.join(names)}."


def told(recipe: Transfer, chains: Sequence[Chain], sides: Sides) -> Iterator[str]:
    """Sentences about what each variant spent in which stage, which stages were shared, and what adaptation did."""
    for variant in recipe.variants:
        own = [each for each in chains if each.variant == variant]
        spent = [found for stage in (*FOLDERS, "classifier") if (found := spent_on(stage, own, sides))]
        yield f"{variant}, on average over its seeds: {', '.join(spent) or 'nothing that ended in numbers'}."
    yield "Curves, budgets and times in tables and figures are of the last stage alone."
    yield from sharing(chains)
    seeds = {each.classifier.seed for each in chains if "general" in each.steps}
    if recipe.general is not None and recipe.general.seed is not None and len(seeds) > 1:
        yield (
            f"All seeds begin with one general model, of seed {recipe.general.seed}, so the spread over seeds leaves "
            f"out that of its training."
        )
    scores: dict[str, dict[int, dict[str, float]]] = {}
    for each in chains:
        for name in FOLDERS:
            if name in each.steps and (found := budget_of(each.steps[name].run).get("validation")):
                run = each.steps[name].run
                scores.setdefault(run.variant, {})[run.seed] = found
    headline = ASSESSMENTS[recipe.language_model].headline.replace("_", " ")
    for label, by_seed in scores.items():
        before, after = (sum(pair[when] for pair in by_seed.values()) / len(by_seed) for when in ("before", "after"))
        yield f"{label}: {headline} of the task's validation texts {before:.3f} before adaptation, {after:.3f} after."


def budget_of(each: Run) -> dict[str, Any]:
    """What a run spent; nothing where it diverged, or is gone and was not needed any more."""
    return RunResult.load(each.result_file).budget if each.result_file.exists() else {}


def spent_on(stage: str, chains: Sequence[Chain], sides: Sides) -> str | None:
    """What the runs of a stage took on average; None where nothing is known of them."""
    steps = [each.steps[stage] for each in chains if stage in each.steps]
    budgets = [found for step in steps if (found := budget_of(step.run))]
    if not budgets:
        return None
    spent = {key: sum(found[key] for found in budgets) / len(budgets) for key in ("tokens", "epochs", "seconds")}
    if stage == "classifier":
        times = "once" if spent["epochs"] == 1 else f"{spent['epochs']:,.4g} times"
        return f"{counted(len(sides.classifier.train), 'labelled text')}, {times}, in {spent['seconds']:,.0f} s"
    predicted = " predicted" if steps[0].data.task == "masked_language_modelling" else ""
    return f"{spent['tokens']:,.0f} tokens{predicted} of {TEXTS[stage]} in {spent['seconds']:,.0f} s"
