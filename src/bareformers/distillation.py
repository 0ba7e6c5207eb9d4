"""Carries out a distillation: students take over parts of a trained teacher, and are measured beside it.

All lessons of a seed are learnt at once, in `lessons/seed<k>` of the recipe's folder. Every student then becomes a run
like any other, with what it has not learnt from the teacher; the teacher is the run that they are held against.
"""

from __future__ import annotations

import copy
import gc
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from bareformers import execution, pretrained, registry, run_folder
from bareformers.assessment import (
    MODELS,
    check_members,
    check_outputs,
    headline_of,
    is_causal,
    mixers_of,
    needs_texts,
    padded,
    scores_of,
)
from bareformers.data.examples import IGNORED
from bareformers.data.tasks import TaskData
from bareformers.errors import Diverged, InputError, unknown
from bareformers.measure import cost, environment
from bareformers.mixers.joint import Joint
from bareformers.models import BareConfig
from bareformers.recipe import Distillation, Task, validated
from bareformers.report.layers import LayerStudy, Order, Replaced, Role
from bareformers.report.result import Comparison, Measure, RunResult, write_whole
from bareformers.run_folder import Log, Run
from bareformers.training.distill import Grade, Lesson, Lessons, can_match, examine
from bareformers.training.ledger import Ledger, Spent, save, saved
from bareformers.training.objectives import Imitated, Imitation
from bareformers.variants import used_roles


class Part(NamedTuple):
    """A mixer in the place of one of the teacher's: what one lesson is about."""

    role: str
    layer: int
    spec: str  # as JSON

    @property
    def path(self) -> str:
        """Where the mixer is in a model."""
        stack = "encoder" if self.role == "encoder" else "decoder"
        return f"{stack}.blocks.{self.layer}.{'cross_mixer' if self.role == 'cross' else 'mixer'}"


Taught = dict[Part, dict[str, Tensor]]
"""The tensors of the mixers that have learnt their lessons."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained model, what it was trained on and what that took, and the sections of recipes that students share."""

    model: Any
    data: TaskData
    sections: dict[str, Any]
    spent: Spent
    budget: dict[str, Any]

    @property
    def roles(self) -> tuple[str, ...]:
        return used_roles(self.model.config)


@dataclass(frozen=True, eq=False)
class Student:
    """A model that has mixers of its own in some places of the teacher's."""

    name: str
    given: dict[str, Any]  # by the recipe
    config: BareConfig
    size: int  # parameters
    parts: dict[Part, int]  # with the parameters of each
    has_map: bool  # that can learn from one of the teacher's

    @property
    def floor(self) -> bool:
        """Whether all its parts are floors."""
        return all(registry.mixers.get(json.loads(part.spec)["name"]).floor for part in self.parts)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done with one seed: the lessons, by parts, and then the students."""

    lessons: Run
    parts: list[Part]
    students: dict[Student, Run]


class Row(NamedTuple):
    """Parts that are put into the teacher together, to see what is left of it."""

    student: str
    role: Role
    order: Order
    parts: list[Part]


def distill(recipe: Distillation, command: str, log: Log = print) -> Comparison:
    """Carry out `recipe` in its folder, and return what was measured.

    Args:
        command: what the user typed, for the report and for resuming.
        log: takes sentences about what is going on.
    """
    run_folder.import_plugins(recipe.plugins)
    teacher = load_teacher(recipe)
    data = teacher.data
    for note in data.notes:
        log(note)
    students = [enrol(name, given, teacher) for name, given in recipe.students.items()]
    if recipe.match_maps and not any(student.has_map for student in students):
        raise InputError("match_maps would do nothing: no student learns a map where the teacher has one; leave it out")
    first, plans = planned(recipe, teacher, students)
    runs = [first, *(each for plan in plans for each in plan.students.values())]
    run_folder.claim(recipe, {"teacher": recipe.teacher}, [*(plan.lessons for plan in plans), *runs])
    rows = [row for student in students for row in rows_of(student, recipe.orders)]
    with execution.resumable(command):
        execution.carry_out(first, data, log, partial(copied, teacher))
        graded = [carry_out(plan, recipe, teacher, rows, log) for plan in plans]
        there = recipe.folder / "layers.json"
        if rows:
            study(teacher, rows, graded).save(there)
        else:
            there.unlink(missing_ok=True)
        return execution.compare(recipe, runs, data, command, log)


def load_teacher(recipe: Distillation) -> Teacher:
    """The teacher of a recipe, frozen, and its data; an `InputError` where the two do not go together."""
    folder = Path(recipe.teacher).expanduser()
    model, tokenizer = run_folder.load_model(folder)
    if not isinstance(model.config, BareConfig):
        raise InputError(
            f"the teacher in {folder} is a {type(model).__name__}, and students take over parts of models of "
            f"bareformers only; train one with `bareformers run`"
        )
    if any(isinstance(module, Joint) for module in model.modules()):
        raise InputError(
            f"the teacher in {folder} has a block that multiplies with one matrix for several parts, of which none "
            f"can be taken over; train one with block: pre_ln or post_ln"
        )
    there = folder / "recipe.yaml"
    own = run_folder.read_yaml(there) if there.exists() else {}
    source = pretrained.laid_over(own.get("data"), recipe.data)
    asked = pretrained.laid_over(own.get("task"), recipe.task)
    if not (source and asked):
        missing = "task" if source else "data"
        raise InputError(
            f"{folder} has no recipe.yaml that says what it was trained on; write {missing}: in the recipe"
        )
    task = validated(Task, asked, "task")
    recipe.evaluation.check(task)
    if MODELS[task.form] is not type(model):
        raise InputError(f"the teacher in {folder} is a {type(model).__name__}, which is no model for {task.said}")
    if tokenizer is not None and len(tokenizer) != model.config.vocab_size:
        raise InputError(
            f"the teacher in {folder} has {model.config.vocab_size:,} tokens and its tokenizer {len(tokenizer):,}; "
            f"put the tokenizer into its folder that it was trained with"
        )
    if tokenizer is not None and task.positions > (limit := model.config.max_position_embeddings):
        raise InputError(
            f"task.max_length {task.max_length} needs {task.positions} positions, and the teacher has {limit}"
        )
    source = pretrained.section_for(source, task.name)
    data = run_folder.load_data(source, task, tokenizer)
    if data.labels or data.scale is not None or data.members:
        check_outputs(model, data)
    check_members(data, recipe.evaluation.model_dump())
    if recipe.finetune is not None:
        execution.check_scores(recipe.finetune, data, "finetune")
    weights = sorted(folder.glob("model/*.safetensors")) or sorted(folder.glob("*.safetensors"))
    said = "Pixels are normalised as the teacher does."
    if tokenizer is not None:
        said = f"The tokenizer, of {len(tokenizer):,} tokens, is the teacher's; vocab_size is not read."
    sections = {
        "plugins": list(dict.fromkeys([*(own.get("plugins") or []), *recipe.plugins])),
        "teacher": recipe.teacher,
        "teacher_weights": run_folder.digest(file.read_bytes() for file in weights),
        "data": source,
        "task": task.model_dump(mode="json"),
    }
    frozen: Any = model.requires_grad_(False)
    spent = saved(folder / "model") if (folder / "model" / Ledger.FILE).exists() else Spent()
    done = folder / "result.json"
    return Teacher(
        frozen.to(environment.default_device()),
        replace(data, notes=(*data.notes, said)),
        sections,
        spent,
        RunResult.load(done).budget if done.exists() else {},
    )


def enrol(name: str, given: dict[str, Any], teacher: Teacher) -> Student:
    """The student that a recipe describes; an `InputError` where it does not fit into the teacher."""
    keys = [f"{role}_mixer" for role in teacher.roles]
    for key in given:
        if key not in keys:
            raise unknown(f"key of student {name!r}", key, keys)
    given = {key: spec for key, spec in given.items() if spec is not None}
    if not given:
        raise InputError(f"student {name!r} takes nothing over; write one of {', '.join(keys)}")
    try:
        config = BareConfig.from_dict({**teacher.model.config.to_dict(), **given})
        model = execution.hollow(type(teacher.model), config)
        places = [Part(role, layer, "") for role in teacher.roles for layer in range(config.num_layers(role))]
        parts = [
            place._replace(spec=json.dumps(config.mixer_spec(place.role, place.layer), sort_keys=True))
            for place in places
            if f"{place.role}_mixer" in given
        ]
        check_fit(teacher.model, model, parts)
    except InputError as error:
        raise InputError(f"student {name!r}: {error}") from None
    taught, own = mixers(teacher.model), mixers(model)
    return Student(
        name,
        given,
        config,
        cost.num_parameters(model),
        {part: cost.num_parameters(own[part.path]) for part in parts},
        any(can_match(taught[part.path], own[part.path]) for part in parts),
    )


def check_fit(teacher: Any, model: Any, parts: Sequence[Part]) -> None:
    """An `InputError` where there is nothing to learn from, or no one to learn, or more to learn than mixers."""
    taught, own = mixers(teacher), mixers(model)
    for part in parts:
        path, role, layer = part.path, part.role, part.layer
        if path not in own:
            raise InputError(f"nothing is learnt by none ({role}_mixer of layer {layer}); write average")
        if path not in taught or taught[path].part not in ("mixer", "head"):
            raise InputError(f"layer {layer} of the teacher has no {role} mixer that could be taken over")
    inside, known = tuple(f"{part.path}." for part in parts), common(teacher, model)
    for name in model.state_dict():
        if not name.startswith(inside) and name not in known:
            raise InputError(f"it needs {name}, which the teacher does not have; write other mixers")


def mixers(model: Any) -> dict[str, Any]:
    """The mixers of a model by where they are."""
    return {Part(role, layer, "").path: mixer for role, layer, mixer in mixers_of(model)}


def planned(recipe: Distillation, teacher: Teacher, students: Sequence[Student]) -> tuple[Run, list[Plan]]:
    """The teacher as one of the variants, and what is to be done with each seed."""
    dumped = recipe.model_dump(mode="json")
    parts = {part: size for student in students for part, size in student.parts.items()}
    floors = {student.name for student in students if student.floor}

    def run(variant: str, seed: int, config: BareConfig, size: int, *sections: str, **more: Any) -> Run:
        own = {**teacher.sections, **{name: dumped[name] for name in sections}, **more}
        folder = recipe.folder / variant / f"seed{seed}"
        own = {"variant": variant, "seed": seed, **own}
        return Run(variant, seed, folder, config, size, recipe.training, None, own, floor=variant in floors)

    def plan(seed: int) -> Plan:
        learnt = ("training", "match_maps")
        lessons = run("lessons", seed, teacher.model.config, sum(parts.values()), *learnt, "students")
        runs = {
            each: run(each.name, seed, each.config, each.size, *learnt, "finetune", "evaluation", model=each.given)
            for each in students
        }
        return Plan(replace(lessons, outcome="lessons.json"), list(parts), runs)

    first = run("teacher", recipe.seeds[0], teacher.model.config, cost.num_parameters(teacher.model), "evaluation")
    return first, [plan(seed) for seed in recipe.seeds]


def carry_out(
    plan: Plan, recipe: Distillation, teacher: Teacher, rows: Sequence[Row], log: Log
) -> list[dict[str, Measure]]:
    """Do what one seed asks for, as far as it is not done; returns the quality of each row of the study of layers."""
    data = teacher.data
    taught = teach(plan, recipe, teacher, log)
    spent = saved(plan.lessons.folder)
    for student, each in plan.students.items():
        learnt = {part: taught[part] for part in student.parts}
        execution.carry_out(each, data, log, partial(graduate, recipe, teacher, learnt, spent))
    if not rows:
        return []
    log(f"seed {plan.lessons.seed}: which layers can go")
    scores = Scores(plan.lessons.folder, teacher, taught, recipe.evaluation.model_dump(mode="json"))
    return [scores([]), *(scores(row.parts) for row in rows)]


LEARNT = "lessons.safetensors"


def teach(plan: Plan, recipe: Distillation, teacher: Teacher, log: Log) -> Taught:
    """Train all lessons of a seed at once, unless that was done before; returns what was learnt."""
    each, parts = plan.lessons, plan.parts
    if each.result_file.exists():
        log(f"{each.label}: finished before")
    else:
        learn(plan, recipe, teacher, each.begin(log))
        gc.collect()  # students with gradients and moments, before they are read again
    state = load_file(each.folder / LEARNT)
    prefixes = {part: f"students.{number}." for number, part in enumerate(parts)}
    return {
        part: {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        for part, prefix in prefixes.items()
    }


def learn(plan: Plan, recipe: Distillation, teacher: Teacher, note: Log) -> None:
    """Train all lessons of a seed at once, and leave what was learnt in their folder."""
    each, parts, data = plan.lessons, plan.parts, teacher.data
    roles = {part.role for part in parts}
    lessons = Lessons(
        lessons_of(teacher.model, parts, recipe.match_maps, each.seed), partial(read, teacher.model, roles)
    )
    note(f"{len(parts)} lessons for {len(plan.students)} students; {each.size:,} parameters")

    def graded(net: Any) -> list[Grade]:
        batches = padded(data, data.validation, recipe.evaluation.batch_tokens)
        return examine(net, (batch for _, batch in batches))

    def validate(net: Any) -> float:
        return sum(grade.loss + grade.maps for grade in graded(net))

    def named(found: re.Match[str]) -> str:
        part = parts[int(found[1])]
        return f"{json.loads(part.spec)['name']} ({part.role}, layer {part.layer})"

    trainer = execution.trainer_of(each, lessons, data, validate, Imitated())
    try:
        execution.learn(trainer, data, note)
    except Diverged as error:
        said = re.sub(r"students\.(\d+)", named, str(error))
        advice = f"write a smaller training.learning_rate and output=<another folder>, or remove {recipe.folder}"
        raise InputError(f"{said}; {advice}") from error
    save_model(lessons, str(each.folder / LEARNT))
    save(trainer.ledger.spent, each.folder)
    rows = [
        {"role": part.role, "layer": part.layer, "mixer": json.loads(part.spec), **grade._asdict()}
        for part, grade in zip(parts, graded(lessons), strict=True)
    ]
    write_whole(each.result_file, json.dumps(rows, indent=1) + "\n")
    trainer.remove_checkpoints()


def read(teacher: Any, roles: Collection[str], batch: dict[str, Tensor]) -> None:
    """Run the stacks of a model on a batch, without its head; the decoder only where one of its roles is asked for."""
    if "pixel_values" in batch:
        teacher.stack(inputs_embeds=teacher.embed(batch["pixel_values"]))
        return
    ids, keep = batch["input_ids"], batch.get("attention_mask")
    if not teacher.config.is_encoder_decoder:
        teacher.stack(ids, keep)
        return
    context = teacher.encoder(ids, keep).last_hidden_state
    if set(roles) != {"encoder"}:
        labels = batch["labels"]
        teacher.decoder(teacher.shift_right(labels), labels != IGNORED, context=context, context_mask=keep)


def lessons_of(teacher: Any, parts: Sequence[Part], match_maps: float, seed: int) -> list[Lesson]:
    """A lesson for each part. How a student begins depends on the seed, its role, its layer and itself only."""
    taught, found = mixers(teacher), {}
    for role, spec in dict.fromkeys((part.role, part.spec) for part in parts):
        beginners = mixers(beginner(teacher, role, spec, seed))
        for part in parts:
            if (part.role, part.spec) == (role, spec):
                block = teacher.get_submodule(part.path.rpartition(".")[0])
                found[part] = lesson(block, taught[part.path], beginners[part.path], match_maps)
    return [found[part] for part in parts]


def beginner(teacher: Any, role: str, spec: str, seed: int) -> Any:
    """The teacher with fresh mixers in one role, but for their tensors that the teacher's have too."""
    config = with_parts(teacher.config, [Part(role, layer, spec) for layer in range(teacher.config.num_layers(role))])
    config.attention_dropout = 0.0  # each draw would depend on who else learns
    model = execution.fresh(type(teacher), config, seed, None)
    model.load_state_dict(common(teacher, model), strict=False)
    return model


def lesson(block: Any, mixer: Any, student: Any, match_maps: float) -> Lesson:
    """What `student` learns in `block`, of whose mixer it takes the place."""
    if student.part == "block":
        return Lesson(student, block, mixer, (block, "output"))
    if student.part == "mixer+residual":
        return Lesson(
            student, block, mixer, (block.ffn_norm, "input") if block.norms_inputs else (block.mixer_norm, "output")
        )
    weight = match_maps if can_match(mixer, student) else 0.0
    if not (hasattr(mixer, "output") and hasattr(student, "output")):
        return Lesson(student, block, mixer, (mixer, "output"), weight)
    student.output = nn.Identity()  # the teacher's output projection stays, and both are compared before it
    return Lesson(student, block, mixer, (mixer.output, "input"), weight)


def with_parts(config: BareConfig, parts: Iterable[Part]) -> BareConfig:
    """`config` with other mixers in some places."""
    chosen = {(part.role, part.layer): json.loads(part.spec) for part in parts}
    changes = {
        f"{role}_mixer": [
            chosen.get((role, layer), config.mixer_spec(role, layer)) for layer in range(config.num_layers(role))
        ]
        for role in dict.fromkeys(role for role, _ in chosen)
    }
    return BareConfig.from_dict({**config.to_dict(), **changes})


def common(teacher: Any, model: Any) -> dict[str, Tensor]:
    """The tensors of the teacher that `model` has too, with the same name and shape."""
    own = model.state_dict()
    return {
        name: tensor for name, tensor in teacher.state_dict().items() if name in own and own[name].shape == tensor.shape
    }


def assemble(teacher: Any, config: BareConfig, taught: Mapping[Part, Mapping[str, Tensor]]) -> Any:
    """A student: what it has learnt, and all else from the teacher, with which it shares these tensors."""
    model = execution.hollow(type(teacher), config)
    learnt = {f"{part.path}.{name}": tensor for part, state in taught.items() for name, tensor in state.items()}
    model.load_state_dict(common(teacher, model) | learnt, assign=True)
    model.tie_weights()
    return model.to(teacher.device).eval()


def copied(teacher: Teacher, each: Run, data: TaskData, note: Log) -> dict[str, Any]:
    """Put the teacher beside its students."""
    run_folder.save_model(each.folder / "model", teacher.model, data, teacher.spent)
    return teacher.budget


def graduate(
    recipe: Distillation, teacher: Teacher, taught: Taught, spent: Spent, each: Run, data: TaskData, note: Log
) -> dict[str, Any]:
    """Make a student a model, and train it whole where the recipe says so; returns its budget."""
    tuning = recipe.finetune
    if not run_folder.is_trained(each):
        model = assemble(teacher.model, each.config, taught)
        if tuning is None:
            run_folder.save_model(each.folder / "model", model, data, spent)
        else:
            model = copy.deepcopy(model)
            if tuning.only_replaced:
                own = {f"{part.path}.{name}" for part, state in taught.items() for name in state}
                for name, parameter in model.named_parameters():
                    parameter.requires_grad_(name in own)
            objective = None
            if tuning.logits:
                objective = Imitation(
                    teacher.model, is_causal(data), tuning.logits, tuning.temperature, tuning.label_smoothing
                )
            execution.fit(replace(each, training=tuning), model, data, note, objective)
    found = execution.budget(recipe.training, spent, data)
    if tuning is not None:
        found["finetune"] = execution.budget(tuning, saved(each.folder / "model"), data)
    return found


class Scores:
    """What the teacher can do with some of its mixers replaced by those of one seed; kept in a file.

    Args:
        folder: of the lessons.
        settings: the evaluation section of the recipe; what is written is decoded greedily here, whatever it says.
    """

    def __init__(self, folder: Path, teacher: Teacher, taught: Taught, settings: dict[str, Any]) -> None:
        self.file, self.teacher, self.taught = folder / "scores.json", teacher, taught
        self.settings = {**settings, "beams": 1, "samples": 0}
        self.known = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}

    def __call__(self, parts: Sequence[Part]) -> dict[str, Measure]:
        """The quality that ranks, and the loss."""
        settings = [self.settings[name] for name in ("batch_tokens", "max_sentences", "length_penalty", "headline")]
        key = json.dumps([self.teacher.sections["teacher_weights"], *settings, sorted(parts)])
        if key not in self.known:
            teacher, data = self.teacher.model, self.teacher.data
            model = assemble(teacher, with_parts(teacher.config, parts), {part: self.taught[part] for part in parts})
            names = dict.fromkeys((headline_of(data, self.settings), "loss"))
            found = scores_of(model, data, self.settings, names)
            self.known[key] = {name: measure.model_dump(mode="json") for name, measure in found.items()}
            write_whole(self.file, json.dumps(self.known, indent=1) + "\n")
        return {name: Measure(**given) for name, given in self.known[key].items()}


def rows_of(student: Student, orders: Sequence[Order]) -> Iterator[Row]:
    """The rows of one student: for each of its roles what `orders` ask for and all layers, and then all roles.

    Nothing where `orders` are empty.
    """
    if not orders:
        return
    roles = cast(list[Role], list(dict.fromkeys(part.role for part in student.parts)))
    for role in roles:
        own = [part for part in student.parts if part.role == role]
        sets: dict[Order, list[list[Part]]] = {
            "alone": [[part] for part in own],
            "bottom": [own[: layer + 1] for layer in range(len(own))],
            "top": [own[layer:] for layer in range(len(own))],
        }
        yield from (Row(student.name, role, order, parts) for order in orders for parts in sets[order])
        yield Row(student.name, role, "all", own)
    if len(roles) > 1:
        yield Row(student.name, "all", "all", list(student.parts))


def study(teacher: Teacher, rows: Sequence[Row], graded: Sequence[Sequence[dict[str, Measure]]]) -> LayerStudy:
    """What is left when students replace some layers of the teacher, or all.

    Args:
        graded: for each seed the quality of the teacher, and then of each row.
    """
    (whole, *_), *others = zip(*graded, strict=True)  # the teacher is the same in all seeds
    replaced = [{name: Measure.over_seeds([quality[name] for quality in seeds]) for name in whole} for seeds in others]
    data = teacher.data
    side = "test" if len(data.test) else "validation"
    how = ", decoded greedily" if needs_texts(data, whole) else ""
    return LayerStudy(
        headline=next(iter(whole)),
        settings=f"Scores of the {side} side{how}, of students as they were distilled, before any fine-tuning.",
        teacher=whole,
        depth={role: teacher.model.config.num_layers(role) for role in teacher.roles},
        rows=[
            Replaced(
                student=row.student,
                role=row.role,
                order=row.order,
                layers=sorted({part.layer for part in row.parts}),
                quality=quality,
            )
            for row, quality in zip(rows, replaced, strict=True)
        ],
    )
