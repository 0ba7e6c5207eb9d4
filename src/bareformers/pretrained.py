"""Opens a trained model, ours or one of `transformers`, with the data that it is judged on."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bareformers import run_folder
from bareformers.data.corpus import read_lines, user_path
from bareformers.data.tasks import pad_of
from bareformers.errors import InputError
from bareformers.paring import surgery
from bareformers.recipe import PAIRED

SIDES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SUFFIXES = (".txt", ".tsv", ".csv")
TABLES = {".tsv": "\t", ".csv": ","}
"""What parts the cells of a line."""


def opened(source: str) -> tuple[Any, Any, dict[str, Any]]:
    """A model, its tokenizer, and the recipe beside it, if there is one.

    Args:
        source: a run folder of ours, a folder or GGUF file of `transformers`, or a name on the hub.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        own = run_folder.read_yaml(folder / "recipe.yaml") if (folder / "recipe.yaml").exists() else {}
        model, tokenizer = run_folder.load_model(folder)
    elif folder.suffix == ".gguf":
        inside = {"gguf_file": folder.name}
        model, own = surgery.load(folder.parent, **inside).eval(), {}
        tokenizer = run_folder.load_tokenizer(folder.parent, **inside)
    else:
        model, tokenizer, own = surgery.load(source).eval(), run_folder.load_tokenizer(source), {}
    if tokenizer is None:
        raise InputError(
            f"{source} reads images, and parings are of models that read text; hand its parts to students with "
            f"`bareformers distill`"
        )
    size = getattr(model.config, "vocab_size", len(tokenizer))
    if len(tokenizer) > size:
        raise InputError(
            f"the model in {source} has {size:,} tokens and its tokenizer {len(tokenizer):,}; put the tokenizer beside "
            f"it that it was trained with"
        )
    if "SequenceClassification" in type(model).__name__ and model.config.pad_token_id is None:
        # What reads from left to right looks for the last token that is no padding.
        model.config.pad_token_id = pad_of(tokenizer)
    return model.float(), tokenizer, own


def task_of(model: Any, own: Mapping[str, Any]) -> str:
    """What a model does."""
    if (own.get("task") or {}).get("name"):
        return str(own["task"]["name"])
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        if model.can_generate():
            return "translation"
        raise InputError(f"a {name} does no task that is known here; an encoder-decoder needs a head that generates")
    if found := next((task for head, (task, _) in run_folder.HEADS.items() if head in name), None):
        if found == "classification":
            several = getattr(model.config, "members", None)
            return "multi_task" if several else "regression" if model.config.num_labels == 1 else found
        return found
    raise InputError(
        f"a {name} does no task that is known here; load one with a head, such as a ...ForSequenceClassification"
    )


def data_of(given: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """The data section that a user means: a section, as YAML too, or where there is a file for each side.

    That is a folder, or how the names of the files begin: `reviews/small` of `reviews/small.train.txt`.
    """
    if isinstance(given, Mapping):
        return dict(given)
    try:
        section = yaml.safe_load(str(given))
    except yaml.YAMLError:
        section = None
    if isinstance(section, dict):
        return section
    folder = Path(given).expanduser()
    if not folder.is_dir():
        if found := sides_in(folder.parent, folder.name):
            return found
        raise InputError(
            f"there is no folder {given}, nor {given}.train.txt; write a folder with train.txt, validation.txt and "
            f"test.txt, or how the names of such files begin, or the data section of a recipe, as in "
            f"'{{name: labelled_text, train: ...}}'"
        )
    if (folder / "recipe.yaml").exists() and (own := run_folder.read_yaml(folder / "recipe.yaml").get("data")):
        return dict(own)
    if found := sides_in(folder):
        return found
    raise InputError(
        f"{folder} has no training data; put train.txt there (or .tsv, .csv), and validation and test beside it"
    )


def sides_in(folder: Path, start: str = "") -> dict[str, Any]:
    """The data section for a file for each side; which source reads them, the task decides. Empty without training.

    Args:
        start: how the names of the files begin, up to a dot, a hyphen or an underscore.
    """
    starts = [f"{start}{sign}" for sign in ".-_"] if start else [""]
    sides: dict[str, Any] = {}
    for side, stems in SIDES.items():
        names = [f"{each}{stem}{suffix}" for each in starts for stem in stems for suffix in SUFFIXES]
        if file := next((folder / name for name in names if (folder / name).is_file()), None):
            sides[side] = str(file)
    return sides if "train" in sides else {}


def section_for(given: Mapping[str, Any], task: str) -> dict[str, Any]:
    """A data section with a source; files that came without one are read as the task needs them."""
    if "name" in given:
        return dict(given)
    if task in PAIRED and ("root" in given or "tsv" in given):
        return {"name": "parallel", **given}
    is_judged = task in ("classification", "regression")
    if not is_judged and task not in ("language_modelling", "masked_language_modelling"):
        raise InputError(f"which files belong to {task} is not clear; write the data section, with its name")
    files = given.get("train", given.get("path"))
    files = [files] if isinstance(files, str) else files
    if not isinstance(files, list | tuple) or not files or not all(isinstance(file, str) for file in files):
        raise InputError(
            "the data section names no training data; write train: or path: with a file or a list of files, or name: "
            "with a source"
        )
    suffix = Path(files[0]).suffix
    if is_judged:
        said: dict[str, Any] = {"format": suffix[1:]} if suffix in TABLES else {}
        said |= {"scores": True} if task == "regression" else {}
        if "format" in said and not {"text", "label"} <= set(given):
            said |= columns_of(files[0])
        return {"name": "labelled_text", **said, **given}
    if suffix in TABLES:
        raise InputError(f"{files[0]} is a table, and {task} needs text; write .txt files, or the data section")
    return {"name": "text", **given}


def columns_of(file: str) -> dict[str, Any]:
    """Which columns of a table have texts, pairs and labels, by its first line, as options of `labelled_text`."""
    suffix = Path(file).suffix
    first = next((line for line in read_lines(user_path(file)) if line.strip()), "")
    cells = next(csv.reader([first])) if suffix == ".csv" else first.split(TABLES[suffix])
    found = [cell.strip() for cell in cells]
    text = next((name for name in ("text", "sentence", "sentence1") if name in found), None)
    label = next((name for name in ("label", "score") if name in found), None)
    if text is None or label is None:
        raise InputError(
            f"{file} has the columns {', '.join(found)}, and a text and a label are needed; name them text and label "
            f"in the first line, or write the data section"
        )
    pair = {"second": "sentence2"} if text == "sentence1" and "sentence2" in found else {}
    return {"text": text, **pair, "label": label}


def laid_over(own: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """A section of the model's own recipe with what `given` says instead.

    All of `given` where it is about another source or task, or names files: those of two data sets do not mix.
    """
    same = own is not None and given.get("name", own.get("name")) == own.get("name")
    return {**own, **given} if own and same and not {"path", "train"} & set(given) else dict(given)
