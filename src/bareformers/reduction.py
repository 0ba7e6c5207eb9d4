"""Pares a trained model down: mixers take the place of its attention where that costs little, within a budget.

Each stage leaves its outcome in the recipe's folder, so that a paring that was stopped goes on from there: lessons,
savings, scores of the search, trials that were fine-tuned and verified, the model, the report.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_model
from torch import nn
from transformers import set_seed

from bareformers import execution, pretrained, recipe, registry, run_folder
from bareformers.assessment import (
    MODELS,
    check_outputs,
    draw,
    evaluate,
    is_causal,
    padded,
    scores_of,
    write_samples,
)
from bareformers.data.examples import part
from bareformers.data.tasks import TaskData
from bareformers.data.tokens import bytes_per_token
from bareformers.errors import Diverged, InputError, unknown
from bareformers.measure import cost, environment
from bareformers.measure import quality as likelihoods
from bareformers.paring import drawing, savings, surgery
from bareformers.paring.search import TINY, Assignment, Trace, lost, search
from bareformers.paring.teaching import Candidates, Place, named, places_of, without_cache
from bareformers.recipe import Paring, Task, Training, Tuning, validated
from bareformers.report import html
from bareformers.report.paring import ParingStudy, Trial
from bareformers.report.result import Comparison, Measure, RunResult, aggregate, write_csv, write_whole
from bareformers.run_folder import Log
from bareformers.training.distill import Lessons, examine
from bareformers.training.ledger import Spent
from bareformers.training.objectives import Imitated, Objective, OpenImitation
from bareformers.training.trainer import BareTrainer

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "language_modelling": ("bits_per_byte", "perplexity"),
    "masked_language_modelling": ("accuracy", "perplexity"),
    "recall": ("accuracy",),
    "translation": ("bleu",),
    "summarisation": ("rouge_l", "perplexity"),
    "dialogue": ("perplexity",),
}
"""What a paring can bound, by task."""

IN_PERCENT = ("bits_per_byte", "perplexity")  # less is better, and a drop is in percent of the original's

ASSIGNMENT = "replaced.json"
LEARNT = "lessons.safetensors"
SHARES = {"validation": 0.5, "training": 0.1}  # of a side that the search looks at


@dataclass(frozen=True)
class Pared:
    """What came out of a paring.

    Attributes:
        model: with what was replaced; the original where nothing was.
        tokenizer: of the original.
        study: what was tried, and how it went.
        comparison: the original beside it.
        folder: where all is.
    """

    model: Any
    tokenizer: Any
    study: ParingStudy
    comparison: Comparison
    folder: Path


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is to be pared, and data.

    Attributes:
        data: with that part of the training side that is trained on; its held-out side only tells how it went.
        searched: the same, where what the search looks at is the test side.
        verifying: the same, where what verifies is the test side.
        weights: a digest of them.
        candidates: for each place.
        division: what the search looks at, and what verifies, in a sentence.
        notes: which do not fit into some places.
    """

    model: Any
    data: TaskData
    searched: TaskData
    verifying: TaskData
    metric: str
    weights: str
    paring: Paring
    candidates: Candidates
    division: str
    notes: list[str]

    @property
    def seed(self) -> int:
        return self.paring.seeds[0]

    @property
    def folder(self) -> Path:
        return self.paring.folder

    def score(self, model: Any, data: TaskData, **changes: Any) -> float:
        """The metric of a model."""
        settings = {**self.paring.evaluation.model_dump(mode="json"), "samples": 0, **changes}
        return scores_of(model, data, settings, [self.metric])[self.metric].value

    def drop(self, original: float, now: float) -> float:
        """What is lost of the metric: points, or percent of the original."""
        return 100 * (now / original - 1) if self.metric in IN_PERCENT else lost(original, now)


def pare(
    model: str | Path,
    data: Mapping[str, Any] | str | Path | None = None,
    *overrides: str,
    log: Log = print,
    **given: Any,
) -> Pared:
    """Replace attention of a trained model wherever that costs little, and leave all in a folder.

    Candidates learn in all places in one pass (as in `distill`), a greedy search takes those that save the most for
    what they lose, and the whole is fine-tuned and verified on what the search did not see. Stopped, it goes on.

        pared = pare("models/minilm_sst2", "data/sst2", max_drop=1.0, target="latency", output="runs/pared")
        print(pared.study.remark, pared.study.final)
        pared.model.save_pretrained("smaller")

    Args:
        model: a recipe (YAML); or a run folder of ours; or a folder, GGUF file or name on the hub of `transformers`.
        data: where there is a file for each side, or the data section of a recipe; of a run, by default its own.
        overrides: `key=value`, as on the command line.
        log: takes sentences about what is going on.
        given: keys of the recipe: max_drop (points; percent of a perplexity or of bits per byte), metric, target
            (latency, parameters or state), candidates, training, search, finetune, seed, output.

    Returns:
        The pared model (the original where nothing fits), what was tried, both compared, and the folder.

    Raises:
        InputError: model, data, metric or candidates do not fit, or the folder belongs to another paring.
    """
    paring = recipe_of(model, data, given, overrides)
    command = shlex.join(["bareformers", "pare", str(paring.folder / "recipe.yaml")])
    return carry_out(paring, command, log)


def recipe_of(
    model: str | Path,
    data: Mapping[str, Any] | str | Path | None,
    given: Mapping[str, Any],
    overrides: Sequence[str] = (),
) -> Paring:
    """The recipe that arguments amount to."""
    if not isinstance(model, str | Path):
        raise InputError(
            f"pare goes on where it was stopped, and so reads a folder, not a {type(model).__name__}; save the model "
            f"there with its tokenizer, by save_pretrained"
        )
    keys = dict(given)
    if "seed" in keys:
        keys["seeds"] = [keys.pop("seed")]
    if keys.get("output") is None:
        keys.pop("output", None)
    else:
        keys["output"] = str(keys["output"])
    if data is not None:
        keys["data"] = pretrained.data_of(data)
    path = Path(model).expanduser()
    if path.suffix in (".yaml", ".yml"):
        said = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        return recipe.load_paring(path, [*said, *overrides])
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"pare-{'-'.join(path.parts[-3:])}").strip("-.")
    return recipe.paring({"name": name, "model": str(model), **keys}, list(overrides))


def carry_out(paring: Paring, command: str, log: Log = print) -> Pared:
    """Carry out a recipe in its folder.

    Args:
        command: what the user typed, for the report and for resuming.
    """
    run_folder.import_plugins(paring.plugins)
    subject = begin(paring)
    for note in (*subject.data.notes, subject.division, *subject.notes):
        log(note)
    with execution.resumable(command):
        return finish(subject, command, log)


def begin(paring: Paring) -> Subject:
    """The model and its data, and the folder claimed; an `InputError` where something does not fit."""
    model, tokenizer, own = pretrained.opened(paring.model)
    kind = pretrained.task_of(model, own)
    asked = pretrained.laid_over(own.get("task"), paring.task)
    limit = savings.readable(model)
    task = validated(Task, {"name": kind, **asked}, "task")
    if "max_length" not in asked:
        task = task.model_copy(update={"max_length": min(128, Task.room(limit, task.decoder_only))})
    trained = validated(Task, own.get("task") or {"name": kind}, "task")
    if MODELS[task.form] is not MODELS[trained.form]:
        raise InputError(f"{paring.model} is a {type(model).__name__}, which is no model for {task.said}")
    if task.name not in METRICS:
        raise InputError(
            f"{paring.model} is for several tasks at once, and a paring bounds what one of them loses; save it by "
            f"model.for_member(name).save_pretrained(folder), with the tokenizer, and pare that"
        )
    known = tuple(each for each in METRICS[task.name] if each != "bits_per_byte" or bytes_per_token(tokenizer).any())
    metric = paring.metric or (own.get("evaluation") or {}).get("headline") or known[0]
    if metric not in known:
        raise unknown(f"metric for {task.name}", metric, known)
    if task.positions > limit:
        raise InputError(
            f"task.max_length {task.max_length} needs {task.positions} positions, and the model has {limit}"
        )
    for spec in paring.candidates:
        registry.mixers.parse(spec, "candidates")
    if not places_of(model):
        raise InputError(f"{paring.model} has no attention that anything could take the place of")
    given = pretrained.laid_over(own.get("data"), paring.data)
    if not given:
        raise InputError(f"{paring.model} has no recipe.yaml that says what it was trained on; write --data, or data:")
    section = pretrained.section_for(given, task.name)
    data = run_folder.load_data(section, task, tokenizer, model)
    if paring.finetune is not None:
        execution.check_scores(paring.finetune, data, "finetune")
    if data.labels or data.scale is not None:
        check_outputs(model, data)
    plugins = list(dict.fromkeys([*(own.get("plugins") or []), *paring.plugins]))
    found = {"plugins": plugins, "data": section, "task": task.model_dump(mode="json"), "metric": metric}
    paring = paring.model_copy(update=found)
    data, searched, verifying, division = divided(data, tokenizer, paring)
    model.to(environment.default_device()).eval()
    savings.check(model, paring.target, paring.evaluation.speed_rounds)
    candidates, notes = enrolled(model, paring)
    subject = Subject(model, data, searched, verifying, metric, digest(model), paring, candidates, division, notes)
    claim(subject)
    return subject


def divided(data: TaskData, tokenizer: Any, paring: Paring) -> tuple[TaskData, TaskData, TaskData, str]:
    """What is trained on and told of in the end, what the search looks at, what verifies, and all that in a sentence.

    The search and what verifies share the validation side. Without a test side all of that verifies, and tells how it
    went, and the search has a part of the training side.
    """
    sizes, most = bytes_per_token(tokenizer), paring.search.examples
    side = "validation" if len(data.test) else "training"
    whole = data.validation if len(data.test) else data.train
    size = round((paring.search.share or SHARES[side]) * len(whole))
    if not 0 < size < len(whole):
        raise InputError(
            f"{len(whole):,} {side} examples are too few to divide between the search and the rest; give more, or "
            f"another search.share"
        )
    order = np.random.default_rng(paring.seeds[0]).permutation(len(whole))
    size = min(size, most or size)
    looked, rest = (part(whole, np.sort(rows), sizes) for rows in (order[:size], order[size:]))
    train, verifying = (data.train, rest) if len(data.test) else (rest, data.validation)
    said = f"The search looks at {len(looked):,} {side} examples"
    if len(data.test):
        said += f", {len(rest):,} others verify, and the test side has no say."
    else:
        said += ", on which nothing is trained; the validation side verifies, and tells how it went."
    return replace(data, train=train), replace(data, test=looked), replace(data, test=verifying), said


def digest(model: Any) -> str:
    """Of the weights of a model, so that those of another are not taken for them."""
    tensors = ((name, tensor.detach().cpu().contiguous().reshape(-1)) for name, tensor in model.state_dict().items())
    return run_folder.digest(name.encode() + tensor.view(torch.uint8).numpy().tobytes() for name, tensor in tensors)


def claim(subject: Subject) -> None:
    """Make the folder, or go on in it; one of another paring is refused."""
    folder = subject.folder
    advice = f"write --output <another folder>, or remove {folder}"
    dumped = subject.paring.model_dump(mode="json")
    shared = {key: dumped[key] for key in dumped if key not in ("name", "description", "output")}
    run_folder.refuse_other(folder, shared, advice)
    original = folder / "original" / f"seed{subject.seed}"
    run_folder.refuse_other(original, {"weights": subject.weights}, advice)
    write_whole(original / "recipe.yaml", yaml.safe_dump({"model": subject.paring.model, "weights": subject.weights}))
    write_whole(folder / "recipe.yaml", subject.paring.dump())


def finish(subject: Subject, command: str, log: Log) -> Pared:
    """All stages, as far as they are not done."""
    model, paring, folder, data = subject.model, subject.paring, subject.folder, subject.data
    set_seed(subject.seed)
    results = {"original": measured(subject, "original", model, {}, "as it was trained", log)}
    teach(subject, log)
    saves, shares = savings_of(subject, log)
    trace = find(subject, saves, log)
    pared, trials = verified(subject, trace, log)
    final = trace.after(trials[-1].steps if trials else 0)
    models = {"original": model, "pared": pared}
    if final and paring.finetune is not None and not paring.finetune.only_replaced:
        models["fine_tuned"] = tuned(subject, {}, folder / "tuned" / "original", log)
        said = "the original with the same fine-tuning"
        results["fine_tuned"] = measured(subject, "fine_tuned", models["fine_tuned"], {}, said, log)
    results["pared"] = measured(subject, "pared", pared, final, written(final, trace), log)
    if saved_assignment(folder / "model") != final:
        run_folder.save_model(folder / "model", pared, data, Spent())
        write_whole(folder / "model" / ASSIGNMENT, json.dumps(final, indent=1) + "\n")
    remark = ended(subject, trace, trials, results)
    log(remark)
    time_all(subject, models, results, log)
    study = ParingStudy(
        metric=subject.metric,
        target=paring.target,
        max_drop=paring.max_drop,
        searched_drop=trace.max_drop,
        in_percent=subject.metric in IN_PERCENT,
        original=trace.original,
        attention={f"batch of {rows}": share for rows, share in shares.items()},
        alone=trace.alone,
        savings=trace.savings,
        steps=trace.steps,
        trials=trials,
        final=final,
        remark=remark,
        settings=subject.division,
    )
    study.save(folder / "trace.json")
    comparison = aggregate(
        list(results.values()),
        name=paring.name,
        command=command,
        baseline="original",
        headline=subject.metric,
        description=paring.description or f"{paring.model}, pared down: {remark}",
        environment=environment.describe(paring.training.precision),
        recipe=paring.model_dump(mode="json"),
        notes=[*data.notes, subject.division, *subject.notes],
    )
    comparison.save(folder / "result.json")
    write_csv(comparison, folder / "results.csv")
    html.build(folder)
    return Pared(pared, data.tokenizer, study, comparison, folder)


def enrolled(model: Any, paring: Paring) -> tuple[Candidates, list[str]]:
    """The candidates of every place, and sentences about places that some do not fit into."""
    wanted, notes, places = [], [], places_of(model)
    names = [named(spec) for spec in paring.candidates]
    if len(set(names)) < len(names):
        raise InputError("candidates name a mixer twice; name it once")
    if paring.target == "state":  # an encoder has none
        places = [place for place in places if place.role != "encoder"]
    for place in places:  # what students learn from is attention of ours in the place of that which is there
        surgery.put_back(model, surgery.swap(model, "dot_product", place.layer, place.role))
    for spec, name in zip(paring.candidates, names, strict=True):
        refused: dict[Place, str] = {}
        for place in places:
            try:
                surgery.planned(model, spec, place.layer, place.role)
            except InputError as error:
                refused[place] = str(error)
        wanted += [(place, spec) for place in places if place not in refused]
        if len(refused) == len(places):
            raise InputError(f"candidate {name} fits nowhere: {next(iter(refused.values()))}")
        for role in dict.fromkeys(place.role for place in refused):
            said = [why for place, why in refused.items() if place.role == role]
            notes.append(f"{name} is no candidate for {len(said)} places of the {role}: {said[0]}.")
    wanted.sort(key=lambda each: places.index(each[0]))
    return Candidates(model, wanted, match_maps=paring.match_maps, seed=paring.seeds[0]), notes


def chosen(candidates: Candidates, assignment: Assignment) -> dict[Place, str]:
    """An assignment by places."""
    places = {str(place): place for place, _ in candidates.students}
    return {places[place]: name for place, name in assignment.items()}


def trainer_of(
    subject: Subject,
    model: Any,
    settings: Training,
    folder: Path,
    label: str,
    validate: Callable[[nn.Module], float],
    objective: Objective,
) -> BareTrainer:
    """What trains on the training side."""
    folder.mkdir(parents=True, exist_ok=True)
    data = subject.data
    return BareTrainer(
        model,
        settings,
        data.train,
        data.collate,
        is_causal(data),
        validate,
        folder,
        subject.seed,
        label=label,
        objective=objective,
    )


def teach(subject: Subject, log: Log) -> None:
    """Train all candidates at once, unless that was done before."""
    folder, paring = subject.folder / "lessons" / f"seed{subject.seed}", subject.paring
    candidates = subject.candidates
    done = folder / "lessons.json"
    students = list(candidates.students.values())

    def graded(lessons: Lessons) -> list[Any]:
        batches = padded(subject.searched, subject.searched.test, paring.evaluation.batch_tokens)
        return examine(lessons, (batch for _, batch in batches))

    def validate(net: Any) -> float:
        return sum(grade.loss + grade.maps for grade in graded(net))

    def who(found: re.Match[str]) -> str:
        each = students[int(found[1])]
        return f"{each.name} ({each.place})"

    with candidates.lessons() as lessons:
        if done.exists():
            lessons.load_state_dict(load_file(folder / LEARNT))
            log("lessons: finished before")
            return
        log(f"{len(students)} lessons in {len({each.place for each in students})} places")
        if any(parameter.requires_grad for parameter in lessons.parameters()):
            trainer = trainer_of(subject, lessons, paring.training, folder, "lessons", validate, Imitated())
            try:
                execution.learn(trainer, subject.data, log)
            except Diverged as error:
                said = re.sub(r"students\.(\d+)", who, str(error))
                advice = f"write a smaller training.learning_rate, and remove {subject.folder}"
                raise InputError(f"{said}; {advice}") from error
        folder.mkdir(parents=True, exist_ok=True)
        save_model(lessons, str(folder / LEARNT))
        rows = [
            {"role": each.place.role, "layer": each.place.layer, "mixer": each.name, **grade._asdict()}
            for each, grade in zip(students, graded(lessons), strict=True)
        ]
        write_whole(done, json.dumps(rows, indent=1) + "\n")
        if any(parameter.requires_grad for parameter in lessons.parameters()):
            trainer.remove_checkpoints()


def savings_of(subject: Subject, log: Log) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What candidates save by place and name, and the share of attention in the forward pass.

    Measured once, for as long as the machine is the same.
    """
    file, target = subject.folder / "savings.json", subject.paring.target
    machine = environment.describe("fp32")
    if file.exists():
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            if all(known["machine"][key] == machine[key] for key in ("processor", "threads", "device")):
                return known["savings"], known["attention"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{file} is damaged: {error}; remove it, and it is measured again") from error
        log("the machine is another now")
    log(f"measuring what {len(subject.candidates.students)} candidates save ({target})")
    found, shares = savings.measure(subject.candidates, target, subject.paring.evaluation.speed_rounds)
    by_place = {str(place): values for place, values in found.items()}
    said = {"savings": by_place, "attention": shares, "machine": machine}
    write_whole(file, json.dumps(said, indent=1) + "\n")
    return by_place, shares


def find(subject: Subject, saves: dict[str, dict[str, float]], log: Log) -> Trace:
    """Find what to replace, on the part that is for this."""
    paring, examples, candidates = subject.paring, subject.searched.test, subject.candidates

    def quality(assignment: Assignment) -> float:
        replaced = candidates.install_all(chosen(candidates, assignment))
        try:
            return subject.score(subject.model, subject.searched, beams=1, max_sentences=None)
        finally:
            surgery.put_back(subject.model, replaced)

    noise = paring.search.noise
    if noise is None:
        noise = 100 / int(examples.label_tokens.sum()) if subject.metric == "accuracy" else paring.max_drop / 100
    places: dict[str, list[str]] = {}
    for place, name in candidates.students:
        places.setdefault(str(place), []).append(name)
    return search(
        places,
        quality,
        lambda place, name: saves[place][name],
        paring.max_drop * paring.search.slack,
        noise=noise,
        drop=subject.drop,
        file=subject.folder / "scores.json",
        log=log,
    )


def verified(subject: Subject, trace: Trace, log: Log) -> tuple[Any, list[Trial]]:
    """The model with as many of the accepted steps as hold on what verifies, and what was tried for that.

    The trials are in order, with ever fewer steps; none where the search accepted none.
    """
    if not trace.accepted:
        return subject.model, []
    trials: list[Trial] = []
    before = trial(subject, lambda: subject.model, trace, 0, None)
    for count in range(len(trace.accepted), 0, -1):
        folder = subject.folder / "tuned" / str(count)
        make = partial(tuned, subject, trace.after(count), folder, log)
        trials.append(trial(subject, make, trace, count, before.quality))
        fits = trials[-1].drop <= subject.paring.max_drop + TINY
        log(f"verified with {count} steps: drop {trials[-1].drop:.4g}" + ("" if fits else "; the last is undone"))
        if fits:
            return make(), trials
        shutil.rmtree(folder / "model", ignore_errors=True)
    return subject.model, [*trials, before]


def trial(subject: Subject, make: Callable[[], Any], trace: Trace, count: int, before: float | None) -> Trial:
    """What a model with so many steps gives on what verifies; from its folder where that was done.

    Args:
        make: the model, which is not made where the outcome is known.
        before: what the original gives; None for the original.
    """
    done = subject.folder / "tuned" / str(count) / "trial.json"
    if done.exists():
        found = Trial.model_validate_json(done.read_bytes())
        if found.replaced == trace.after(count):
            return found
    now = subject.score(make(), subject.verifying)
    drop = 0.0 if before is None else subject.drop(before, now)
    found = Trial(steps=count, quality=now, drop=drop, replaced=trace.after(count))
    done.parent.mkdir(parents=True, exist_ok=True)
    write_whole(done, found.model_dump_json() + "\n")
    return found


def tuned(subject: Subject, assignment: Assignment, folder: Path, log: Log) -> Any:
    """A copy of the model with replacements, fine-tuned whole where the recipe says so; or what its folder has."""
    settings, there = subject.paring.finetune, folder / "model"
    if saved_assignment(there) == assignment:
        model, *_ = pretrained.opened(str(there))
        return model.to(subject.model.device).eval()
    shutil.rmtree(there, ignore_errors=True)
    claimed = folder / ASSIGNMENT
    if claimed.exists() and json.loads(claimed.read_text("utf-8")) != assignment:
        shutil.rmtree(folder)  # checkpoints of what is not wanted any more
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(claimed, json.dumps(assignment, indent=1) + "\n")
    replaced = subject.candidates.install_all(chosen(subject.candidates, assignment))
    model = copy.deepcopy(subject.model).requires_grad_(True)
    surgery.put_back(subject.model, replaced)
    trainer = None if settings is None else finetune(subject, model, assignment, settings, folder, log)
    run_folder.save_model(there, model, subject.data, Spent() if trainer is None else trainer.ledger.spent)
    write_whole(there / ASSIGNMENT, json.dumps(assignment, indent=1) + "\n")
    if trainer is not None:
        trainer.remove_checkpoints()
    return model.eval()


def saved_assignment(folder: Path) -> Assignment | None:
    """What is replaced in a model that was saved whole; None where there is none."""
    file = folder / ASSIGNMENT
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def finetune(
    subject: Subject, model: Any, assignment: Assignment, settings: Tuning, folder: Path, log: Log
) -> BareTrainer:
    """Train a pared model whole, with a share of what the original predicts."""
    searched = subject.searched
    teacher = subject.model.eval()
    flags = {parameter: parameter.requires_grad for parameter in teacher.parameters()}

    def validate(net: Any) -> float:
        batches = padded(searched, searched.test, subject.paring.evaluation.batch_tokens)
        return likelihoods.likelihood(net, (batch for _, batch in batches), causal=is_causal(searched)).loss

    objective = OpenImitation(
        teacher, is_causal(searched), settings.logits, settings.temperature, settings.label_smoothing
    )
    if settings.only_replaced:
        learnt = subject.candidates.learnt(chosen(subject.candidates, assignment))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in learnt)
    net = with_low_rank(model, settings.low_rank) if settings.low_rank else model
    try:
        teacher.requires_grad_(False)
        with without_cache(model, teacher):
            trainer = trainer_of(subject, net, settings, folder, f"fine-tuning {folder.name}", validate, objective)
            execution.learn(trainer, subject.data, log)
    except Diverged as error:
        raise InputError(f"{error}; write a smaller finetune.learning_rate, and remove {subject.folder}") from error
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
    if settings.low_rank:
        net.merge_and_unload()
    model.requires_grad_(True)
    return trainer


def with_low_rank(model: Any, rank: int) -> Any:
    """A model around this one, in which every linear map but the head learns a sum of `rank` outer products."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("finetune.low_rank needs peft; pip install 'bareformers[peft]'") from error
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))


def measured(
    subject: Subject, variant: str, model: Any, assignment: Assignment, description: str, log: Log
) -> RunResult:
    """A model on the held-out side, with what it costs; from its folder where that was done."""
    folder = subject.folder / variant / f"seed{subject.seed}"
    done = folder / "result.json"
    if done.exists() and saved_assignment(folder) == assignment:
        return RunResult.load(done)
    data, settings = subject.data, subject.paring.evaluation.model_dump(mode="json")
    log(f"{variant}: evaluating")
    folder.mkdir(parents=True, exist_ok=True)
    result = RunResult(variant=variant, seed=subject.seed, description=description)
    result.quality, result.signature, outputs, remarks = evaluate(model, data, settings)
    for remark in remarks:
        log(remark)
    write_samples(folder, outputs, data)
    np.savez_compressed(folder / "maps.npz", **draw(model, data, drawing.maps))  # type: ignore[arg-type]
    result.cost = costs(model, min(Task(**subject.paring.task).positions, savings.readable(model)))
    result.save(done)
    write_whole(folder / ASSIGNMENT, json.dumps(assignment, indent=1) + "\n")
    return result


def costs(model: Any, length: int) -> dict[str, Measure]:
    """Parameters, multiply-adds of a sequence of so many tokens, and the decoding state of one as long as it gets."""
    parameters = cost.num_parameters(model)
    bare = parameters - cost.num_embedding_parameters(model)
    products = cost.multiply_adds(model, savings.inputs_of(model, 1, length))
    found = {
        "parameters": Measure(value=parameters, better="lower"),
        "parameters_without_embeddings": Measure(value=bare, better="lower"),
        "multiply_adds": Measure(value=products, better="lower"),
    }
    if model.can_generate():
        found["state_bytes"] = Measure(value=savings.state_bytes(model), unit="bytes", better="lower")
    return found


def time_all(subject: Subject, models: Mapping[str, Any], results: Mapping[str, RunResult], log: Log) -> None:
    """What the original and the pared model take, of a forward pass and of a step of decoding, into their results."""
    rounds, compared = subject.paring.evaluation.speed_rounds, ("original", "pared")
    key = f"latency_{savings.BATCHES[0]}"
    if not rounds or all(key in results[name].cost for name in compared):
        return
    log("timing both models in turns")
    found = savings.whole_latencies({name: models[name] for name in compared}, rounds)
    for name in compared:
        for rows, timing in found[name].items():
            results[name].cost[f"latency_{rows}"] = Measure(
                value=1000 * timing.seconds, unit="ms", better="lower", spread=1000 * timing.spread
            )
    length, steps = savings.decoding_steps({name: models[name] for name in compared}, rounds)
    for name, timing in steps.items():
        results[name].cost[f"decoding_step_behind_{length}_tokens"] = Measure(
            value=1000 * timing.seconds, unit="ms", better="lower", spread=1000 * timing.spread
        )
    for name in compared:
        results[name].save(subject.folder / name / f"seed{subject.seed}" / "result.json")


def written(final: Mapping[str, str], trace: Trace) -> str:
    """What is where, in words."""
    if not final:
        return "nothing replaced"
    counts = {name: sum(each == name for each in final.values()) for name in dict.fromkeys(final.values())}
    said = ", ".join(f"{name} in {count}" for name, count in counts.items())
    others = len(trace.savings) - len(final)
    return f"{said} of {len(trace.savings)} places" + (", attention in the others" if others else "")


def ended(subject: Subject, trace: Trace, trials: Sequence[Trial], results: Mapping[str, RunResult]) -> str:
    """How it ended, in a sentence or two."""
    if not trace.accepted:
        return f"{trace.remark} The model is the original."
    bound, unit = f"{subject.paring.max_drop:g}", "percent" if subject.metric in IN_PERCENT else "points"
    final = trace.after(trials[-1].steps)
    if not final:
        return (
            f"Nothing can be replaced: the search found {len(trace.assignment)} places for a drop of at most "
            f"{trace.max_drop:g}, but none held on what verifies. The model is the original."
        )
    said = f"{len(final)} of {len(trace.savings)} places are replaced, for {change(trials[-1].drop)} {unit}"
    said += f" on what verifies (a drop of at most {bound})"
    scores = {name: result.quality[subject.metric].value for name, result in results.items()}
    side = "on the test side, which had no say" if len(subject.data.test) else "on the whole of it"
    said += f" and {change(subject.drop(scores['original'], scores['pared']))} {side}"
    if "fine_tuned" in scores:
        control = subject.drop(scores["fine_tuned"], scores["pared"])
        said += f", or {change(control)} against the original with the same fine-tuning"
    if undone := len(trace.accepted) - trials[-1].steps:
        said += f"; {undone} more step{'s' if undone > 1 else ''} of the search did not hold"
    return f"{said}."


def change(drop: float) -> str:
    """A drop in words."""
    return f"a gain of {-drop:.3g}" if drop < 0 else f"a drop of {drop:.3g}"
