"""Pares a trained model down: mixers take the place of its attention where that costs little, within a budget.

Each stage leaves its outcome in the recipe's folder, so that a paring that was stopped goes on from there: lessons,
savings, scores of the search, trials that were fine-tuned and verified, the model, the report.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_model
from torch import nn
from transformers import AutoTokenizer, set_seed

from bareformers import execution, recipe, registry, run_folder
from bareformers.assessment import ASSESSMENTS, MODELS, evaluate, is_causal, padded, words, write_samples
from bareformers.data.examples import Examples, part
from bareformers.data.tasks import TaskData, prepare
from bareformers.data.tokens import bytes_per_token
from bareformers.errors import Diverged, InputError, unknown
from bareformers.measure import cost, environment
from bareformers.measure import quality as likelihoods
from bareformers.paring import drawing, savings, surgery
from bareformers.paring.search import Assignment, Trace, lost, search
from bareformers.paring.teaching import Candidates, Place, named, places_of
from bareformers.recipe import Finetune, Paring, Task, Training, validated
from bareformers.report import html
from bareformers.report.paring import ParingStudy, Trial, Tried
from bareformers.report.result import Comparison, Measure, RunResult, aggregate, write_csv, write_whole
from bareformers.run_folder import Log
from bareformers.training.distill import Lessons, examine
from bareformers.training.ledger import Ledger, Spent
from bareformers.training.objectives import Imitated, Objective, OpenImitation
from bareformers.training.trainer import BareTrainer

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "language_modelling": ("bits_per_byte", "perplexity"),
    "masked_language_modelling": ("accuracy", "perplexity"),
    "recall": ("accuracy",),
    "translation": ("bleu",),
}
"""What a paring can bound, by task."""

HEADS = {
    "SequenceClassification": "classification",
    "MaskedLM": "masked_language_modelling",
    "CausalLM": "language_modelling",
    "LMHead": "language_modelling",
}
LEARNT = "lessons.safetensors"


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
        data: with that part of the training side that is trained on; the held-out side verifies.
        searched: the same, where the part that the search looks at is the test side.
        weights: a digest of them.
        candidates: for each place.
        notes: which do not fit into some places.
    """

    model: Any
    data: TaskData
    searched: TaskData
    metric: str
    weights: str
    paring: Paring
    candidates: Candidates
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
        quality, *_ = evaluate(model, data, settings)
        return quality[self.metric].value

    def drop(self, original: float, now: float) -> float:
        """What is lost of the metric: points, and of a perplexity percent."""
        if self.metric == "perplexity":
            return 100 * (now / original - 1)
        return now - original if self.metric == "bits_per_byte" else lost(original, now)


def pare(
    model: str | Path,
    data: Mapping[str, Any] | str | Path | None = None,
    *overrides: str,
    log: Log = print,
    **given: Any,
) -> Pared:
    """Replace attention of a trained model wherever that costs little, and leave all in a folder.

    Args:
        model: a recipe (YAML); or a run folder of ours; or a folder, or a name on the hub, of `transformers`.
        data: the data section of a recipe, or a folder with files of the sides; of a run, by default its own.
        overrides: `key=value`, as on the command line.
        log: takes sentences about what is going on.
        given: keys of the recipe, such as max_drop, metric, target, candidates, seed or output.
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
    keys = {key: value for key, value in given.items() if value is not None}
    if "seed" in keys:
        keys["seeds"] = [keys.pop("seed")]
    if "output" in keys:
        keys["output"] = str(keys["output"])
    if data is not None:
        keys["data"] = data_of(data)
    path = Path(model).expanduser()
    if path.suffix in (".yaml", ".yml"):
        said = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        return recipe.load_paring(path, [*said, *overrides])
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"pare-{'-'.join(path.parts[-3:])}").strip("-.")
    return recipe.paring({"name": name, "model": str(model), **keys}, list(overrides))


def data_of(given: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """The data section that a user means: a section, as YAML too, or a folder with a file for each side."""
    if isinstance(given, Mapping):
        return dict(given)
    folder = Path(given).expanduser()
    if not folder.is_dir():
        try:
            section = yaml.safe_load(str(given))
        except yaml.YAMLError:
            section = None
        if isinstance(section, dict):
            return section
        raise InputError(
            f"there is no folder {given}; write one with train.txt, validation.txt and test.txt, or the data section "
            f"of a recipe, as in '{{name: labelled_text, train: ...}}'"
        )
    if (folder / "recipe.yaml").exists() and (found := run_folder.read_yaml(folder / "recipe.yaml").get("data")):
        return dict(found)
    return sides_in(folder)


def sides_in(folder: Path) -> dict[str, Any]:
    """The data section for a folder with a file for each side; which source reads them, the task decides."""
    names = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
    sides: dict[str, str] = {}
    for side, stems in names.items():
        files = [folder / f"{stem}{suffix}" for stem in stems for suffix in (".txt", ".tsv", ".csv")]
        if file := next(filter(Path.exists, files), None):
            sides[side] = str(file)
    if "train" not in sides:
        raise InputError(
            f"{folder} has no training data; put train.txt there (or .tsv, .csv), and validation and test beside it"
        )
    return sides


def section_for(given: dict[str, Any], task: str) -> dict[str, Any]:
    """A data section with a source; files that came without one are read as the task needs them."""
    if "name" in given:
        return given
    if task == "classification":
        suffix = Path(given["train"]).suffix
        columns: dict[str, Any] = {}
        if suffix in (".tsv", ".csv"):
            first = Path(given["train"]).read_text(encoding="utf-8").partition("\n")[0]
            found = [cell.strip().strip('"') for cell in first.split("\t" if suffix == ".tsv" else ",")]
            text = next((name for name in ("text", "sentence") if name in found), None)
            if text is None or "label" not in found:
                raise InputError(
                    f"{given['train']} has the columns {', '.join(found)}, and a text and a label are needed; name "
                    f"them text and label in the first line, or write the data section"
                )
            columns = {"format": suffix[1:], "text": text, "label": "label"}
        return {"name": "labelled_text", **given, **columns}
    if task in ("language_modelling", "masked_language_modelling"):
        if "validation" not in given:
            if "test" in given:
                raise InputError("there is a test file and none for validation; give both, or train alone")
            return {"name": "text", "path": given["train"]}
        return {"name": "text", **given}
    raise InputError(f"which files belong to {task} is not clear; write the data section, with its name")


def carry_out(paring: Paring, command: str, log: Log = print) -> Pared:
    """Carry out a recipe in its folder.

    Args:
        command: what the user typed, for the report and for resuming.
    """
    run_folder.import_plugins(paring.plugins)
    subject = begin(paring)
    for note in (*subject.data.notes, *subject.notes):
        log(note)
    with execution.resumable(command):
        return finish(subject, command, log)


def begin(paring: Paring) -> Subject:
    """The model and its data, and the folder claimed; an `InputError` where something does not fit."""
    model, tokenizer, own = opened(paring.model)
    run_folder.import_plugins(own.get("plugins") or [])
    kind = task_of(model, own)
    asked = laid_over(own.get("task"), paring.task)
    limit = savings.readable(model)
    task = validated(Task, {"name": kind, "max_length": min(128, limit), **asked}, "task")
    if MODELS[task.name] is not MODELS[kind]:
        raise InputError(f"{paring.model} is a {type(model).__name__}, which is no model for {task.name}")
    known = METRICS[task.name]
    metric = paring.metric or known[0]
    if metric not in known:
        raise unknown(f"metric for {task.name}", metric, known)
    if task.max_length > limit:
        raise InputError(f"task.max_length {task.max_length} is more than the {limit} positions of the model")
    for spec in paring.candidates:
        registry.mixers.parse(spec, "candidates")
    if not places_of(model):
        raise InputError(f"{paring.model} has no attention that anything could take the place of")
    given = laid_over(own.get("data"), paring.data)
    if not given:
        raise InputError(f"{paring.model} has no recipe.yaml that says what it was trained on; write --data, or data:")
    section = section_for(given, task.name)
    data = loaded(section, task, tokenizer, model)
    paring = paring.model_copy(update={"data": section, "task": task.model_dump(mode="json"), "metric": metric})
    train, searched, note = sides(data, tokenizer, paring)
    data = replace(data, train=train, notes=(*data.notes, note))
    model.to(environment.default_device()).eval()
    savings.check(model, paring.target)
    candidates, notes = enrolled(model, paring)
    subject = Subject(model, data, replace(data, test=searched), metric, digest(model), paring, candidates, notes)
    claim(subject)
    return subject


def opened(source: str) -> tuple[Any, Any, dict[str, Any]]:
    """A model, its tokenizer, and the recipe beside it, if there is one."""
    folder = Path(source).expanduser()
    there = folder / "model" if (folder / "model").is_dir() else folder
    own = run_folder.read_yaml(folder / "recipe.yaml") if (folder / "recipe.yaml").exists() else {}
    if folder.is_dir() and not (there / "config.json").exists():
        run_folder.load_model(folder)  # says what is missing
    if folder.is_dir() and json.loads((there / "config.json").read_text("utf-8")).get("model_type") == "bareformer":
        return (*run_folder.load_model(folder), own)
    where = str(there) if folder.is_dir() else source
    model = surgery.load(where).float()
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where} has no tokenizer: {' '.join(str(error).split())}; put it beside the model"
        ) from error
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"the model in {where} has {model.config.vocab_size:,} tokens and its tokenizer {len(tokenizer):,}; put "
            f"the tokenizer beside it that it was trained with"
        )
    return model, tokenizer, own


def task_of(model: Any, own: Mapping[str, Any]) -> str:
    """What a model does."""
    if (own.get("task") or {}).get("name"):
        return str(own["task"]["name"])
    if model.config.is_encoder_decoder:
        return "translation"
    name = type(model).__name__
    if found := next((task for head, task in HEADS.items() if head in name), None):
        return found
    raise InputError(
        f"a {name} does no task that is known here; load one with a head, such as a ...ForSequenceClassification"
    )


def laid_over(own: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """A section of the model's own recipe with what `given` says instead; all of `given` where it is about another."""
    same = own is not None and given.get("name", own.get("name")) == own.get("name")
    return {**own, **given} if own and same else dict(given)


def loaded(section: dict[str, Any], task: Task, tokenizer: Any, model: Any) -> TaskData:
    """The data, with classes in the order in which the model knows them."""
    _, source = registry.sources.parse(section, "data")
    corpus = source.load()
    if task.name == "classification" and corpus.kind == "labelled":
        known = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
        found = corpus.labels or tuple(dict.fromkeys(item.label for item in corpus.train))
        if set(found) != set(known):
            raise InputError(
                f"the model knows the classes {', '.join(known)}, and the data has {', '.join(sorted(found))}; name "
                f"them alike, as with label_names: [{', '.join(known)}]"
            )
        corpus = replace(corpus, labels=known)
    return prepare(
        corpus,
        task.name,
        task.vocab_size,
        task.max_length,
        task.too_long,
        tokenizer=tokenizer,
        mask_share=task.mask_share,
    )


def sides(data: TaskData, tokenizer: Any, paring: Paring) -> tuple[Examples, Examples, str]:
    """What is trained on, what the search looks at, and a sentence about both."""
    sizes, most = bytes_per_token(tokenizer), paring.search.examples
    if len(data.test):
        count = min(len(data.validation), most or len(data.validation))
        found = part(data.validation, 0, count, sizes)
        return data.train, found, f"The search looks at {count:,} validation examples; the test side verifies."
    size = max(1, round(paring.search.share * len(data.train)))
    if size >= len(data.train):
        raise InputError("there is no training data left beside what the search looks at; give more text")
    stop = len(data.train) - size
    count = min(size, most or size)
    said = f"The search looks at {count:,} of the last {size:,} training examples, which nothing is trained on; the "
    return (
        part(data.train, 0, stop, sizes),
        part(data.train, stop, stop + count, sizes),
        f"{said}validation side verifies.",
    )


def digest(model: Any) -> str:
    """Of the weights of a model, so that those of another are not taken for them."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


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
    candidates = subject.candidates
    first = measured(subject, "original", model, "as it was trained", log)
    teach(subject, candidates, log)
    saves, shares = saved_by(subject, candidates, log)
    trace = searched(subject, candidates, saves, log)
    before = first.quality[subject.metric].value
    pared, trials = verified(subject, candidates, trace, before, log)
    taken = trials[-1].steps if trials else 0
    final = {str(place): name for place, name in chosen(candidates, trace.after(taken)).items()}
    remark = ended(trace, trials, taken, subject)
    log(remark)
    run_folder.save_model(folder / "model", pared, data, Spent())
    second = measured(subject, "pared", pared, written(final, trace), log)
    timed(subject, {"original": (model, first), "pared": (pared, second)}, log)
    study = ParingStudy(
        metric=subject.metric,
        target=paring.target,
        max_drop=paring.max_drop,
        original=trace.original,
        attention={f"batch of {rows}": share for rows, share in shares.items()},
        alone=trace.alone,
        savings=trace.savings,
        steps=[Tried(**asdict(step)) for step in trace.steps],
        trials=trials,
        final=final,
        remark=remark,
        settings=data.notes[-1],
    )
    study.save(folder / "trace.json")
    comparison = aggregate(
        [first, second],
        name=paring.name,
        command=command,
        baseline="original",
        headline=subject.metric,
        description=paring.description or f"{paring.model}, pared down: {remark}",
        environment=environment.describe(paring.training.precision),
        recipe=paring.model_dump(mode="json"),
        notes=[*data.notes, *subject.notes],
    )
    comparison.save(folder / "result.json")
    write_csv(comparison, folder / "results.csv")
    html.build(folder)
    return Pared(pared, data.tokenizer, study, comparison, folder)


def enrolled(model: Any, paring: Paring) -> tuple[Candidates, list[str]]:
    """The candidates of every place, and sentences about places that some do not fit into."""
    wanted, notes = [], []
    names = [named(spec) for spec in paring.candidates]
    if len(set(names)) < len(names):
        raise InputError("candidates name a mixer twice; name it once")
    for spec, name in zip(paring.candidates, names, strict=True):
        fitting, refused = [], dict[str, list[Place]]()
        for place in places_of(model):
            try:
                surgery.planned(model, spec, place.layer, place.role)
                fitting.append((place, spec))
            except InputError as error:
                refused.setdefault(str(error), []).append(place)
        if not fitting:
            raise InputError(f"candidate {name} fits nowhere: {next(iter(refused))}")
        notes += [f"{name} is no candidate for {len(each)} places: {said}." for said, each in refused.items()]
        wanted += fitting
    wanted.sort(key=lambda each: places_of(model).index(each[0]))
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


def teach(subject: Subject, candidates: Candidates, log: Log) -> None:
    """Train all candidates at once, unless that was done before."""
    folder, paring = subject.folder / "lessons" / f"seed{subject.seed}", subject.paring
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


def saved_by(
    subject: Subject, candidates: Candidates, log: Log
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What candidates save by place and name, and the share of attention in the forward pass; measured once."""
    file, target = subject.folder / "savings.json", subject.paring.target
    if not file.exists():
        log(f"measuring what {len(candidates.students)} candidates save ({target})")
        found, shares = savings.measure(candidates, target, max(subject.paring.evaluation.speed_rounds, 1))
        by_place = {str(place): values for place, values in found.items()}
        write_whole(file, json.dumps({"savings": by_place, "attention": shares}, indent=1) + "\n")
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return known["savings"], known["attention"]
    except (ValueError, KeyError) as error:
        raise InputError(f"{file} is damaged: {error}; remove it, and it is measured again") from error


def searched(subject: Subject, candidates: Candidates, saves: dict[str, dict[str, float]], log: Log) -> Trace:
    """Find what to replace, on the part that is for this."""
    paring, examples = subject.paring, subject.searched.test

    def quality(assignment: Assignment) -> float:
        replaced = candidates.install_all(chosen(candidates, assignment))
        try:
            return subject.score(subject.model, subject.searched, beams=1, max_sentences=None)
        finally:
            surgery.put_back(subject.model, replaced)

    noise = paring.search.noise
    if noise is None:
        noise = 100 / len(examples) if subject.metric == "accuracy" else paring.max_drop / 100
    places: dict[str, list[str]] = {}
    for place, name in candidates.students:
        places.setdefault(str(place), []).append(name)
    return search(
        places,
        quality,
        lambda place, name: saves[place][name],
        paring.max_drop,
        noise=noise,
        drop=subject.drop,
        file=subject.folder / "scores.json",
        log=log,
    )


def verified(
    subject: Subject, candidates: Candidates, trace: Trace, before: float, log: Log
) -> tuple[Any, list[Trial]]:
    """The model with as many of the accepted steps as the held-out side allows, and what was tried for that.

    Args:
        before: the metric of the original on the held-out side.
    """
    trials: list[Trial] = []
    for count in range(len(trace.accepted), 0, -1):
        folder = subject.folder / "tuned" / str(count)
        model = tuned(subject, candidates, trace.after(count), folder, log)
        done = folder / "trial.json"
        if not done.exists():
            now = subject.score(model, subject.data)
            found = Trial(steps=count, quality=now, drop=subject.drop(before, now))
            write_whole(done, found.model_dump_json() + "\n")
        trials.append(Trial.model_validate_json(done.read_bytes()))
        fits = trials[-1].drop <= subject.paring.max_drop + 1e-9
        log(f"verified with {count} steps: drop {trials[-1].drop:.4g}" + ("" if fits else "; the last is undone"))
        if fits:
            return model, trials
    return subject.model, [*trials, Trial(steps=0, quality=before, drop=0.0)] if trials else []


def tuned(subject: Subject, candidates: Candidates, assignment: Assignment, folder: Path, log: Log) -> Any:
    """A copy of the model with replacements, fine-tuned whole where the recipe says so; or what its folder has."""
    settings, there = subject.paring.finetune, folder / "model"
    if (there / Ledger.FILE).exists():
        model, *_ = opened(str(there))
        return model.to(subject.model.device).eval()
    replaced = candidates.install_all(chosen(candidates, assignment))
    model = copy.deepcopy(subject.model).requires_grad_(True)
    surgery.put_back(subject.model, replaced)
    spent = Spent()
    if settings is not None:
        spent = finetune(subject, model, settings, folder, log)
    run_folder.save_model(there, model, subject.data, spent)
    return model.eval()


def finetune(subject: Subject, model: Any, settings: Finetune, folder: Path, log: Log) -> Spent:
    """Train a pared model whole, with a share of what the original predicts."""
    searched = subject.searched
    teacher = subject.model.eval()
    cached = {net: net.config.use_cache for net in (model, teacher) if hasattr(net.config, "use_cache")}
    flags = {parameter: parameter.requires_grad for parameter in teacher.parameters()}

    def validate(net: Any) -> float:
        batches = padded(searched, searched.test, subject.paring.evaluation.batch_tokens)
        return likelihoods.likelihood(net, (batch for _, batch in batches), causal=is_causal(searched)).loss

    objective = OpenImitation(
        teacher, is_causal(searched), settings.logits, settings.temperature, settings.label_smoothing
    )
    if settings.only_replaced:
        names = [f"{path}." for path in paths_of(model)]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(tuple(names)))
    try:
        for net in cached:
            net.config.use_cache = False
        teacher.requires_grad_(False)
        trainer = trainer_of(subject, model, settings, folder, f"fine-tuning {folder.name}", validate, objective)
        execution.learn(trainer, subject.data, log)
    except Diverged as error:
        raise InputError(f"{error}; write a smaller finetune.learning_rate, and remove {subject.folder}") from error
    finally:
        for net, cache in cached.items():
            net.config.use_cache = cache
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
    model.requires_grad_(True)
    run_folder.save_model(folder / "model", model, subject.data, trainer.ledger.spent)
    trainer.remove_checkpoints()
    return trainer.ledger.spent


def paths_of(model: Any) -> list[str]:
    """Where mixers of ours are in a model."""
    insides = surgery.insides_of(model)
    mixers = [insides.mixer_at(insides.places(model)[place.role], place.layer) for place in places_of(model)]
    return [name for name, module in model.named_modules() if any(module is mixer for mixer in mixers)]


def measured(subject: Subject, variant: str, model: Any, description: str, log: Log) -> RunResult:
    """A model on the held-out side, with what it costs; from its folder where that was done."""
    folder = subject.folder / variant / f"seed{subject.seed}"
    done = folder / "result.json"
    if done.exists():
        return RunResult.load(done)
    data, settings = subject.data, subject.paring.evaluation.model_dump(mode="json")
    log(f"{variant}: evaluating")
    folder.mkdir(parents=True, exist_ok=True)
    result = RunResult(variant=variant, seed=subject.seed, description=description)
    result.quality, result.signature, outputs, remarks = evaluate(model, data, settings)
    for remark in remarks:
        log(remark)
    write_samples(folder, outputs, data)
    np.savez_compressed(folder / "maps.npz", **drawn(model, data))  # type: ignore[arg-type]
    result.cost = costs(model, min(int(subject.paring.task["max_length"]), savings.readable(model)))
    result.save(done)
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


def drawn(model: Any, data: TaskData) -> dict[str, np.ndarray]:
    """The maps of a validation example of medium length, or of its first tokens."""
    most = ASSESSMENTS[data.task].map_tokens
    lengths = np.minimum(data.validation.lengths, most)
    example = data.validation[int(np.abs(lengths - int(np.median(lengths))).argmin())]
    ids = example["input_ids"][:most]
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None].to(model.device)}
    if not model.config.is_encoder_decoder:
        told = words(data, ids)
        return drawing.maps(model, inputs, {"encoder": told, "decoder": told})
    labels = example["labels"][:most]
    inputs["labels"] = torch.from_numpy(labels.astype(np.int64))[None].to(model.device)
    start = [model.config.decoder_start_token_id, *labels[:-1].tolist()]
    return drawing.maps(model, inputs, {"encoder": words(data, ids), "decoder": words(data, start)})


def timed(subject: Subject, models: Mapping[str, tuple[Any, RunResult]], log: Log) -> None:
    """The latency of both models in turns, into their results."""
    rounds = subject.paring.evaluation.speed_rounds
    key = f"latency_{savings.BATCHES[0]}"
    if not rounds or all(key in result.cost for _, result in models.values()):
        return
    log("timing both models in turns")
    found = savings.whole_latencies({name: model for name, (model, _) in models.items()}, rounds)
    for name, (_, result) in models.items():
        for rows, seconds in found[name].items():
            result.cost[f"latency_{rows}"] = Measure(value=1000 * seconds, unit="ms", better="lower")
        result.save(subject.folder / name / f"seed{subject.seed}" / "result.json")


def written(final: Mapping[str, str], trace: Trace) -> str:
    """What is where, in words."""
    if not final:
        return "nothing replaced"
    counts = {name: sum(each == name for each in final.values()) for name in dict.fromkeys(final.values())}
    said = ", ".join(f"{name} in {count}" for name, count in counts.items())
    return f"{said} of {len(trace.savings)} places, attention in the others"


def ended(trace: Trace, trials: Sequence[Trial], taken: int, subject: Subject) -> str:
    """How it ended, in a sentence."""
    if not trace.accepted:
        return f"{trace.remark} The model is the original."
    final, bound = trace.after(taken), f"{subject.paring.max_drop:g}"
    undone = len(trace.accepted) - taken
    if not final:
        return (
            f"Nothing can be replaced: the search found {len(trace.assignment)} places for a drop of at most {bound}, "
            f"but none held on what verifies. The model is the original."
        )
    said = f"{len(final)} of {len(trace.savings)} places are replaced, for a drop of {trials[-1].drop:.3g}"
    steps = f"{undone} more step{'s' if undone > 1 else ''} of the search"
    more = f"; {steps} did not hold on what verifies" if undone else ""
    return f"{said} (at most {bound}){more}."
