"""Carries out a transfer: language models of general text, of the task's text, and the classifiers that they become.

Each stage is a run with a folder of its own, `general/<variant>/seed<k>`, `adapted/<variant>/seed<k>` and
`<variant>/seed<k>`, and begins with the weights of the one before it. A stage that several variants have in common is
trained once, under the name of the first of them; so is a model of general text that all seeds begin with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from bareformers import registry
from bareformers.assessment import ASSESSMENTS, MODELS, evaluate
from bareformers.data.corpus import NOUNS, Corpus, cache_folder
from bareformers.data.tasks import TaskData, prepare, training_texts
from bareformers.data.tokens import train_tokenizer
from bareformers.errors import Diverged, InputError
from bareformers.execution import carry_out, compare, hollow, resumable
from bareformers.measure import cost, environment
from bareformers.models import BareConfig
from bareformers.recipe import General, Recipe, Stage, Start, Task, Training, Transfer
from bareformers.report.result import Comparison, RunResult
from bareformers.run import train
from bareformers.run_folder import UNTRAINED, Log, Run, claim, import_plugins, is_trained, load_model
from bareformers.variants import configure, is_floor

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
    """A run of one stage, what it reads, and the run that it begins with."""

    run: Run
    data: TaskData
    before: Run | None


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
    steps = list(dict.fromkeys(step for each in chains for step in each.steps.values()))
    dumped = recipe.model_dump(mode="json")
    shared = {key: dumped[key] for key in ("data", "task", "model", "language_model")}
    claim(recipe, shared, [step.run for step in steps])
    with resumable(command):
        for step in steps:
            carry_out(step.run, step.data, log, partial(make, step.before))
        data = replace(sides.classifier, notes=(*sides.notes, *told(recipe, chains)))
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

    def prepared(corpus: Corpus, task: Task) -> TaskData:
        return prepare(
            corpus,
            task.name,
            task.vocab_size,
            task.max_length,
            task.too_long,
            tokenizer=tokenizer,
            mask_share=task.mask_share,
        )

    classifier = prepared(labelled, task)
    first = None if general is None else prepared(general, languages)
    second = None if recipe.adaptation is None else prepared(labelled, languages)
    trained_on = "the training texts of the task" if general is None else "the general and the task's training texts"
    notes = [*classifier.notes, f"One tokenizer, of {len(tokenizer):,} tokens, is trained on {trained_on}."]
    notes += [f"General text: {note}" for note in (() if first is None else first.notes)]
    notes += [f"The task's text: {note}" for note in (() if second is None else second.notes[len(labelled.notes) :])]
    return Sides(first, second, classifier, tuple(notes))


def corpus_of(section: dict[str, Any], where: str) -> Corpus:
    """What the source of a data section reads."""
    _, source = registry.sources.parse(section, where)
    found: Corpus = source.load()
    return found


def language_task(recipe: Transfer) -> Task:
    """The task of the stages before the classifier."""
    return Task(name=recipe.language_model, vocab_size=recipe.task.vocab_size, max_length=recipe.task.max_length)


def expand(recipe: Transfer, sides: Sides) -> list[Chain]:
    """All runs of a recipe; whatever is wrong with any variant is an `InputError` here, before anything is trained."""
    made: dict[str, Step] = {}
    chains = []
    for variant in recipe.variants:
        language, classifier = language_config(recipe, variant, sides), configure(recipe, variant, sides.classifier)
        for seed in recipe.seeds_for(variant):
            steps: dict[str, Step] = {}
            for name in FOLDERS:
                stage, data = recipe.stage_for(variant, name), getattr(sides, name)
                if stage is not None:
                    assert language is not None and data is not None
                    before = next(reversed(steps.values())).run if steps else None
                    own = stage.seed if isinstance(stage, General) and stage.seed is not None else seed
                    step = language_step(recipe, name, stage, variant, own, language, data, before)
                    # The same but for the name of its variant.
                    key = json.dumps({**step.run.recipe, "variant": name}, sort_keys=True, default=str)
                    steps[name] = made.setdefault(key, step)
            last = next(reversed(steps.values())).run if steps else None
            steps["classifier"] = classifying_step(recipe, variant, seed, classifier, sides.classifier, last)
            chains.append(Chain(variant, steps))
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


def language_step(
    recipe: Transfer,
    name: str,
    stage: Stage,
    variant: str,
    seed: int,
    config: BareConfig,
    data: TaskData,
    before: Run | None,
) -> Step:
    """The run of a stage before the classifier, under the name of `variant`."""
    source = recipe.data if recipe.general is None or name == "adaptation" else recipe.general.data
    own = {
        "data": source,
        "task": language_task(recipe).model_dump(mode="json"),
        "model": recipe.language_model_for(variant),
        **lineage(before),
    }
    return step_of(recipe, f"{FOLDERS[name]}/{variant}", seed, config, stage.training, data, before, own)


def classifying_step(
    recipe: Transfer, variant: str, seed: int, config: BareConfig, data: TaskData, before: Run | None
) -> Step:
    """The run of the last stage."""
    own = {
        "data": recipe.data,
        "task": recipe.task.model_dump(mode="json"),
        "model": recipe.model_for(variant),
        **lineage(before),
    }
    return step_of(recipe, variant, seed, config, recipe.training_for(variant), data, before, own)


def lineage(before: Run | None) -> dict[str, Any]:
    """What a run that begins with another's weights depends on beside its own sections."""
    if before is None:
        return {"start_from": None, "begun_by": None}
    sections = {key: value for key, value in before.recipe.items() if key not in UNTRAINED}
    # Without defaults, so that folders from before a key was there go on.
    training = before.training.model_dump(mode="json", exclude_defaults=True)
    start = Start(run=str(before.folder)).model_dump(mode="json")
    return {"start_from": start, "begun_by": {**sections, "training": training}}


def step_of(
    recipe: Transfer,
    variant: str,
    seed: int,
    config: BareConfig,
    training: Training,
    data: TaskData,
    before: Run | None,
    own: dict[str, Any],
) -> Step:
    """A step whose run has the sections `own` beside those that all have."""
    try:
        size = cost.num_parameters(hollow(MODELS[data.task], config))
    except InputError as error:
        raise InputError(f"variant {variant!r}: {error}") from None
    resolved = {
        "variant": variant,
        "seed": seed,
        "plugins": recipe.plugins,
        "training": training.model_dump(mode="json"),
        "evaluation": recipe.evaluation.model_dump(mode="json"),
        **own,
    }
    folder = recipe.folder / variant / f"seed{seed}"
    start = None if before is None else Start(run=str(before.folder))
    found = Run(variant, seed, folder, config, size, training, start, resolved, floor=is_floor(config))
    return Step(found, data, before)


def make(before: Run | None, each: Run, data: TaskData, note: Log) -> dict[str, Any]:
    """Train a run that begins with the weights of another, unless that was done before; returns its budget.

    Of a language model that goes on from another, the budget also has what both score on the validation side.
    """
    if before is not None and not is_trained(before):
        raise Diverged(f"{before.label}, which it begins with, diverged")
    spent = train(each, data, note)
    if before is None or data.task == "classification":
        return spent
    spent["validation"] = {when: score(run, data) for when, run in (("before", before), ("after", each))}
    return spent


def score(each: Run, data: TaskData) -> float:
    """What ranks language models, of a trained one on the validation side of `data`."""
    model, _ = load_model(each.folder)
    model.to(environment.default_device())
    found, *_ = evaluate(model, replace(data, test=data.validation), {**each.recipe["evaluation"], "samples": 0})
    return found[ASSESSMENTS[data.task].headline].value


def told(recipe: Transfer, chains: list[Chain]) -> Iterator[str]:
    """Sentences about what each variant spent in which stage, which stages were shared, and what adaptation did."""
    for variant in recipe.variants:
        own = [each for each in chains if each.variant == variant]
        spent = [found for stage in (*FOLDERS, "classifier") if (found := spent_on(stage, own))]
        yield f"{variant}, on average over its seeds: {', '.join(spent)}."
    shared: dict[str, list[str]] = {}
    scores: dict[str, list[dict[str, float]]] = {}
    for each in chains:
        for name in set(FOLDERS) & set(each.steps):
            run = each.steps[name].run
            shared.setdefault(run.variant, []).append(each.variant)
            if found := RunResult.load(run.result_file).budget.get("validation"):
                scores.setdefault(run.variant, []).append(found)
    for label, variants in sorted(shared.items()):
        if len(names := list(dict.fromkeys(variants))) > 1:
            yield f"{label} was trained once for {', '.join(names)}."
    headline = ASSESSMENTS[recipe.language_model].headline.replace("_", " ")
    for label, pairs in sorted(scores.items()):
        before, after = (sum(pair[when] for pair in pairs) / len(pairs) for when in ("before", "after"))
        yield f"{label}: {headline} of the task's validation texts {before:.3f} before adaptation, {after:.3f} after."


def spent_on(stage: str, chains: list[Chain]) -> str | None:
    """What the runs of a stage took on average; None where there are none, or all diverged."""
    runs = [each.steps[stage].run for each in chains if stage in each.steps]
    budgets = [found for each in runs if (found := RunResult.load(each.result_file).budget)]
    if not budgets:
        return None
    count, seconds = (sum(found[key] for found in budgets) / len(budgets) for key in ("tokens", "seconds"))
    if stage == "classifier":
        return f"{count:,.0f} labelled texts in {seconds:,.0f} s"
    return f"{count:,.0f} tokens of {TEXTS[stage]} in {seconds:,.0f} s"
