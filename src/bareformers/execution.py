"""Carries out runs and holds them against each other: trained, evaluated, timed, reported.

Each stage leaves its outcome on disk, so that a comparison that was stopped, at whatever point, goes on from there when
the same command is given again, and nothing is trained twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import set_seed

from bareformers.assessment import (
    ASSESSMENTS,
    MODELS,
    draw,
    evaluate,
    headline_of,
    held_out,
    is_causal,
    padded,
    roles_of,
    write_samples,
)
from bareformers.data.tasks import TaskData
from bareformers.errors import Diverged, InputError, Interrupted
from bareformers.measure import cost, environment, quality, speed
from bareformers.models import BareConfig, BareForSequenceClassification
from bareformers.recipe import Budget, Finetune, Start, Study, Task, Training
from bareformers.report import html
from bareformers.report.result import Comparison, Measure, RunResult, aggregate, write_csv
from bareformers.run_folder import Log, Run, load_model, save_model
from bareformers.training.depth import depths
from bareformers.training.ledger import Spent
from bareformers.training.objectives import CrossEntropy, Objective
from bareformers.training.signal_recorder import SignalRecorder, fixed_batch
from bareformers.training.trainer import BareTrainer, num_frozen, plan_of
from bareformers.variants import describe

DECODED_TOKENS = 32  # a call, when decoding is timed
TIMED_BATCHES = 3  # a call, when training is timed

Maker = Callable[[Run, TaskData, Log], dict[str, Any]]
"""Leaves the model of a run in its folder, and returns its budget."""


@dataclass(frozen=True, eq=False)
class Job:
    """A run that is to be carried out.

    Attributes:
        data: what it reads.
        make: leaves the model in its folder and says what that took.
    """

    run: Run
    data: TaskData
    make: Maker


Carrier = Callable[[Sequence[Job], Log], None]
"""Carries out jobs, as far as that is not done: `one_by_one`, or on many machines."""


@contextmanager
def resumable(command: str) -> Iterator[None]:
    """What stops inside says how to go on."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted(f"{str(stopped) or 'stopped'}; resume with: {command}") from None


def carry_out(each: Run, data: TaskData, log: Log, make: Maker) -> None:
    """Train and evaluate one run, as far as that is not done; its `result.json` comes last.

    Args:
        make: leaves the model in the run's folder and says what that took.
    """
    if each.result_file.exists():
        RunResult.load(each.result_file)
        log(f"{each.label}: finished before")
        return
    note, settings = each.begin(log), each.recipe["evaluation"]
    result = RunResult(variant=each.variant, seed=each.seed, floor=each.floor, description=describe(each.config))
    try:
        result.budget = make(each, data, note)
    except Diverged as error:
        note(f"{error}; it counts as diverged, and the others go on")
        result.status, result.quality = "diverged", {headline_of(data, settings): Measure(value=math.nan)}
        result.save(each.result_file)
        return
    model, _ = load_model(each.folder)
    model.to(environment.default_device())
    result.quality, result.signature, outputs, remarks = evaluate(model, data, settings)
    for remark in remarks:
        note(remark)
    write_samples(each.folder, outputs, data)
    np.savez_compressed(each.folder / "maps.npz", **draw(model, data))  # type: ignore[arg-type]
    result.cost = measure_cost(model, each, data)
    result.save(each.result_file)
    note(", ".join(f"{name} {measure.value:.4g}" for name, measure in result.quality.items()))


def one_by_one(jobs: Sequence[Job], log: Log) -> None:
    """Carry out jobs in their order, in this process."""
    for job in jobs:
        carry_out(job.run, job.data, log, job.make)


def fit(each: Run, model: Any, data: TaskData, note: Log, objective: Objective | None = None) -> None:
    """Train `model` as a run says, and save it in the run's folder."""

    def validate(model: Any) -> float:
        batches = padded(data, data.validation, each.recipe["evaluation"]["batch_tokens"])
        return quality.likelihood(model, (batch for _, batch in batches), causal=is_causal(data)).loss

    trainer = trainer_of(each, model, data, validate, objective)
    trainer.add_callback(SignalRecorder(trainer, fixed_batch(data.validation, data.collate), each.folder))
    learn(trainer, data, note)
    save_model(each.folder / "model", model, data, trainer.ledger.spent)
    trainer.remove_checkpoints()


def trainer_of(
    each: Run, model: Any, data: TaskData, validate: Callable[[Any], float], objective: Objective | None
) -> BareTrainer:
    """What trains `model` as a run says."""
    return BareTrainer(
        model,
        each.training,
        data.train,
        data.collate,
        is_causal(data),
        validate,
        each.folder,
        each.seed,
        label=each.label,
        objective=objective,
    )


def learn(trainer: BareTrainer, data: TaskData, note: Log) -> None:
    """Train to the end of the budget."""
    trainer.fit()
    spent = trainer.ledger.spent
    counted = f"{spent.tokens:,} {ASSESSMENTS[data.task].counted}"
    note(f"trained on {counted} in {spent.steps:,} steps and {spent.seconds:,.0f} seconds")
    if trainer.num_frozen:
        count = trainer.num_frozen
        note(f"the lowest {count} depths never learnt: unfreezing takes an epoch for each, so give more epochs")


def check_unfreezing(each: Run, data: TaskData) -> None:
    """An `InputError` where the budget is known to end before gradual unfreezing has come to the lowest depth."""
    training = each.training
    if training.unfreezing == "none":
        return
    if data.train.sampling is not None:
        raise InputError(f"{each.label}: unfreezing: gradual counts epochs of one length; write sampling: proportional")
    if training.budget.minutes is not None:
        return
    plan = plan_of(training, data.train, each.seed)
    depth = depths(name for name, _ in hollow(MODELS[data.form], each.config).named_parameters())
    last = math.ceil(len(plan) / training.accumulate) - 1
    if count := num_frozen(plan, depth, last, training.accumulate):
        raise InputError(
            f"{each.label}: unfreezing: gradual takes an epoch for each of {max(depth.values()) + 1} depths, and a "
            f"budget of {plan.epochs:.3g} epochs ends before the lowest {count} learn; give more than "
            f"{max(depth.values())} epochs, or write unfreezing: none"
        )


def check_scores(training: Training, data: TaskData, where: str) -> None:
    """An `InputError` for a setting that would do nothing, or no good, where scores are told."""
    if not data.has_classes:
        idle = ["label_smoothing"] if training.label_smoothing else []
        idle += ["temperature"] if isinstance(training, Finetune) and training.temperature != 1 else []
        if idle:
            raise InputError(f"{where}.{idle[0]} is about classes, and scores have none; leave it out")
    if data.members and isinstance(training, Finetune) and training.logits:
        raise InputError(
            f"{where}.logits is for one task at a time, and there are {len(data.members)}; write logits: 0"
        )


def budget(training: Training, spent: Spent, data: TaskData) -> dict[str, Any]:
    """What was asked for and what was spent."""
    return {
        "asked": training.budget.model_dump(exclude_none=True),
        "tokens": spent.tokens,
        "steps": spent.steps,
        "seconds": round(spent.seconds, 1),
        "epochs": round(spent.tokens / int(data.train.label_tokens.sum()), 3),
    }


def hollow(cls: type[Any], config: BareConfig) -> Any:
    """A model whose tensors have shapes and no content, which takes no time and no memory."""
    with torch.device("meta"):
        return cls(config)


def fresh(cls: type[Any], config: Any, seed: int, start: Start | None) -> Any:
    """A model before its first step: initialised by `seed`, or with the weights of the run that it starts from."""
    set_seed(seed)
    model = cls(config)
    if start is not None and start.weights:
        take_weights(model, start.folder)
    return model


def take_weights(model: Any, folder: Path) -> None:
    """Give `model` the weights of a finished run: those of its stack, and of its head where both have the same.

    A classifier's head stays fresh, since classes of one name need not mean the same.
    """
    source, _ = load_model(folder)
    if type(model) is type(source) and not isinstance(model, BareForSequenceClassification):
        model.load_state_dict(source.state_dict())
    else:
        model.stack.load_state_dict(source.stack.state_dict())


def compare(recipe: Study, runs: Sequence[Run], data: TaskData, command: str, log: Log) -> Comparison:
    """Time finished runs, in the order of the recipe, hold them against each other and write the report."""
    if recipe.evaluation.speed_rounds:
        time_variants(runs, data, recipe.evaluation.speed_rounds, log)
    comparison = aggregate(
        [RunResult.load(each.result_file) for each in runs],
        name=recipe.name,
        command=command,
        baseline=recipe.baseline_name,
        headline=headline_of(data, recipe.evaluation.model_dump()),
        description=recipe.description,
        environment=environment.describe(recipe.training.precision),
        recipe=recipe.model_dump(mode="json"),
        notes=data.notes
        if len(data.test)
        else [*data.notes, "There is no test side: all scores are of the validation side."],
    )
    comparison.save(recipe.folder / "result.json")
    write_csv(comparison, recipe.folder / "results.csv")
    html.build(recipe.folder)
    return comparison


def measure_cost(model: Any, each: Run, data: TaskData) -> dict[str, Measure]:
    """Parameters, decoding state (of models that decode) and peak memory of a training step, measured."""
    device = model.device
    batch = timed_batches(each.training, data)[0]

    def step() -> None:
        training_step(model, batch, each.training, device)

    model.train()
    peak = cost.peak_bytes(step, device)
    model.zero_grad()
    parameters = cost.num_parameters(model)
    bare = parameters - cost.num_embedding_parameters(model)
    found = {
        "parameters": Measure(value=parameters, better="lower"),
        "parameters_without_embeddings": Measure(value=bare, better="lower"),
    }
    if data.images is None:
        length = min(Task(**each.recipe["task"]).positions, model.config.max_position_embeddings)
        names = ("input_ids", "decoder_input_ids") if model.config.is_encoder_decoder else ("input_ids",)
        inputs = {name: torch.ones(1, length, dtype=torch.long, device=device) for name in names}
    else:
        inputs = {"pixel_values": batch["pixel_values"][:1].to(device)}
    found["multiply_adds"] = Measure(value=cost.multiply_adds(model, inputs), better="lower")
    if model.can_generate():
        found["state_bytes"] = Measure(value=cost.state_bytes(model, inputs), unit="bytes", better="lower")
    return {**found, "peak_memory": Measure(value=peak, unit="bytes", better="lower")}


def timed_batches(training: Training, data: TaskData) -> list[dict[str, Tensor]]:
    """The first training batches of seed 0, the same for every variant."""
    plan = plan_of(training.model_copy(update={"budget": Budget(steps=TIMED_BATCHES), "accumulate": 1}), data.train, 0)
    return [data.collate([data.train[index] for index in indices]) for indices in plan]


def training_step(model: Any, batch: dict[str, Tensor], training: Training, device: torch.device) -> None:
    """Forward and backward of one batch, in the precision that training uses."""
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=environment.uses_bf16(training.precision, device)):
        loss = CrossEntropy(training.label_smoothing)(model, inputs)
    loss.backward()


def time_variants(runs: Sequence[Run], data: TaskData, rounds: int, log: Log) -> None:
    """Speed of training, and of decoding where models do, of all variants in turns, into the results of first seeds."""
    results = {each: RunResult.load(each.result_file) for each in {run.variant: run for run in reversed(runs)}.values()}
    results = {each: result for each, result in results.items() if result.status == "finished"}
    task = ASSESSMENTS[data.task]
    decodes = "decoder" in roles_of(MODELS[data.form])
    measures = ["train_tokens_per_second", *(["decode_tokens_per_second"] if decodes else [])]
    if all(measures[-1] in result.speed for result in results.values()):
        return
    log(f"timing {len(results)} variants in turns")
    device = environment.default_device()
    models = {each: load_model(each.folder)[0].to(device) for each in results}
    optimizers = {each: torch.optim.AdamW(model.parameters(), lr=1e-6) for each, model in models.items()}
    batches = timed_batches(runs[0].training, data)
    num_tokens = sum(quality.num_predicted(batch["labels"], is_causal(data)) for batch in batches)

    def take_steps(each: Run) -> None:
        model = models[each].train()
        for batch in batches:
            training_step(model, batch, each.training, device)
            torch.nn.utils.clip_grad_norm_(model.parameters(), each.training.clip or math.inf)
            optimizers[each].step()
            optimizers[each].zero_grad()

    limit = min(each.config.max_position_embeddings for each in results)
    new_tokens = min(DECODED_TOKENS, limit // 2)

    def decode(each: Run) -> None:
        prompt = torch.from_numpy(held_out(data)[0]["input_ids"][:new_tokens].astype(np.int64))
        inputs = prompt[None].to(device)
        models[each].eval().generate(inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)

    calls = ((num_tokens, task.counted, take_steps), (new_tokens, "tokens", decode))
    for key, (count, counted, call) in zip(measures, calls, strict=False):
        timings = speed.interleaved({each.label: partial(call, each) for each in results}, rounds)
        for each, result in results.items():
            value = round(count / timings[each.label].seconds, 1)
            result.speed[key] = Measure(value=value, unit=f"{counted}/s", better="higher")
    for each, result in results.items():
        result.save(each.result_file)
