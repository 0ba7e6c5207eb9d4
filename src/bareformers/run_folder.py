"""A run's folder: whose it is, what it holds, and how it is read again."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from bareformers import registry
from bareformers.data.corpus import Corpus, Labelled
from bareformers.data.tasks import TaskData, prepare
from bareformers.errors import InputError
from bareformers.measure import environment
from bareformers.models import BareConfig
from bareformers.paring import surgery
from bareformers.recipe import Evaluation, Finetune, Start, Study, Task, Training, validated
from bareformers.report.result import write_whole
from bareformers.training.ledger import Ledger, Spent, save

UNTRAINED = ("variant", "seed", "plugins", "evaluation")  # what a run's recipe says that weights do not depend on

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
    start: Start | None
    recipe: dict[str, Any]
    outcome: str = "result.json"  # the file that is written last
    floor: bool = False
    point: str = ""  # of a sweep

    @property
    def label(self) -> str:
        run = f"{self.variant} seed {self.seed}"
        return f"{self.point}: {run}" if self.point else run

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


def claim(recipe: Study, shared: dict[str, Any], runs: Sequence[Run]) -> None:
    """Make the folders, or go on in those that are there; what belongs to another recipe is refused.

    Args:
        shared: the sections of the recipe that all runs have in common.
    """
    refuse_other(recipe.folder, shared, f"write output=<another folder>, another name, or remove {recipe.folder}")
    for each in runs:
        advice = f"write output=<another folder>, or remove {each.folder} to train it again"
        # Where `begun_by` says what made the weights that it begins with, it does not matter where these lie.
        ignored = {*UNTRAINED, *(["start_from"] if each.recipe.get("begun_by") else [])}
        refuse_other(each.folder, {key: each.recipe[key] for key in each.recipe if key not in ignored}, advice)
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
        if each.result_file.exists():
            before = read_yaml(each.folder / "recipe.yaml").get("evaluation")
            if with_defaults("evaluation", before) != settings:
                each.result_file.unlink()  # trained already, but to be evaluated in another way
        write_whole(each.folder / "recipe.yaml", yaml.safe_dump(each.recipe, sort_keys=False, allow_unicode=True))


def is_trained(each: Run) -> bool:
    """Whether the model of a run is there, whole."""
    return (each.folder / "model" / Ledger.FILE).exists()


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
    if section == "kind" and found is None:
        return "comparison"
    known: dict[str, type[BaseModel]] = {
        "task": Task,
        "training": Training,
        "finetune": Finetune,
        "evaluation": Evaluation,
    }
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


def save_model(folder: Path, model: Any, data: TaskData, spent: Spent) -> None:
    """A trained model with its tokenizer, where it reads text, and, last, what it took."""
    model.save_pretrained(folder)
    if data.tokenizer is not None:
        data.tokenizer.save_pretrained(folder)
    save(spent, folder)


def digest(weights: Iterable[bytes]) -> str:
    """A short name for weights, so that those of another model are not taken for them."""
    found = hashlib.sha256()
    for each in weights:
        found.update(each)
    return found.hexdigest()[:16]


def load_model(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a run folder (or of the `model` folder inside), ready for inference.

    A model of ours that reads images has None for a tokenizer.
    """
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
        config = AutoConfig.from_pretrained(there, trust_remote_code=False)
        if not isinstance(config, BareConfig):
            return surgery.load(there).eval(), load_tokenizer(there)
        model, loaded = auto_class(config).from_pretrained(there, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(there) if config.image_size is None else None
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise InputError(f"the model in {there} is damaged or incomplete: {' '.join(str(error).split())}") from error
    for kind, said in (("missing_keys", "its tensors lack"), ("unexpected_keys", "config.json has no place for")):
        if names := sorted(loaded[kind]):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise InputError(f"the model in {there} is damaged or incomplete: {said} {names[0]}{more}")
    return model.eval(), tokenizer


def load_tokenizer(source: str | Path, **kwargs: Any) -> Any:
    """The tokenizer beside a model of `transformers`, in a folder, in a GGUF file (`gguf_file=`) or on the hub."""
    try:
        found = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **kwargs)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"{source} has no tokenizer that can be read: {' '.join(str(error).split())}; put one beside the model"
        ) from error
    if len(found) <= len(found.all_special_tokens):  # what transformers makes of nothing
        raise InputError(f"{source} has no tokenizer with words; put the one beside the model that it was trained with")
    return found


HEADS = {
    "SequenceClassification": ("classification", AutoModelForSequenceClassification),
    "ImageClassification": ("image_classification", AutoModelForImageClassification),
    "MaskedLM": ("masked_language_modelling", AutoModelForMaskedLM),
    "CausalLM": ("language_modelling", AutoModelForCausalLM),
    "LMHead": ("language_modelling", AutoModelForCausalLM),
}
"""The task of a model and the class to load it with, by what the name of its own class says."""


def auto_class(config: Any) -> Any:
    """The class to load a model with: with its head, where that is one of a language model or of a classifier."""
    name = (config.architectures or [""])[0]
    other = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    return next((auto for part, (_, auto) in HEADS.items() if part in name), other)


def reads_sources(folder: Path, model: Any) -> bool:
    """Whether the model in a folder writes a target for a source; of a decoder alone the recipe beside it says that."""
    there = folder / "recipe.yaml"
    own = read_yaml(there).get("task") if there.exists() else None
    return bool(model.config.is_encoder_decoder or (own or {}).get("decoder_only"))


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
            *path, last = name.split(".")
            there = resolved[section]
            for part in path:
                there = there.setdefault(part, {})
            there[last] = yaml.safe_load(value)
        except (TypeError, AttributeError):
            raise InputError(f"{override!r}: {section} has no such place") from None
        except yaml.YAMLError as error:
            raise InputError(f"{override!r} cannot be read: {' '.join(str(error).split())}") from error
    settings = validated(Evaluation, resolved["evaluation"], "evaluation")
    task = validated(Task, resolved["task"], str(there))
    settings.check(task)
    known = None if isinstance(model.config, BareConfig) else model  # data of ours is told in another order
    return model, load_data(resolved["data"], task, tokenizer, known), settings.model_dump()


def load_data(section: dict[str, Any], task: Task, tokenizer: Any = None, model: Any = None) -> TaskData:
    """Read the corpus that the data section of a recipe names, and prepare its task.

    Args:
        tokenizer: of a trained model.
        model: a trained one, in whose order the classes are to be.
    """
    corpus = corpus_of(section)
    if corpus.kind == "labelled" and task.name == "classification" and model is not None:
        known = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
        found = corpus.labels or tuple(dict.fromkeys(item.label for item in cast(tuple[Labelled, ...], corpus.train)))
        if set(found) != set(known):
            raise InputError(
                f"the model knows the classes {', '.join(known)}, and the data has {', '.join(sorted(found))}; name "
                f"them alike, as with label_names: [{', '.join(known)}]"
            )
        corpus = replace(corpus, labels=known)
    can_read = model is not None and "token_type_ids" in inspect.signature(type(model).forward).parameters
    reads_segments = can_read and getattr(model.config, "type_vocab_size", 0) > 1
    return prepared(corpus, task, tokenizer, reads_segments)


def corpus_of(section: dict[str, Any], where: str = "data") -> Corpus:
    """What the source of a data section reads; `where` it stands in the recipe."""
    _, source = registry.sources.parse(section, where)
    found: Corpus = source.load()
    return found


def prepared(corpus: Corpus, task: Task, tokenizer: Any = None, reads_segments: bool = False) -> TaskData:
    """The task of a recipe on what a source reads; by default with a tokenizer of its own."""
    return prepare(
        corpus,
        task.name,
        task.vocab_size,
        task.max_length,
        task.too_long,
        tokenizer=tokenizer,
        mask_share=task.mask_share,
        patch=task.patch,
        shift=task.shift,
        share=task.share,
        decoder_only=task.decoder_only,
        temperature=task.temperature,
        reads_segments=reads_segments,
    )


def import_plugins(modules: Sequence[str]) -> None:
    """Import the modules that register mixers, blocks and sources of the user's own, from the current folder too."""
    if modules and "" not in sys.path:
        sys.path.insert(0, "")
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"plugin {module!r} cannot be imported: {error}") from error
