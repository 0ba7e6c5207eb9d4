"""The config of each variant: what the data fixes, what the recipe says, and what the run it starts from has."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer

from bareformers import registry
from bareformers.assessment import ASSESSMENTS, MODELS, roles_of
from bareformers.data.tasks import TaskData
from bareformers.errors import InputError, unknown
from bareformers.models import BareConfig, BareForSeq2SeqLM, BareForSequenceClassification
from bareformers.recipe import Recipe, Start
from bareformers.training.ledger import Ledger

JUDGING = tuple(task for task, model in MODELS.items() if model is BareForSequenceClassification)
"""Tasks of models that tell something of whole texts: classes or scores."""
CHANGEABLE = ("dropout", "attention_dropout", "classifier_pooling")  # in a run that starts from another


def configure(recipe: Recipe, variant: str, data: TaskData, start: Start | None = None) -> BareConfig:
    """The config of a variant: what the data fixes, then the recipe's model section, then the variant's own keys.

    Of a variant that starts from another run, all but what is `CHANGEABLE` is that run's.
    """
    fixed = {
        "is_encoder_decoder": MODELS[data.form] is BareForSeq2SeqLM,
        "length_ratio": data.length_ratio,
        **dict.fromkeys(("score_mean", "score_std", "members")),
        **(of_text(data) if data.images is None else of_images(data)),
    }
    given = recipe.model_for(variant)
    if taken := sorted(set(given) & set(fixed)):
        instead = {"length_ratio": ", or write it as an option: cross_mixer: {name: gaussian, length_ratio: 1.1}"}
        raise InputError(
            f"variant {variant!r}: {taken[0]} follows from the data and the task; "
            f"leave it out of the model{instead.get(taken[0], '')}"
        )
    try:
        origin = None if start is None else opened(start)
        refuse_idle(given, data, bool(given.get("classifier_causal")) if origin is None else is_causal_model(origin))
        needed = recipe.task.positions
        if data.images is not None:  # with a class token, where that is what is pooled
            needed = int(data.train.lengths[0]) + (given.get("classifier_pooling") == "first")
        if start is None or origin is None:
            given = {"max_position_embeddings": needed, **given}
        else:
            own = started(start, origin, given, data)
            given = {**own, **{key: given[key] for key in CHANGEABLE if key in given}}
            if data.images is not None:
                fixed |= format_of(start, origin, fixed, given)
        length = given["max_position_embeddings"]
        if data.images is None and isinstance(length, int) and length < needed:
            where = "" if start is None else f" of {start.run}"
            limit = f"task.max_length {recipe.task.max_length}"
            if recipe.task.decoder_only:
                limit = f"the {needed} positions that a source and a target of {limit} take"
            raise InputError(f"max_position_embeddings {length}{where} is less than {limit}")
        config = BareConfig.from_recipe(**{**given, **fixed})
    except InputError as error:
        raise InputError(f"variant {variant!r}: {error}") from None
    config.architectures = [MODELS[data.form].__name__]
    if data.members:
        config.give_members([member.outputs for member in data.members])
    elif data.scale is not None:
        config.give_labels(None, **asdict(data.scale))
    elif data.labels:
        config.give_labels(data.labels)
    return config


def of_text(data: TaskData) -> dict[str, Any]:
    """What the tokenizer fixes."""
    tokenizer = data.tokenizer
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,
    }


def of_images(data: TaskData) -> dict[str, Any]:
    """What images fix, which have no tokens."""
    tokens = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    return {"vocab_size": 1, **dict.fromkeys(tokens), **plain(asdict(data.images))}  # type: ignore[arg-type]


def format_of(start: Start, origin: BareConfig, fixed: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """How a run that is started from normalises images; theirs and ours must have one format."""
    for key in ("image_size", "patch_size", "num_channels"):
        if (theirs := plain(getattr(origin, key))) != fixed[key]:
            raise InputError(f"{key} is {fixed[key]} here, and {theirs} in {start.run}, from which it starts")
    if (pooling := given["classifier_pooling"]) != origin.classifier_pooling and "first" in (
        pooling,
        origin.classifier_pooling,
    ):
        raise InputError(f"only one of both has a class token; write classifier_pooling: {origin.classifier_pooling}")
    return {"image_mean": origin.image_mean, "image_std": origin.image_std}


def refuse_idle(given: dict[str, Any], data: TaskData, reads_causally: bool = False) -> None:
    """An `InputError` for a key of the model that would do nothing in the model of this task.

    Args:
        reads_causally: of a classifier, whether its stack is a decoder.
    """
    own = roles_of(MODELS[data.form])
    judges = data.task in JUDGING
    if reads_causally and judges:
        own = ("decoder",)
    idle = {f"{role}_mixer" for role in registry.ROLES if role not in own}
    if "cross" not in own:
        idle.add("num_encoder_layers")
    if unused := sorted(idle & set(given)):
        names = {
            "masked_language_modelling": "a masked language model",
            **dict.fromkeys(JUDGING, "a classifier that reads causally" if reads_causally else "a classifier"),
            "image_classification": "a classifier of images",
            "decoder_only": "a model with decoder_only",
        }
        lacks = "decoder" if "encoder" in own else "encoder"
        raise InputError(f"{names.get(data.form, 'a language model')} has no {lacks}, so {unused[0]} would do nothing")
    readers = {
        "classifier_pooling": (*JUDGING, "image_classification"),
        "classifier_causal": JUDGING,
    }
    for key, tasks in readers.items():
        if key in given and data.task not in tasks:
            raise InputError(f"{key} is for task.name: {' or '.join(tasks)}, and would do nothing")
    if "scale_embedding" in given and data.images is not None:
        raise InputError("images have no token embeddings, so scale_embedding would do nothing; leave it out")


def opened(start: Start) -> BareConfig:
    """The config of a run that is started from."""
    try:
        found: BareConfig = BareConfig.from_pretrained(start.folder / "model")
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(f"the model in {start.run} cannot be used: {' '.join(str(error).split())}") from error
    return found


def is_causal_model(config: BareConfig) -> bool:
    """Whether the model that this is the config of has one stack, a decoder."""
    return used_roles(config) == ("decoder",)


def started(start: Start, config: BareConfig, given: dict[str, Any], data: TaskData) -> dict[str, Any]:
    """What the `config` of a run that is started from says; what `given` says must not differ.

    A classifier reads as what it starts from does.
    """
    ours = MODELS[data.form]
    able = {
        task: each.model.__name__
        for task, each in ASSESSMENTS.items()
        if roles_of(each.model) == roles_of(ours) and each.model.main_input_name == ours.main_input_name
    }
    if data.task in JUDGING:
        able["language_modelling"] = ASSESSMENTS["language_modelling"].model.__name__
    there = (config.architectures or ["something else"])[0]
    if there not in able.values():
        raise InputError(
            f"{data.task} cannot start from {start.run}, whose model is a {there}; "
            f"start from a run of {' or '.join(able)}"
        )
    if config.classifier_causal and data.task not in JUDGING:
        raise InputError(
            f"{data.task} cannot start from {start.run}, which reads causally; start from one that reads both sides"
        )
    own = {name: getattr(config, name) for name in BareConfig.__annotations__}
    own["classifier_causal"] = data.task in JUDGING and is_causal_model(config)
    for key, value in given.items():
        if key not in own:
            raise unknown("model key", key, own)
        if key not in CHANGEABLE and plain(value) != plain(own[key]):
            raise InputError(
                f"{key} is {value!r}, and {own[key]!r} in {start.run}, from which it starts; leave it out "
                f"(only {', '.join(CHANGEABLE)} may change), or start from a run with {value!r}"
            )
    return own


def plain(value: Any) -> Any:
    """A value as JSON gives it back: lists for tuples, text for the keys of mappings."""
    return json.loads(json.dumps(value, default=str))


def common_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer of the runs that the variants start from, the same in all of them; None where none does."""
    first: Start | None = None
    spelled: dict[str, Any] = {}
    for variant in recipe.variants:
        for seed in recipe.seeds_for(variant):
            start = recipe.start_for(variant, seed)
            if start is None:
                continue
            there = start.folder / "model"
            if not (there / Ledger.FILE).exists():
                what = "holds no finished run" if start.folder.is_dir() else "is not there"
                raise InputError(
                    f"variant {variant!r} starts from {start.run}, which {what}; "
                    f"carry out its recipe first, or write start_from=<the folder of a finished run>"
                )
            if recipe.task.name == "image_classification":
                continue
            found = spelling(there / "tokenizer.json")
            if first is None:
                first, spelled = start, found
            elif found != spelled:
                raise InputError(
                    f"{first.run} and {start.run} have different tokenizers, and all variants read the same data; "
                    f"start from runs of one recipe"
                )
    return None if first is None else AutoTokenizer.from_pretrained(first.folder / "model")


def spelling(file: Path) -> dict[str, Any]:
    """What a saved tokenizer makes of text."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    return {key: value for key, value in found.items() if key not in ("truncation", "padding")}


def describe(config: BareConfig) -> str:
    """Mixers and block in words: `gaussian (encoder, decoder), dot_product (cross) in pre_ln`."""
    mixed: dict[str, list[str]] = {}
    for role in used_roles(config):
        names = [config.mixer_spec(role, layer)["name"] for layer in range(config.num_layers(role))]
        mixed.setdefault(" / ".join(dict.fromkeys(names)), []).append(role)
    block = config.block if isinstance(config.block, str) else config.block["name"]
    if len(mixed) == 1:
        return f"{next(iter(mixed))} in {block}"
    return ", ".join(f"{names} ({', '.join(where)})" for names, where in mixed.items()) + f" in {block}"


def used_roles(config: BareConfig) -> tuple[str, ...]:
    """Where mixers sit in the model that this is the config of."""
    for model in MODELS.values():
        if model.__name__ in (config.architectures or ()):
            return ("decoder",) if config.classifier_causal else roles_of(model)
    return registry.ROLES if config.is_encoder_decoder else ("decoder",)


def is_floor(config: BareConfig) -> bool:
    """Whether all self mixers are floors."""
    return all(
        registry.mixers.get(config.mixer_spec(role, layer)["name"]).floor
        for role in used_roles(config)
        if role != "cross"
        for layer in range(config.num_layers(role))
    )
