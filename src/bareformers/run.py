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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from bareformers import registry
from bareformers.data.batching import BatchPlan, evaluation_batches
from bareformers.data.examples import IGNORED, Examples
from bareformers.data.tasks import TaskData, prepare
from bareformers.errors import Diverged, InputError, Interrupted
from bareformers.measure import cost, environment, quality, speed
from bareformers.measure.maps import maps
from bareformers.models import BareConfig, BareForCausalLM, BareForSeq2SeqLM
from bareformers.recipe import Evaluation, Recipe, Task, Training, validated
from bareformers.report import html
from bareformers.report.result import Comparison, Measure, RunResult, aggregate, write_csv, write_whole
from bareformers.training.ledger import Ledger, Spent, saved
from bareformers.training.objectives import CrossEntropy
from bareformers.training.trainer import BareTrainer

MODELS = {
    "language_modelling": BareForCausalLM,
    "translation": BareForSeq2SeqLM,
    "recall": BareForCausalLM,
}
BLANK = "_"  # stands for each answer in the samples of recall
DECODED_TOKENS = 32  # a call, when decoding is timed
TIMED_BATCHES = 3  # a call, when training is timed

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Run:
    """One variant with one seed, and the folder it lives in."""

    variant: str
    seed: int
    folder: Path
    config: BareConfig
    size: int  # parameters
    training: Training
    recipe: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.variant} seed {self.seed}"

    @property
    def result_file(self) -> Path:
        return self.folder / "result.json"


def run(recipe: Recipe, command: str, log: Log = print) -> Comparison:
    """Carry out `recipe` in its folder, and return what was measured.

    Args:
        command: what the user typed, for the report and for resuming.
        log: takes sentences about what is going on.
    """
    import_plugins(recipe.plugins)
    data = load_data(recipe.data, recipe.task)
    for note in data.notes:
        log(note)
    runs = expand(recipe, data)
    claim(recipe, runs)
    try:
        for each in runs:
            carry_out(each, data, log)
        if recipe.evaluation.speed_rounds:
            time_variants(runs, data, recipe.evaluation.speed_rounds, log)
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted(f"{str(stopped) or 'stopped'}; resume with: {command}") from None
    comparison = aggregate(
        [RunResult.load(each.result_file) for each in runs],
        name=recipe.name,
        command=command,
        baseline=recipe.baseline_name,
        headline=ASSESSMENTS[recipe.task.name].headline,
        description=recipe.description,
        order=list(recipe.variants),
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
    return prepare(source.load(), task.name, task.vocab_size, task.max_length, task.too_long, tokenizer=tokenizer)


def expand(recipe: Recipe, data: TaskData) -> list[Run]:
    """All runs of a recipe; whatever is wrong with any variant is an `InputError` here, before anything is trained."""
    runs = []
    for variant in recipe.variants:
        config = configure(recipe, variant, data)
        try:
            with torch.device("meta"):
                size = cost.num_parameters(MODELS[data.task](config))
        except InputError as error:
            raise InputError(f"variant {variant!r}: {error}") from None
        training = recipe.training_for(variant)
        for seed in recipe.seeds_for(variant):
            resolved = {
                "variant": variant,
                "seed": seed,
                "plugins": recipe.plugins,
                "data": recipe.data,
                "task": recipe.task.model_dump(mode="json"),
                "model": recipe.model_for(variant),
                "training": training.model_dump(mode="json"),
                "evaluation": recipe.evaluation.model_dump(mode="json"),
            }
            folder = recipe.folder / variant / f"seed{seed}"
            runs.append(Run(variant, seed, folder, config, size, training, resolved))
    return runs


def configure(recipe: Recipe, variant: str, data: TaskData) -> BareConfig:
    """The config of a variant: what the data fixes, then the recipe's model section, then the variant's own keys."""
    tokenizer = data.tokenizer
    fixed = {
        "vocab_size": len(tokenizer),
        "is_encoder_decoder": recipe.task.name == "translation",
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,
        "length_ratio": data.length_ratio,
    }
    given = recipe.model_for(variant)
    if taken := sorted(set(given) & set(fixed)):
        instead = {"length_ratio": ", or write it as an option: cross_mixer: {name: gaussian, length_ratio: 1.1}"}
        raise InputError(
            f"variant {variant!r}: {taken[0]} follows from the data and the task; "
            f"leave it out of the model{instead.get(taken[0], '')}"
        )
    unused = {"encoder_mixer", "cross_mixer", "num_encoder_layers"} & set(given)
    if unused and not fixed["is_encoder_decoder"]:
        raise InputError(f"variant {variant!r}: a language model has no encoder, so {min(unused)} would do nothing")
    length = given.get("max_position_embeddings", recipe.task.max_length)
    if isinstance(length, int) and length < recipe.task.max_length:
        raise InputError(f"variant {variant!r}: max_position_embeddings {length} is less than task.max_length")
    try:
        return BareConfig.from_recipe(**{"max_position_embeddings": recipe.task.max_length, **given, **fixed})
    except InputError as error:
        raise InputError(f"variant {variant!r}: {error}") from None


def claim(recipe: Recipe, runs: Sequence[Run]) -> None:
    """Make the folders, or go on in those that are there; what belongs to another recipe is refused."""
    shared = {"data": recipe.data, "task": recipe.task.model_dump(mode="json"), "model": recipe.model}
    refuse_other(recipe.folder, shared, f"write output=<another folder>, another name, or remove {recipe.folder}")
    for each in runs:
        advice = f"write output=<another folder>, or remove {each.folder} to train it again"
        refuse_other(each.folder, {key: each.recipe[key] for key in ("data", "task", "model", "training")}, advice)
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
        if (
            each.result_file.exists()
            and read_yaml(each.folder / "recipe.yaml")["evaluation"] != each.recipe["evaluation"]
        ):
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
        if key := first_difference(found.get(section), wanted, section):
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


def carry_out(each: Run, data: TaskData, log: Log) -> None:
    """Train and evaluate one run, as far as that is not done; its `result.json` comes last."""
    if each.result_file.exists():
        RunResult.load(each.result_file)
        log(f"{each.label}: finished before")
        return

    def note(sentence: str) -> None:
        log(f"{each.label}: {sentence}")
        with (each.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(sentence + "\n")

    result = RunResult(
        variant=each.variant, seed=each.seed, floor=is_floor(each.config), description=describe(each.config)
    )
    try:
        spent = train(each, data, note)
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
    result.budget = {
        "asked": each.training.budget.model_dump(exclude_none=True),
        "tokens": spent.tokens,
        "steps": spent.steps,
        "seconds": round(spent.seconds, 1),
        "epochs": round(spent.tokens / int(data.train.label_tokens.sum()), 3),
    }
    result.save(each.result_file)
    note(", ".join(f"{name} {measure.value:.4g}" for name, measure in result.quality.items()))


def train(each: Run, data: TaskData, note: Log) -> Spent:
    """Train one run and save its model, unless that was done before; returns what it spent."""
    if (each.folder / "model" / Ledger.FILE).exists():
        return saved(each.folder / "model")
    set_seed(each.seed)
    model = MODELS[data.task](each.config)
    described = environment.describe(each.training.precision)
    write_whole(each.folder / "environment.json", json.dumps(described, indent=1) + "\n")
    note(f"{describe(each.config)}; {each.size:,} parameters")

    def validate(model: Any) -> float:
        batches = padded(data, data.validation, each.recipe["evaluation"]["batch_tokens"])
        return quality.likelihood(model, (batch for _, batch in batches), causal=is_causal(data)).loss

    trainer = BareTrainer(
        model,
        each.training,
        data.train,
        data.collate,
        is_causal(data),
        validate,
        each.folder,
        each.seed,
        label=each.label,
    )
    trainer.fit()
    spent = trainer.ledger.spent
    note(f"trained on {spent.tokens:,} tokens in {spent.steps:,} steps and {spent.seconds:,.0f} seconds")
    model.save_pretrained(each.folder / "model")
    data.tokenizer.save_pretrained(each.folder / "model")
    trainer.ledger.save(each.folder / "model")
    trainer.remove_checkpoints()
    return spent


def is_causal(data: TaskData) -> bool:
    """Whether the model predicts the next token of its input, and so shifts its labels itself."""
    return MODELS[data.task] is BareForCausalLM


def padded(data: TaskData, examples: Examples, batch_tokens: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Every example once, in batches of similar length: its indices, and the tensors."""
    for indices in evaluation_batches(examples.lengths, batch_tokens):
        yield indices, data.collate([examples[index] for index in indices])


def held_out(data: TaskData) -> Examples:
    """The test side, or the validation side where there is no test."""
    return data.test if len(data.test) else data.validation


@dataclass(frozen=True)
class Output:
    """A test example as people read it."""

    source: str
    reference: str
    output: str


Evaluated = tuple[dict[str, Measure], str | None, list[Output], list[str]]


def evaluate(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """Quality on the test side: scores, sacreBLEU's signature, outputs beside references, and remarks.

    Args:
        settings: the evaluation section of a recipe.
    """
    return ASSESSMENTS[data.task].evaluate(model, data, settings)


def evaluate_language(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """Likelihood, and continuations to read."""
    found = held_out_likelihood(model, data, settings)
    assert found.bits_per_byte is not None
    scores = {"bits_per_byte": Measure(value=found.bits_per_byte, unit="bits/byte", better="lower")}
    return {**scores, **likelihood_scores(found)}, None, continuations(model, data, settings), []


def evaluate_translation(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """Beam search scored against the references, and likelihood."""
    found = held_out_likelihood(model, data, settings)
    outputs, num_unfinished = translations(model, data, settings)
    translated = quality.translation_scores([each.output for each in outputs], [each.reference for each in outputs])
    scores = {
        "bleu": Measure(value=translated.bleu, unit="BLEU", better="higher"),
        "chrf": Measure(value=translated.chrf, unit="chrF", better="higher"),
        **likelihood_scores(found),
    }
    remarks = [f"{num_unfinished} of {len(outputs)} translations ran to the maximum length"] if num_unfinished else []
    return scores, translated.signature, outputs[: settings["samples"]], remarks


def evaluate_recall(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """How many answers are right, and of how many sequences all; the latter where a sequence has several."""
    examples = held_out(data)
    found = quality.recalled(model, padded(data, examples, settings["batch_tokens"]))
    scores = {"accuracy": Measure(value=found.accuracy, unit="%", better="higher")}
    if found.likelihood.num_tokens > len(examples):
        scores["exact"] = Measure(value=found.exact, unit="%", better="higher")
    scores["loss"] = Measure(value=found.likelihood.loss, unit="nats/token", better="lower")
    outputs = []
    for index in range(min(settings["samples"], len(examples))):
        example = examples[index]
        tokens, asked = words(data, example["input_ids"]), (example["labels"] != IGNORED).tolist()
        # Without the </s> that every sequence begins with.
        prompt = [BLANK if hidden else token for token, hidden in zip(tokens[1:], asked[1:], strict=True)]
        true = [token for token, hidden in zip(tokens, asked, strict=True) if hidden]
        outputs.append(Output(" ".join(prompt), " ".join(true), " ".join(words(data, found.answers[index]))))
    return scores, None, outputs, []


def held_out_likelihood(model: Any, data: TaskData, settings: dict[str, Any]) -> quality.Likelihood:
    """Likelihood of the test side."""
    examples = held_out(data)
    batches = (batch for _, batch in padded(data, examples, settings["batch_tokens"]))
    return quality.likelihood(model, batches, examples.num_bytes, is_causal(data))


def likelihood_scores(found: quality.Likelihood) -> dict[str, Measure]:
    """Loss and perplexity."""
    return {
        "loss": Measure(value=found.loss, unit="nats/token", better="lower"),
        "perplexity": Measure(value=found.perplexity, better="lower"),
    }


def translations(model: Any, data: TaskData, settings: dict[str, Any]) -> tuple[list[Output], int]:
    """Beam search over the test side, and how many outputs ran to the maximum length without ending."""
    examples = held_out(data)
    count = min(settings["max_sentences"] or len(examples), len(examples))
    rows = (
        (indices, data.collate([examples[index] for index in indices]))
        for indices in evaluation_batches(examples.lengths[:count], settings["batch_tokens"])
    )
    decoded = quality.decode(
        model,
        data.tokenizer,
        rows,
        max_new_tokens=model.config.max_position_embeddings - 1,
        beams=settings["beams"],
        length_penalty=settings["length_penalty"],
    )
    outputs = [Output(*examples.texts[index], text.strip()) for index, text in enumerate(decoded.texts)]
    return outputs, decoded.num_unfinished


def continuations(model: Any, data: TaskData, settings: dict[str, Any]) -> list[Output]:
    """Greedy continuations of the first half of a few test chunks, beside what really follows."""
    examples = held_out(data)
    half = min(model.config.max_position_embeddings, int(examples.lengths.max())) // 2
    length = min(settings["sample_tokens"], half)
    whole = np.flatnonzero(examples.lengths >= half + length)
    found = []
    for index in whole[np.linspace(0, len(whole) - 1, min(settings["samples"], len(whole))).astype(int)].tolist():
        ids = [int(token) for token in examples[index]["input_ids"][: half + length]]
        prompt = torch.tensor([ids[:half]])
        decoded = quality.decode(model, data.tokenizer, [([0], {"input_ids": prompt})], max_new_tokens=length)
        prompt_text, reference = (
            str(data.tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:half], ids[half:])
        )
        found.append(Output(prompt_text, reference, decoded.texts[0]))
    return found


@dataclass(frozen=True)
class Assessment:
    """How the models of a task are judged and shown.

    Attributes:
        headline: the quality that ranks the variants, of those that `evaluate` gives.
        evaluate: as the function of that name, for this task.
        samples: what `samples.json` calls the outputs; the report shows them accordingly.
        map_tokens: how much of an example is drawn as a map.
    """

    headline: str
    evaluate: Callable[[Any, TaskData, dict[str, Any]], Evaluated]
    samples: str
    map_tokens: int


ASSESSMENTS = {
    "language_modelling": Assessment("bits_per_byte", evaluate_language, "generation", 24),
    "translation": Assessment("bleu", evaluate_translation, "translation", 24),
    "recall": Assessment("accuracy", evaluate_recall, "recall", 64),  # queries stand at the end of a sequence
}


def write_samples(folder: Path, outputs: list[Output], data: TaskData) -> None:
    """`samples.txt` for people, `samples.json` for the report."""
    lines = [f"source     {o.source}\nreference  {o.reference}\noutput     {o.output}\n" for o in outputs]
    write_whole(folder / "samples.txt", "\n".join(lines))
    kind = ASSESSMENTS[data.task].samples
    samples = [{"source": o.source, "reference": o.reference, "output": o.output} for o in outputs]
    write_whole(folder / "samples.json", json.dumps({"kind": kind, "samples": samples}, ensure_ascii=False) + "\n")


def measure_cost(model: Any, each: Run, data: TaskData) -> dict[str, Measure]:
    """Parameters, decoding state and peak memory of a training step, measured."""
    device = model.device
    length = min(each.recipe["task"]["max_length"], model.config.max_position_embeddings)
    tokens = torch.ones(1, length, dtype=torch.long, device=device)
    inputs = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    batch = timed_batches(each.training, data)[0]

    def step() -> None:
        training_step(model, batch, each.training, device)

    model.train()
    peak = cost.peak_bytes(step, device)
    model.zero_grad()
    parameters = cost.num_parameters(model)
    return {
        "parameters": Measure(value=parameters, better="lower"),
        "parameters_without_embeddings": Measure(
            value=parameters - cost.num_embedding_parameters(model), better="lower"
        ),
        "state_bytes": Measure(value=cost.state_bytes(model, inputs), unit="bytes", better="lower"),
        "peak_memory": Measure(value=peak, unit="bytes", better="lower"),
    }


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
    """Training and decoding speed of all variants in turns, into the results of their first seed."""
    results = {each: RunResult.load(each.result_file) for each in {run.variant: run for run in reversed(runs)}.values()}
    results = {each: result for each, result in results.items() if result.status == "finished"}
    if all("decode_tokens_per_second" in result.speed for result in results.values()):
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

    for key, count, call in (
        ("train_tokens_per_second", num_tokens, take_steps),
        ("decode_tokens_per_second", new_tokens, decode),
    ):
        timings = speed.interleaved({each.label: partial(call, each) for each in results}, rounds)
        for each, result in results.items():
            value = round(count / timings[each.label].seconds, 1)
            result.speed[key] = Measure(value=value, unit="tokens/s", better="higher")
    for each, result in results.items():
        result.save(each.result_file)


def draw(model: Any, data: TaskData) -> dict[str, np.ndarray]:
    """The maps of a validation example of medium length, or of its first tokens."""
    most = ASSESSMENTS[data.task].map_tokens
    lengths = np.minimum(data.validation.lengths, most)
    example = data.validation[int(np.abs(lengths - int(np.median(lengths))).argmin())]
    ids, labels = example["input_ids"][:most], example["labels"][:most]
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None].to(model.device)}
    if is_causal(data):
        return maps(model, inputs, {"decoder": words(data, ids)})
    inputs["labels"] = torch.from_numpy(labels.astype(np.int64))[None].to(model.device)
    start = [data.tokenizer.bos_token_id, *labels[:-1].tolist()]
    return maps(model, inputs, {"encoder": words(data, ids), "decoder": words(data, start)})


def words(data: TaskData, ids: Iterable[int]) -> list[str]:
    """Each token as it is written, line ends and spaces made visible."""
    return [str(data.tokenizer.decode([int(token)])).replace("\n", "⏎").replace(" ", "·") for token in ids]


def describe(config: BareConfig) -> str:
    """Mixers and block in words: `gaussian (encoder, decoder), dot_product (cross) in pre_ln`."""
    roles_of: dict[str, list[str]] = {}
    for role in used_roles(config):
        names = [config.mixer_spec(role, layer)["name"] for layer in range(config.num_layers(role))]
        text = " / ".join(dict.fromkeys(names))
        roles_of.setdefault(text, []).append(role)
    block = config.block if isinstance(config.block, str) else config.block["name"]
    if len(roles_of) == 1:
        return f"{next(iter(roles_of))} in {block}"
    return ", ".join(f"{names} ({', '.join(roles)})" for names, roles in roles_of.items()) + f" in {block}"


def used_roles(config: BareConfig) -> tuple[str, ...]:
    return registry.ROLES if config.is_encoder_decoder else ("decoder",)


def is_floor(config: BareConfig) -> bool:
    """Whether all self mixers are floors."""
    return all(
        registry.mixers.get(config.mixer_spec(role, layer)["name"]).floor
        for role in used_roles(config)
        if role != "cross"
        for layer in range(config.num_layers(role))
    )


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
        config = AutoConfig.from_pretrained(there)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return auto.from_pretrained(there).eval(), AutoTokenizer.from_pretrained(there)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the model in {there} is damaged or incomplete: {' '.join(str(error).split())}") from error


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
