"""Carries out a recipe: variants x seeds -> run folders -> results -> report.

Each stage leaves its outcome on disk, so that a comparison that was stopped, at whatever point, goes on from there when
the same command is given again, and nothing is trained twice.
"""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)

from bareformers import registry
from bareformers.assessment import (
    ASSESSMENTS,
    MODELS,
    draw,
    evaluate,
    held_out,
    is_causal,
    padded,
    write_samples,
)
from bareformers.data.batching import BatchPlan
from bareformers.data.tasks import TaskData, prepare
from bareformers.errors import Diverged, InputError, Interrupted
from bareformers.measure import cost, environment, quality, speed
from bareformers.models import BareConfig, BareForSequenceClassification
from bareformers.recipe import Evaluation, Finetune, Recipe, Start, Study, Task, Training, validated
from bareformers.report import html
from bareformers.report.result import Comparison, Measure, RunResult, aggregate, write_csv, write_whole
from bareformers.training.ledger import Ledger, Spent, save, saved
from bareformers.training.objectives import CrossEntropy, Objective
from bareformers.training.signal_recorder import SignalRecorder, fixed_batch
from bareformers.training.trainer import BareTrainer
from bareformers.variants import common_tokenizer, configure, describe, is_floor

DECODED_TOKENS = 32  # a call, when decoding is timed
TIMED_BATCHES = 3  # a call, when training is timed
UNTRAINED = ("variant", "seed", "plugins", "evaluation")  # what a run's recipe says that weights do not depend on

Log = Callable[[str], None]


Maker = Callable[["Run", TaskData, Log], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Run:
    """One variant with one seed, and the folder it lives in."""

    variant: str
    seed: int
    folder: Path
    config: BareConfig
    size: int  # parameters
    training: Training
    start: Start | None
    recipe: dict[str, Any]
    outcome: str = "result.json"  # the file that is written last
    floor: bool = False

    @property
    def label(self) -> str:
        return f"{self.variant} seed {self.seed}"

    @property
    def result_file(self) -> Path:
        return self.folder / self.outcome

    def begin(self, log: Log) -> Log:
        """Write down what it is trained on; returns what takes sentences for `log` and for the run's own."""
        if not is_trained(self):
            described = environment.describe(self.training.precision)
            write_whole(self.folder / "environment.json", json.dumps(described, indent=1) + "\n")

        def note(sentence: str) -> None:
            log(f"{self.label}: {sentence}")
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write(sentence + "\n")

        return note


def run(recipe: Recipe, command: str, log: Log = print) -> Comparison:
    """Carry out `recipe` in its folder, and return what was measured.

    Args:
        command: what the user typed, for the report and for resuming.
        log: takes sentences about what is going on.
    """
    import_plugins(recipe.plugins)
    tokenizer = common_tokenizer(recipe)
    data = load_data(recipe.data, recipe.task, tokenizer)
    if tokenizer is not None:
        size = f"{len(tokenizer):,} tokens"
        said = f"The tokenizer, of {size}, is that of the runs that this starts from; vocab_size is not read."
        data = replace(data, notes=(*data.notes, said))
    for note in data.notes:
        log(note)
    runs = expand(recipe, data)
    dumped = recipe.model_dump(mode="json")
    claim(recipe, {key: dumped[key] for key in ("data", "task", "model", "start_from")}, runs)
    with resumable(command):
        for each in runs:
            carry_out(each, data, log)
        return compare(recipe, runs, data, command, log)


@contextmanager
def resumable(command: str) -> Iterator[None]:
    """What stops inside says how to go on."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted(f"{str(stopped) or 'stopped'}; resume with: {command}") from None


def compare(recipe: Study, runs: Sequence[Run], data: TaskData, command: str, log: Log) -> Comparison:
    """Time finished runs, in the order of the recipe, hold them against each other and write the report."""
    if recipe.evaluation.speed_rounds:
        time_variants(runs, data, recipe.evaluation.speed_rounds, log)
    comparison = aggregate(
        [RunResult.load(each.result_file) for each in runs],
        name=recipe.name,
        command=command,
        baseline=recipe.baseline_name,
        headline=ASSESSMENTS[data.task].headline,
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


def import_plugins(modules: Sequence[str]) -> None:
    """Import the modules that register mixers, blocks and sources of the user's own, from the current folder too."""
    if modules and "" not in sys.path:
        sys.path.insert(0, "")
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"plugin {module!r} cannot be imported: {error}") from error


def load_data(section: dict[str, Any], task: Task, tokenizer: Any = None) -> TaskData:
    """Read the corpus that the data section of a recipe names, and prepare its task."""
    _, source = registry.sources.parse(section, "data")
    return prepare(
        source.load(),
        task.name,
        task.vocab_size,
        task.max_length,
        task.too_long,
        tokenizer=tokenizer,
        mask_share=task.mask_share,
    )


def expand(recipe: Recipe, data: TaskData) -> list[Run]:
    """All runs of a recipe; whatever is wrong with any variant is an `InputError` here, before anything is trained."""
    runs = []
    for variant in recipe.variants:
        training = recipe.training_for(variant)
        sized: dict[Start | None, tuple[BareConfig, int]] = {}
        for seed in recipe.seeds_for(variant):
            start = recipe.start_for(variant, seed)
            if start not in sized:
                config = configure(recipe, variant, data, start)
                try:
                    sized[start] = config, cost.num_parameters(hollow(MODELS[data.task], config))
                except InputError as error:
                    raise InputError(f"variant {variant!r}: {error}") from None
            resolved = {
                "variant": variant,
                "seed": seed,
                "plugins": recipe.plugins,
                "data": recipe.data,
                "task": recipe.task.model_dump(mode="json"),
                "model": recipe.model_for(variant),
                "training": training.model_dump(mode="json"),
                "evaluation": recipe.evaluation.model_dump(mode="json"),
                "start_from": None if start is None else start.model_dump(mode="json"),
            }
            folder = recipe.folder / variant / f"seed{seed}"
            floor = is_floor(sized[start][0])
            runs.append(Run(variant, seed, folder, *sized[start], training, start, resolved, floor=floor))
    return runs


def hollow(cls: type[Any], config: BareConfig) -> Any:
    """A model whose tensors have shapes and no content, which takes no time and no memory."""
    with torch.device("meta"):
        return cls(config)


def claim(recipe: Study, shared: dict[str, Any], runs: Sequence[Run]) -> None:
    """Make the folders, or go on in those that are there; what belongs to another recipe is refused.

    Args:
        shared: the sections of the recipe that all runs have in common.
    """
    refuse_other(recipe.folder, shared, f"write output=<another folder>, another name, or remove {recipe.folder}")
    for each in runs:
        advice = f"write output=<another folder>, or remove {each.folder} to train it again"
        sections = {key: each.recipe[key] for key in each.recipe if key not in UNTRAINED}
        refuse_other(each.folder, sections, advice)
    unfinished = [each for each in runs if not each.result_file.exists()]
    # A model in float32 for each run; while one trains, checkpoints with two moments beside each weight.
    kept = [4 * each.size for each in unfinished]
    needed = sum(kept) + max(
        (12 * each.size * (each.training.average_checkpoints + 2) for each in unfinished), default=0
    )
    recipe.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(recipe.folder).free
    if free < needed:
        raise InputError(
            f"{recipe.folder} has {free / 1e6:,.0f} MB free and this comparison may need {needed / 1e6:,.0f} MB; "
            f"free some, or write output=<a folder elsewhere>"
        )
    write_whole(recipe.folder / "recipe.yaml", recipe.dump())
    for each in runs:
        settings = each.recipe.get("evaluation")
        if each.result_file.exists() and read_yaml(each.folder / "recipe.yaml").get("evaluation") != settings:
            each.result_file.unlink()  # trained already, but to be evaluated in another way
        write_whole(each.folder / "recipe.yaml", yaml.safe_dump(each.recipe, sort_keys=False, allow_unicode=True))


def refuse_other(folder: Path, expected: dict[str, Any], advice: str) -> None:
    """An `InputError` where `folder` holds something else than what a recipe with these sections would write."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; {advice}")
    there = folder / "recipe.yaml"
    if not there.exists():
        if folder.is_dir() and any(path.is_file() for path in folder.iterdir()):
            raise InputError(f"{folder} holds files of something else; {advice}")
        return
    found = read_yaml(there)
    for section, wanted in expected.items():
        if key := first_difference(with_defaults(section, found.get(section)), wanted, section):
            raise InputError(f"{folder} belongs to another recipe: {key} differs; {advice}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping that we wrote; a damaged file is an `InputError`."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged: it holds no recipe")
    return found


def with_defaults(section: str, found: Any) -> Any:
    """A section as a folder holds it; keys that are newer than the folder have their defaults."""
    known: dict[str, type[BaseModel]] = {"task": Task, "training": Training, "finetune": Finetune}
    cls = known.get(section)
    if cls is None or not isinstance(found, dict):
        return found
    return {**{name: field.default for name, field in cls.model_fields.items() if not field.is_required()}, **found}


def first_difference(one: Any, other: Any, path: str) -> str | None:
    """Where two resolved recipes differ, as a dotted key."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in one or key not in other:
                return f"{path}.{key}"
            if found := first_difference(one[key], other[key], f"{path}.{key}"):
                return found
        return None
    return None if json.dumps(one, default=str) == json.dumps(other, default=str) else path


def carry_out(each: Run, data: TaskData, log: Log, make: Maker | None = None) -> None:
    """Train and evaluate one run, as far as that is not done; its `result.json` comes last.

    Args:
        make: leaves the model in the run's folder and says what that took; `train` by default.
    """
    if each.result_file.exists():
        RunResult.load(each.result_file)
        log(f"{each.label}: finished before")
        return
    note = each.begin(log)
    result = RunResult(variant=each.variant, seed=each.seed, floor=each.floor, description=describe(each.config))
    try:
        result.budget = (make or train)(each, data, note)
    except Diverged as error:
        note(f"{error}; it counts as diverged, and the others go on")
        result.status, result.quality = "diverged", {ASSESSMENTS[data.task].headline: Measure(value=math.nan)}
        result.save(each.result_file)
        return
    model, _ = load_model(each.folder)
    model.to(environment.default_device())
    result.quality, result.signature, outputs, remarks = evaluate(model, data, each.recipe["evaluation"])
    for remark in remarks:
        note(remark)
    write_samples(each.folder, outputs, data)
    np.savez_compressed(each.folder / "maps.npz", **draw(model, data))  # type: ignore[arg-type]
    result.cost = measure_cost(model, each, data)
    result.save(each.result_file)
    note(", ".join(f"{name} {measure.value:.4g}" for name, measure in result.quality.items()))


def train(each: Run, data: TaskData, note: Log) -> dict[str, Any]:
    """Train one run and save its model, unless that was done before; returns its budget."""
    if not is_trained(each):
        model = fresh(MODELS[data.task], each.config, each.seed, each.start)
        origin = f"; weights of {each.start.run}" if each.start is not None and each.start.weights else ""
        note(f"{describe(each.config)}; {each.size:,} parameters{origin}")
        fit(each, model, data, note)
    return budget(each.training, saved(each.folder / "model"), data)


def is_trained(each: Run) -> bool:
    """Whether the model of a run is there, whole."""
    return (each.folder / "model" / Ledger.FILE).exists()


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


def save_model(folder: Path, model: Any, data: TaskData, spent: Spent) -> None:
    """A trained model with its tokenizer and, last, what it took."""
    model.save_pretrained(folder)
    data.tokenizer.save_pretrained(folder)
    save(spent, folder)


def budget(training: Training, spent: Spent, data: TaskData) -> dict[str, Any]:
    """What was asked for and what was spent."""
    return {
        "asked": training.budget.model_dump(exclude_none=True),
        "tokens": spent.tokens,
        "steps": spent.steps,
        "seconds": round(spent.seconds, 1),
        "epochs": round(spent.tokens / int(data.train.label_tokens.sum()), 3),
    }


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
    length = min(each.recipe["task"]["max_length"], model.config.max_position_embeddings)
    names = ("input_ids", "decoder_input_ids") if model.config.is_encoder_decoder else ("input_ids",)
    inputs = {name: torch.ones(1, length, dtype=torch.long, device=device) for name in names}
    found["multiply_adds"] = Measure(value=cost.multiply_adds(model, inputs), better="lower")
    if model.can_generate():
        found["state_bytes"] = Measure(value=cost.state_bytes(model, inputs), unit="bytes", better="lower")
    return {**found, "peak_memory": Measure(value=peak, unit="bytes", better="lower")}


def timed_batches(training: Training, data: TaskData) -> list[dict[str, Tensor]]:
    """The first training batches of seed 0, the same for every variant."""
    plan = BatchPlan(data.train.lengths, data.train.label_tokens, training.batch_tokens, seed=0, steps=TIMED_BATCHES)
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
    measures = ["train_tokens_per_second", *(["decode_tokens_per_second"] if "decoder" in task.roles else [])]
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
    prompt = torch.from_numpy(held_out(data)[0]["input_ids"][: min(DECODED_TOKENS, limit // 2)].astype(np.int64))
    new_tokens = min(DECODED_TOKENS, limit // 2)

    def decode(each: Run) -> None:
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


def load_model(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a run folder (or of the `model` folder inside), ready for inference."""
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}")
    there = folder / "model" if (folder / "model").is_dir() else folder
    if not (there / "config.json").exists():
        if inside := sorted(path.parent.relative_to(folder) for path in folder.glob("*/seed*/model")):
            raise InputError(f"{folder} holds {len(inside)} runs; name one of them, such as {folder / inside[0]}")
        raise InputError(f"{folder} holds no trained model; it is written once a run has finished")
    if (folder / "recipe.yaml").exists():
        import_plugins(read_yaml(folder / "recipe.yaml").get("plugins") or [])
    try:
        auto = auto_class(AutoConfig.from_pretrained(there))
        model, loaded = auto.from_pretrained(there, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(there)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise InputError(f"the model in {there} is damaged or incomplete: {' '.join(str(error).split())}") from error
    for kind, said in (("missing_keys", "its tensors lack"), ("unexpected_keys", "config.json has no place for")):
        if names := sorted(loaded[kind]):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise InputError(f"the model in {there} is damaged or incomplete: {said} {names[0]}{more}")
    return model.eval(), tokenizer


def auto_class(config: Any) -> Any:
    """The class to load a model with: with its head, where that is one of a language model or of a classifier."""
    name = (config.architectures or [""])[0]
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    heads = {
        "MaskedLM": AutoModelForMaskedLM,
        "CausalLM": AutoModelForCausalLM,
        "LMHead": AutoModelForCausalLM,
        "SequenceClassification": AutoModelForSequenceClassification,
    }
    return next((auto for part, auto in heads.items() if part in name), AutoModel)


def settings_of(folder: Path) -> dict[str, Any]:
    """The evaluation settings that a run was made with; the defaults where only a model is there."""
    there = folder / "recipe.yaml"
    found = read_yaml(there).get("evaluation", {}) if there.exists() else {}
    return validated(Evaluation, found, str(there)).model_dump()


def reload(folder: Path, overrides: Sequence[str]) -> tuple[Any, TaskData, dict[str, Any]]:
    """Model, data and evaluation settings of a finished run; `overrides` change `data.*` and `evaluation.*`."""
    model, tokenizer = load_model(folder)
    there = folder / "recipe.yaml"
    if not there.exists():
        raise InputError(f"{folder} has no recipe.yaml, so its data is not known; name a run folder")
    resolved = read_yaml(there)
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, name = key.partition(".")
        if section not in ("data", "evaluation") or not name or not value:
            raise InputError(
                f"{override!r} changes nothing that is evaluated; write data.<key>=... or evaluation.<key>=..."
            )
        try:
            resolved[section][name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{override!r} cannot be read: {' '.join(str(error).split())}") from error
    settings = validated(Evaluation, resolved["evaluation"], "evaluation").model_dump()
    return model, load_data(resolved["data"], validated(Task, resolved["task"], str(there)), tokenizer), settings


def translate(model: Any, tokenizer: Any, sentences: Iterable[str], beams: int, length_penalty: float) -> Iterator[str]:
    """Translations of sentences, one after the other; an empty line stays empty."""
    limit = model.config.max_position_embeddings
    for number, sentence in enumerate(sentences, 1):
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"] if sentence.strip() else []
        if len(ids) >= limit:
            raise InputError(f"line {number} has {len(ids) + 1} tokens, and this model reads {limit} at most; split it")
        if not ids:
            yield ""
            continue
        inputs = torch.tensor([[*ids, tokenizer.eos_token_id]])
        decoded = quality.decode(model, tokenizer, [([0], {"input_ids": inputs})], limit - 1, beams, length_penalty)
        yield decoded.texts[0].strip()


def generate(model: Any, tokenizer: Any, prompt: str, num_tokens: int, temperature: float, seed: int) -> str:
    """`prompt` and a continuation of at most `num_tokens` tokens; temperature 0 is greedy."""
    if not model.can_generate():
        raise InputError("this model fills in or classifies and continues no text; use `bareformers evaluate`")
    ids = [tokenizer.eos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    if "unk_token" in tokenizer.special_tokens_map and tokenizer.unk_token_id in ids:
        known = tokenizer.get_vocab()
        word = next((word for word in prompt.split() if word not in known), tokenizer.unk_token)
        raise InputError(
            f"the prompt has the word {word!r}, which this model does not know; "
            f"write words of its data, such as {tokenizer.decode([len(known) - 2, len(known) - 1])}"
        )
    limit = model.config.max_position_embeddings
    if len(ids) >= limit:
        raise InputError(f"the prompt has {len(ids)} tokens, and this model was trained on {limit} at most; shorten it")
    if len(ids) + num_tokens > limit:
        raise InputError(
            f"the prompt has {len(ids)} tokens and {num_tokens} were asked for, but this model was trained on "
            f"{limit} at most; write --tokens {limit - len(ids)} or a shorter prompt"
        )
    set_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    output = model.generate(torch.tensor([ids]), max_new_tokens=num_tokens, **sampling)
    return str(tokenizer.decode(output[0], skip_special_tokens=True))
