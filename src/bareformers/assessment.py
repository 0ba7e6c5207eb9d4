"""Which model each task has, and how it is judged and shown: scores, samples and maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bareformers import registry
from bareformers.data.batching import evaluation_batches
from bareformers.data.examples import IGNORED, Collate, Example, Examples, Ids, Images, prompts_of
from bareformers.data.tasks import TaskData, end_of
from bareformers.errors import InputError, unknown
from bareformers.measure import quality
from bareformers.measure.maps import Mixer, maps
from bareformers.models import (
    BareForCausalLM,
    BareForImageClassification,
    BareForMaskedLM,
    BareForSeq2SeqLM,
    BareForSequenceClassification,
)
from bareformers.recipe import Task
from bareformers.report.pictures import data_address
from bareformers.report.result import Measure, write_whole

HUNDREDTHS = "× 100"  # of correlations, as GLUE has them
LIKELIHOODS = frozenset({"loss", "perplexity"})
BLANK = "_"  # stands for what is to be told, in the samples of recall and of masked language models


def padded(data: TaskData, examples: Examples, batch_tokens: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Every example once, in batches of similar length: its indices, and the tensors."""
    for indices in evaluation_batches(examples.lengths, batch_tokens):
        yield indices, data.collate([examples[index] for index in indices])


def held_out(data: TaskData) -> Examples:
    """The test side, or the validation side where there is no test."""
    return data.test if len(data.test) else data.validation


@dataclass(frozen=True)
class Output:
    """A test example as people read it; of an image its name, and what shows it.

    Attributes:
        kind: of several tasks at once, what `samples.json` calls the outputs of its own.
    """

    source: str
    reference: str
    output: str
    image: str | None = None
    kind: str | None = None


Evaluated = tuple[dict[str, Measure], str | None, list[Output], list[str]]


def evaluate(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """Quality on the test side: scores, what ranks first, sacreBLEU's signature, outputs and references, and remarks.

    Args:
        settings: the evaluation section of a recipe.
    """
    scores, signature, outputs, remarks = ASSESSMENTS[data.task].evaluate(model, data, settings)
    headline = headline_of(data, settings)
    scores = dict(sorted(scores.items(), key=lambda each: each[0] != headline))
    return scores, signature, outputs, remarks


def needs_texts(data: TaskData, names: Iterable[str]) -> bool:
    """Whether the model has to write for some scores of its task."""
    return ASSESSMENTS[data.task].writes and not LIKELIHOODS.issuperset(names)


def scores_of(model: Any, data: TaskData, settings: dict[str, Any], names: Iterable[str]) -> dict[str, Measure]:
    """Some of the scores that `evaluate` gives; nothing is written where they do not need it."""
    names = list(names)
    if ASSESSMENTS[data.task].writes and not needs_texts(data, names):
        found = likelihood_scores(held_out_likelihood(model, data, settings))
    else:
        found, *_ = evaluate(model, data, settings)
    return {name: found[name] for name in names}


def evaluate_language(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """Likelihood, and continuations to read."""
    found = held_out_likelihood(model, data, settings)
    scores = likelihood_scores(found)
    if found.bits_per_byte is not None:  # else the tokenizer does not tell bytes
        scores = {"bits_per_byte": Measure(value=found.bits_per_byte, unit="bits/byte", better="lower"), **scores}
    return scores, None, continuations(model, data, settings), []


def evaluate_translation(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """Beam search scored against the references, and likelihood."""
    found = held_out_likelihood(model, data, settings)
    outputs, num_unfinished = decoded(model, data, settings, room_of(model) - 1)
    scores, signature = overlap(outputs, references_of(held_out(data))[: len(outputs)])
    remarks = [f"{num_unfinished} of {len(outputs)} translations ran to the maximum length"] if num_unfinished else []
    return {**scores, **likelihood_scores(found)}, signature, outputs[: settings["samples"]], remarks


def evaluate_answers(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """Beam search, no further than the longest target of the training side: overlap, variety, and likelihood."""
    found = held_out_likelihood(model, data, settings)
    longest = min(int(data.train.label_tokens.max()), room_of(model))
    outputs, num_unfinished = decoded(model, data, settings, longest)
    texts, references = [each.output for each in outputs], references_of(held_out(data))[: len(outputs)]
    scores, signature = overlap(outputs, references)
    rouge = quality.rouge(texts, references)
    scores = {
        "rouge_l": Measure(value=rouge.pop("rouge_l"), unit="%", better="higher"),
        **{name: Measure(value=value, unit="%", better="higher") for name, value in rouge.items()},
        **scores,
        **{name: Measure(value=value, unit="%") for name, value in quality.distinct(texts).items()},
        **{
            f"{name}_references": Measure(value=value, unit="%")
            for name, value in quality.distinct(first for first, *_ in references).items()
        },
        **likelihood_scores(found),
    }
    remarks = [f"{num_unfinished} of {len(outputs)} outputs ran to {longest} tokens"] if num_unfinished else []
    samples = [outputs[index] for index in spaced(len(outputs), settings["samples"])]
    return scores, signature, samples, remarks


def room_of(model: Any) -> int:
    """The most tokens of a source, and of its target, that a model of pairs can read and write."""
    return Task.room(model.config.max_position_embeddings, not model.config.is_encoder_decoder)


def overlap(outputs: Sequence[Output], references: Sequence[Sequence[str]]) -> tuple[dict[str, Measure], str]:
    """BLEU and chrF, and sacreBLEU's signature."""
    found = quality.translation_scores([each.output for each in outputs], references)
    scores = {
        "bleu": Measure(value=found.bleu, unit="BLEU", better="higher"),
        "chrf": Measure(value=found.chrf, unit="chrF", better="higher"),
    }
    return scores, found.signature


def references_of(examples: Examples) -> list[tuple[str, ...]]:
    """Of pairs, all right targets of each."""
    return [texts[1:] for texts in examples.texts]


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


def evaluate_masked(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """How likely the masked tokens were, and how many are told right."""
    examples = held_out(data)
    found = quality.recalled(model, padded(data, examples, settings["batch_tokens"]), causal=False)
    accuracy = Measure(value=found.accuracy, unit="%", better="higher")
    outputs = [
        filled(data, examples[index], found.answers[index], settings["sample_tokens"])
        for index in spaced(len(examples), settings["samples"])
    ]
    return {**likelihood_scores(found.likelihood), "accuracy": accuracy}, None, outputs, []


def evaluate_classification(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """How many texts or images are told right, over all and class by class."""
    check_outputs(model, data)
    examples, noun = held_out(data), "text" if data.images is None else "image"
    found = quality.classified(model, padded(data, examples, settings["batch_tokens"]))
    loss = Measure(value=found.likelihood.loss, unit=f"nats/{noun}", better="lower")
    outputs = [
        Output(text, label, data.labels[found.guessed[index]], shown(examples, index))
        for index in spaced(len(examples), settings["samples"])
        for text, label in (examples.texts[index],)
    ]
    return {**class_scores(found), "loss": loss}, None, outputs, []


def evaluate_regression(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """How well the scores that are told go along with the true ones."""
    check_outputs(model, data)
    examples = held_out(data)
    found = quality.judged(model, padded(data, examples, settings["batch_tokens"])).regressed()
    loss = Measure(value=found.loss, unit="variances", better="lower")
    outputs = [
        Output(text, score, f"{found.told[index]:.2f}")
        for index in spaced(len(examples), settings["samples"])
        for text, score in (examples.texts[index],)
    ]
    return {**correlations(found), "loss": loss}, None, outputs, constant(found)


def evaluate_members(model: Any, data: TaskData, settings: dict[str, Any]) -> Evaluated:
    """What ranks each of several tasks, and the mean of that; samples of all."""
    check_outputs(model, data)
    check_members(data, settings)
    examples, chosen = held_out(data), dict(settings["headline"])
    whole = quality.judged(model, padded(data, examples, settings["batch_tokens"]))
    number = torch.from_numpy(examples.more["members"].ids)
    scores: dict[str, Measure] = {}
    outputs, remarks = list[Output](), list[str]()
    for index, member in enumerate(data.members):
        rows = (number == index).nonzero().flatten()
        own = whole.of(rows, model.config.outputs_of[member.name])
        kind = "classification" if member.scale is None else "regression"
        if member.scale is None:
            classes = own.classified()
            known, told = class_scores(classes), [member.labels[guess] for guess in classes.guessed]
        else:
            regressed = own.regressed()
            known, told = correlations(regressed), [f"{score:.2f}" for score in regressed.told]
            remarks += [f"{member.name}: {remark}" for remark in constant(regressed)]
        metric = chosen.get(member.name, member.metrics[0])
        scores[f"{member.name}_{metric}"] = known[metric]
        share = len(range(index, settings["samples"], len(data.members)))
        for place in spaced(len(rows), share):
            source, reference = examples.texts[int(rows[place])]
            outputs.append(Output(f"{member.name}: {source}", reference, told[place], kind=kind))
    mean = sum(measure.value for measure in scores.values()) / len(scores)
    loss = Measure(value=whole.loss, better="lower")  # of classes in nats, of scores in variances
    return {"mean": Measure(value=mean, better="higher"), **scores, "loss": loss}, None, outputs, remarks


def class_scores(found: quality.Classified) -> dict[str, Measure]:
    """What is said of a classifier; the first ranks, unless the recipe names another."""
    return {
        "accuracy": Measure(value=found.accuracy, unit="%", better="higher"),
        "f1": Measure(value=found.f1, unit="%", better="higher"),
        "matthews": Measure(value=found.matthews, unit=HUNDREDTHS, better="higher"),
    }


def correlations(found: quality.Regressed) -> dict[str, Measure]:
    """What is said of a regression."""
    return {
        "pearson": Measure(value=found.pearson, unit=HUNDREDTHS, better="higher"),
        "spearman": Measure(value=found.spearman, unit=HUNDREDTHS, better="higher"),
    }


def constant(found: quality.Regressed) -> list[str]:
    """A remark where scores do not differ."""
    return [f"{found.constant} is the same for all texts, so that correlations are 0"] if found.constant else []


def check_members(data: TaskData, settings: dict[str, Any]) -> None:
    """An `InputError` where the evaluation section names something to rank that a member of several tasks lacks."""
    members = {member.name: member for member in data.members}
    for name, metric in dict(settings["headline"]).items() if members else ():
        if name not in members:
            raise unknown("member in evaluation.headline", name, members)
        if metric not in members[name].metrics:
            what = "classes" if members[name].scale is None else "scores"
            known = " or ".join(members[name].metrics)
            raise InputError(f"evaluation.headline: {name} has {what}, and no {metric}; write {known}")


def check_outputs(model: Any, data: TaskData) -> None:
    """An `InputError` where a model tells other classes, scores or tasks than those of the data."""
    config = model.config
    theirs = [(member["name"], member.get("labels") or []) for member in getattr(config, "members", None) or ()]
    ours = [(member.name, list(member.labels)) for member in data.members]
    if theirs != ours:
        known, there = (", ".join(name for name, _ in each) or "none" for each in (theirs, ours))
        raise InputError(
            f"the tasks that the model knows at once are {known}, and those of the data {there}; give it data with the "
            f"same ones, in their order and with their classes"
        )
    if ours:
        return
    if data.scale is not None:
        if config.num_labels != 1:
            raise InputError(f"the model tells {config.num_labels} classes, and the data has scores; leave scores out")
        return
    classes = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if classes != data.labels:
        raise InputError(
            f"the model knows the classes {', '.join(classes)}, in this order, and the data has "
            f"{', '.join(data.labels)}; evaluate it on data with the same ones"
        )


def shown(examples: Examples, index: int) -> str | None:
    """An image as the address of itself; None of a text."""
    return data_address(examples.pixels[index]) if isinstance(examples, Images) else None


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


def decoded(model: Any, data: TaskData, settings: dict[str, Any], most: int) -> tuple[list[Output], int]:
    """Beam search over the test side, and how many outputs ran to `most` tokens without ending."""
    examples, collate = held_out(data), data.collate
    if data.decoder_only:
        examples, collate = prompts_of(examples), replace(cast(Collate, collate), labels="beside", padding_side="left")
    count = min(settings["max_sentences"] or len(examples), len(examples))
    rows = (
        (indices, collate([examples[index] for index in indices]))
        for indices in evaluation_batches(examples.lengths[:count], settings["batch_tokens"])
    )
    found = quality.decode(
        model,
        data.tokenizer,
        rows,
        max_new_tokens=most,
        beams=settings["beams"],
        length_penalty=settings["length_penalty"],
    )
    texts = zip(examples.texts, found.texts, strict=False)
    outputs = [Output(source, reference, output.strip()) for (source, reference, *_), output in texts]
    return outputs, found.num_unfinished


def continuations(model: Any, data: TaskData, settings: dict[str, Any]) -> list[Output]:
    """Greedy continuations of the first half of a few test chunks, beside what really follows."""
    examples = held_out(data)
    half = min(model.config.max_position_embeddings, int(examples.lengths.max())) // 2
    length = min(settings["sample_tokens"], half)
    whole = np.flatnonzero(examples.lengths >= half + length)
    found = []
    for index in whole[spaced(len(whole), settings["samples"])].tolist():
        ids = [int(token) for token in examples[index]["input_ids"][: half + length]]
        prompt = torch.tensor([ids[:half]])
        written = quality.decode(model, data.tokenizer, [([0], {"input_ids": prompt})], max_new_tokens=length)
        prompt_text, reference = (
            str(data.tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:half], ids[half:])
        )
        found.append(Output(prompt_text, reference, written.texts[0]))
    return found


def spaced(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` indices, evenly spaced; all where there are fewer."""
    found: list[int] = np.linspace(0, count - 1, min(wanted, count)).astype(int).tolist()
    return found


def filled(data: TaskData, example: Example, answers: Sequence[int], length: int) -> Output:
    """The first `length` tokens of a masked row: as the model reads them, as they were, and as it fills them in."""
    read, asked = example["input_ids"], example["labels"] != IGNORED
    true, told = read.copy(), read.copy()
    true[asked], told[asked] = example["labels"][asked], answers
    return Output(*(with_blanks(data, ids[:length]) for ids in (read, true, told)))


def with_blanks(data: TaskData, ids: Ids) -> str:
    """Text in which masked tokens are blanks, and line ends part documents."""
    text = str(data.tokenizer.decode(ids.tolist()))
    end = str(data.tokenizer.decode([end_of(data.tokenizer)]))
    return text.replace(data.tokenizer.mask_token, f" {BLANK}").replace(end, " ⏎ ").strip(" ⏎")


@dataclass(frozen=True)
class Assessment:
    """Which model a task has, and how it is judged and shown.

    Attributes:
        model: its class; pairs that are `decoder_only` have another, see `MODELS`.
        headline: the quality that ranks the variants, of those that `evaluate` gives; see `headline_of`.
        evaluate: as the function of that name, for this task.
        samples: what `samples.json` calls the outputs; the report shows them accordingly.
        map_tokens: how much of an example is drawn as a map.
        counted: what budgets and the speed of training count.
        writes: whether the model writes what scores hold against references, but for `LIKELIHOODS`.
    """

    model: type[PreTrainedModel]
    headline: str
    evaluate: Callable[[Any, TaskData, dict[str, Any]], Evaluated]
    samples: str
    map_tokens: int = 24
    counted: str = "tokens"
    writes: bool = False


ASSESSMENTS = {
    "language_modelling": Assessment(BareForCausalLM, "bits_per_byte", evaluate_language, "generation"),
    "masked_language_modelling": Assessment(
        BareForMaskedLM, "loss", evaluate_masked, "filling", counted="masked tokens"
    ),
    "translation": Assessment(BareForSeq2SeqLM, "bleu", evaluate_translation, "translation", writes=True),
    "summarisation": Assessment(BareForSeq2SeqLM, "rouge_l", evaluate_answers, "answers", writes=True),
    "dialogue": Assessment(BareForSeq2SeqLM, "loss", evaluate_answers, "answers", writes=True),
    "classification": Assessment(
        BareForSequenceClassification, "accuracy", evaluate_classification, "classification", counted="texts"
    ),
    "regression": Assessment(
        BareForSequenceClassification, "pearson", evaluate_regression, "regression", counted="texts"
    ),
    "multi_task": Assessment(BareForSequenceClassification, "mean", evaluate_members, "multi_task", counted="texts"),
    "image_classification": Assessment(
        BareForImageClassification, "accuracy", evaluate_classification, "images", counted="images"
    ),
    # Queries stand at the end of a sequence.
    "recall": Assessment(BareForCausalLM, "accuracy", evaluate_recall, "recall", map_tokens=64),
}
MODELS: dict[str, type[PreTrainedModel]] = {
    **{task: each.model for task, each in ASSESSMENTS.items()},
    "decoder_only": BareForCausalLM,
}
"""By the `form` of a task."""


def roles_of(model: type[PreTrainedModel]) -> tuple[str, ...]:
    """The roles that mixers have in a model of ours."""
    if model is BareForCausalLM:
        return ("decoder",)
    return registry.ROLES if model is BareForSeq2SeqLM else ("encoder",)


def headline_of(data: TaskData, settings: dict[str, Any]) -> str:
    """The quality that ranks the variants: what the evaluation section chose, or what does by default."""
    chosen = settings["headline"]
    return chosen if chosen and isinstance(chosen, str) else ASSESSMENTS[data.task].headline


def is_causal(data: TaskData) -> bool:
    """Whether the model predicts the next token of its input, and so shifts its labels itself."""
    return MODELS[data.form] is BareForCausalLM


def write_samples(folder: Path, outputs: list[Output], data: TaskData) -> None:
    """`samples.txt` for people, `samples.json` for the report."""
    lines = [f"source     {o.source}\nreference  {o.reference}\noutput     {o.output}\n" for o in outputs]
    write_whole(folder / "samples.txt", "\n".join(lines))
    kind = ASSESSMENTS[data.task].samples
    samples = [{key: value for key, value in asdict(o).items() if value is not None} for o in outputs]
    write_whole(folder / "samples.json", json.dumps({"kind": kind, "samples": samples}, ensure_ascii=False) + "\n")


Maps = Callable[[Any, dict[str, Tensor], dict[str, list[str]]], dict[str, np.ndarray]]


def draw(model: Any, data: TaskData, take: Maps | None = None) -> dict[str, np.ndarray]:
    """The maps of a validation example of medium length, or of its first tokens.

    Args:
        take: makes them, called as `measure.maps.maps`; by default that, for a model of ours.
    """
    take = take or partial(maps, mixers=mixers_of(model))
    if data.images is not None:
        pixels = data.collate([data.validation[0]])["pixel_values"].to(model.device)
        return take(model, {"pixel_values": pixels}, {"encoder": patches(model.config)})
    most = ASSESSMENTS[data.task].map_tokens
    lengths = np.minimum(data.validation.lengths, most)
    example = data.validation[int(np.abs(lengths - int(np.median(lengths))).argmin())]
    ids = example["input_ids"][:most]
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None].to(model.device)}
    if "token_type_ids" in example:
        segments = example["token_type_ids"][:most].astype(np.int64)
        inputs["token_type_ids"] = torch.from_numpy(segments)[None].to(model.device)
    if not model.config.is_encoder_decoder:
        stack = getattr(model, "stack", None)
        roles = roles_of(MODELS[data.form]) if stack is None else (stack.role,)
        return take(model, inputs, dict.fromkeys(roles, words(data, ids)))
    labels = example["labels"][:most]
    inputs["labels"] = torch.from_numpy(labels.astype(np.int64))[None].to(model.device)
    start = [model.config.decoder_start_token_id, *labels[:-1].tolist()]
    return take(model, inputs, {"encoder": words(data, ids), "decoder": words(data, start)})


def patches(config: Any) -> list[str]:
    """What the positions of an image are called: `r0c3` for the first row and the fourth column."""
    rows, columns = config.grid
    names = [f"r{row}c{column}" for row in range(rows) for column in range(columns)]
    return ["class"] * config.num_leading + names


def mixers_of(model: Any) -> list[Mixer]:
    """Role, layer and module of every mixer of a model of ours."""
    found: list[Mixer] = []
    for role in ("encoder", "decoder"):
        for layer, block in enumerate(getattr(model, role).blocks if hasattr(model, role) else ()):
            found += [(role, layer, block.mixer)] if block.mixer is not None else []
            found += [("cross", layer, block.cross_mixer)] if block.cross_mixer is not None else []
    return found


def words(data: TaskData, ids: Iterable[int]) -> list[str]:
    """Each token as it is written, line ends and spaces made visible."""
    return [str(data.tokenizer.decode([int(token)])).replace("\n", "⏎").replace(" ", "·") for token in ids]
