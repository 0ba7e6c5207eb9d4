"""Looks into one model, a run of ours or any of `transformers`: its signal layer by layer, and who reads whom."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from bareformers import execution, run_folder
from bareformers.assessment import draw
from bareformers.data.corpus import read_lines, read_text
from bareformers.data.examples import IGNORED
from bareformers.data.tasks import TaskData
from bareformers.errors import InputError
from bareformers.measure import cost, environment
from bareformers.measure.maps import maps
from bareformers.measure.signal import signal
from bareformers.measure.token_attention import contexts, next_tokens, reading
from bareformers.recipe import Start
from bareformers.report.inspection import AFTER, BEFORE, Inspection
from bareformers.training.signal_recorder import fixed_batch
from bareformers.variants import describe

NUM_ROWS, ROW_TOKENS, ROW_LETTERS = 8, 128, 600  # of a text: a piece is cut at so many letters, then at so many tokens
MAP_TOKENS = 24
COUNTED_ROWS = 2000  # of the training side, evenly over it: what stands in which context
MASKED = 7  # a masked language model predicts one token in so many


def inspect(target: str, text: Path | None = None) -> Inspection:
    """The signal and the maps of a model; of a run also as it was initialised.

    Args:
        target: a run folder, which brings its own data; or a folder or name of a model of `transformers`.
        text: what such a model reads; for an encoder-decoder, lines with a source and its target and a tab in between.
    """
    folder = Path(target)
    if folder.is_dir() and not (folder / "config.json").exists():
        return of_run(folder, text)
    return of_model(target, text)


def default_folder(target: str) -> Path:
    """Where an inspection is written: into a run folder; for another model, beside the runs."""
    folder = Path(target)
    return folder if (folder / "recipe.yaml").exists() else Path("runs") / "inspect" / folder.name


# A run of ours


def of_run(folder: Path, text: Path | None) -> Inspection:
    """A finished run on the validation side of its own data, and the same model with the weights that it began with."""
    if text is not None:
        raise InputError(f"{folder} is a run folder, which brings its own data; leave --text out")
    model, data, _ = run_folder.reload(folder, [])
    batch = fixed_batch(data.validation, data.collate)
    notes = [f"The signal is that of {_counted(batch)} of the validation side."]
    stages = {AFTER: model}
    resolved = run_folder.read_yaml(folder / "recipe.yaml")
    start = Start(**resolved["start_from"]) if resolved.get("start_from") else None
    if "teacher" in resolved and resolved["variant"] == "teacher":
        notes.append(f"It is a copy of {resolved['teacher']}, from which the others were distilled.")
    elif "teacher" in resolved:
        notes.append(f"It began with parts of {resolved['teacher']}, from which it was distilled.")
    elif start is not None and start.weights and not start.folder.is_dir():
        notes.append(f"It began with the weights of {start.run}, which are not there any more.")
    else:
        fresh = execution.fresh(type(model), copy.deepcopy(model.config), resolved["seed"], start).eval()
        if start is not None and start.weights:
            notes.append(f"It began with the weights of {start.run}.")
        stages = {BEFORE: fresh, **stages}
    for net in stages.values():
        net.to(environment.default_device())
    return Inspection(
        target=str(folder),
        description=f"{describe(model.config)}; {cost.num_parameters(model):,} parameters",
        notes=notes,
        signal={stage: [layer.row() for layer in signal(net, batch)] for stage, net in stages.items()},
        maps={stage: draw(net, data) for stage, net in stages.items()},
        reading=_reading(stages, batch, data),
    )


def _reading(stages: dict[str, Any], batch: dict[str, Tensor], data: TaskData) -> dict[str, list[dict[str, Any]]]:
    """What the maps of a language model read, by what its training side says of its tokens; empty for other models."""
    if data.task != "language_modelling":
        return {}
    rows = (data.train[place]["input_ids"] for place in evenly(len(data.train), COUNTED_ROWS))
    known = contexts(rows, next_tokens(batch), stages[AFTER].config.vocab_size)
    found = {stage: [layer.row() for layer in reading(net, batch, known)] for stage, net in stages.items()}
    return {stage: layers for stage, layers in found.items() if layers}


def evenly(length: int, most: int) -> list[int]:
    """Up to `most` of the places of a sequence, from its first to its last."""
    return np.linspace(0, length - 1, min(length, most)).round().astype(int).tolist()


# A model of anybody


def of_model(target: str, text: Path | None) -> Inspection:
    """A model of `transformers` on a text."""
    config = _loaded(AutoConfig, target)
    if text is None:
        raise InputError(f"{target} is a model without data of its own; write --text <a file that it is to read>")
    auto = run_folder.auto_class(config)
    # Fused attention leaves no maps.
    model = _loaded(auto, target, attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer = _loaded(AutoTokenizer, target)
    batch, notes = _batch(auto, model, tokenizer, text)
    model.to(environment.default_device())
    layers = [layer.row() for layer in signal(model, batch)]
    return Inspection(
        target=target,
        description=f"{type(model).__name__}; {cost.num_parameters(model):,} parameters",
        notes=[f"The signal is that of {_counted(batch)} of {text}.", *notes],
        signal={AFTER: layers} if layers else {},
        maps={AFTER: maps(model, *_first_row(auto, model, tokenizer, batch))},
    )


def _loaded(auto: Any, target: str, **options: Any) -> Any:
    try:
        return auto.from_pretrained(target, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{target} is neither a run folder nor a model that transformers can load: {reason}"
        ) from error


def _batch(auto: Any, model: Any, tokenizer: Any, text: Path) -> tuple[dict[str, Tensor], list[str]]:
    """What the model reads of a file, with labels where it has a loss, and what there is to say about it."""
    limit = min(ROW_TOKENS, getattr(model.config, "max_position_embeddings", None) or ROW_TOKENS)

    def encoded(**given: str) -> Tensor:
        return torch.tensor(tokenizer(**given, truncation=True, max_length=limit)["input_ids"], dtype=torch.long)

    if auto is AutoModelForSeq2SeqLM:
        rows = [(encoded(text=source), encoded(text_target=target)) for source, target in _pairs(text)]
    else:
        letters = read_text(text)
        pieces = [letters[start : start + ROW_LETTERS] for start in range(0, len(letters), ROW_LETTERS)[:NUM_ROWS]]
        rows = [(ids, ids) for piece in pieces if len(ids := encoded(text=piece))]
    if not rows:
        raise InputError(f"the tokenizer of {model.name_or_path} makes no token of {text}; write another --text")
    can_mask = tokenizer.mask_token_id is not None
    if auto is AutoModelForMaskedLM and can_mask:
        rows = [_masked(ids, tokenizer) for ids, _ in rows]
    inputs, labels = zip(*rows, strict=True)
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    batch = {
        "input_ids": pad_sequence(list(inputs), batch_first=True, padding_value=pad),
        "attention_mask": pad_sequence([torch.ones_like(ids) for ids in inputs], batch_first=True),
    }
    has_loss = auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM) or (auto is AutoModelForMaskedLM and can_mask)
    if not has_loss:
        return batch, [f"No gradient norms: {type(model).__name__} has no loss of a language model here."]
    return {**batch, "labels": pad_sequence(list(labels), batch_first=True, padding_value=IGNORED)}, []


def _pairs(text: Path) -> list[tuple[str, str]]:
    """The first pairs of a file with a tab between source and target."""
    found = []
    for number, line in enumerate(read_lines(text), 1):
        source, _, target = line.partition("\t")
        if source.strip() and target.strip():
            found.append((source.strip(), target.strip()))
        elif line.strip():
            raise InputError(
                f"{text}, line {number} is no pair, which is what an encoder-decoder reads: "
                f"write a source, a tab and its target"
            )
        if len(found) == NUM_ROWS:
            break
    return found


def _masked(ids: Tensor, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """`ids` with some tokens behind masks, and the labels there alone."""
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, dtype=torch.long))
    places = (~special).nonzero().flatten()[::MASKED]
    hidden, labels = ids.clone(), torch.full_like(ids, IGNORED)
    hidden[places], labels[places] = tokenizer.mask_token_id, ids[places]
    return hidden, labels


def _first_row(
    auto: Any, model: Any, tokenizer: Any, batch: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The beginning of the first row, without padding, as inputs and as words."""
    ids = batch["input_ids"][0][batch["attention_mask"][0].bool()][:MAP_TOKENS]
    inputs = {"input_ids": ids[None].to(model.device)}
    words = list(tokenizer.convert_ids_to_tokens(ids.tolist()))
    if auto is not AutoModelForSeq2SeqLM:
        return inputs, {"decoder" if auto is AutoModelForCausalLM else "encoder": words}
    labels = batch["labels"][0]
    labels = labels[labels != IGNORED][:MAP_TOKENS]
    inputs["labels"] = labels[None].to(model.device)
    start = getattr(model.config, "decoder_start_token_id", None)
    before = labels[:-1].tolist() if start is None else [start, *labels[:-1].tolist()]
    targets = list(tokenizer.convert_ids_to_tokens(before))
    return inputs, {"encoder": words, "decoder": ["", *targets] if start is None else targets}


def _counted(batch: dict[str, Tensor]) -> str:
    """How much a batch is, in words."""
    if "pixel_values" in batch:
        return f"{len(batch['pixel_values'])} images"
    rows = len(batch["input_ids"])
    tokens = batch["attention_mask"].sum() if "attention_mask" in batch else batch["input_ids"].numel()
    return f"{int(tokens):,} tokens in {rows} row{'s' * (rows > 1)}"
