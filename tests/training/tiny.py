"""Corpora, recipes and trainers so small that a whole comparison takes seconds."""

from __future__ import annotations

import functools
import io
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import TrainerCallback, set_seed

from bareformers import cli, registry
from bareformers.assessment import MODELS
from bareformers.data.batching import evaluation_batches
from bareformers.data.corpus import Corpus, Labelled, Pair
from bareformers.data.tasks import TaskData, prepare
from bareformers.measure import quality
from bareformers.models import BareConfig, BareForSeq2SeqLM
from bareformers.recipe import Training
from bareformers.training.trainer import BareTrainer

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "dropout": 0.0,
}
VARIANTS = ("dot_product", "gaussian", "average")
MAX_LENGTH = 32


@functools.cache
def vocabulary(size: int = 120) -> tuple[str, ...]:
    """Words of two or three syllables, no two alike."""
    random = np.random.default_rng(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < size:
        words["".join(random.choice(syllables, random.integers(2, 4)))] = None
    return tuple(words)


def paragraphs(count: int = 220, seed: int = 0) -> list[str]:
    """Made-up English: adjectives, nouns and verbs have their places, and a paragraph comes back to its subject."""
    random = np.random.default_rng(seed)
    nouns, verbs, adjectives = np.split(np.array(vocabulary()), 3)
    found = []
    for _ in range(count):
        subject = random.choice(nouns)
        sentences = [
            f"the {random.choice(adjectives)} {subject} {random.choice(verbs)}s the {random.choice(nouns)}."
            for _ in range(random.integers(6, 12))
        ]
        found.append(" ".join(sentences))
    return found


def reversals(count: int, seed: int) -> list[Pair]:
    """Three to five words, and the same words from the last to the first."""
    random = np.random.default_rng(seed)
    rows = [random.choice(vocabulary(), random.integers(3, 6)).tolist() for _ in range(count)]
    return [(" ".join(row), " ".join(reversed(row))) for row in rows]


def labelled(count: int, seed: int) -> list[Labelled]:
    """Four words, of which the last tells the class: the first nouns are 0, the next 1 and 2; at most 30 tokens."""
    random = np.random.default_rng(seed)
    nouns, verbs, adjectives = np.split(np.array(vocabulary()), 3)
    found = []
    for _ in range(count):
        kind = int(random.integers(3))
        told = nouns[12 * kind + int(random.integers(12))]
        text = f"{random.choice(adjectives)} {random.choice(nouns)} {random.choice(verbs)}s {told}"
        found.append(Labelled(text, str(kind)))
    return found


def write_labelled(path: Path, count: int, seed: int) -> Path:
    """Lines of `label text`."""
    path.write_text("".join(f"{item.label} {item.text}\n" for item in labelled(count, seed)), encoding="utf-8")
    return path


def write_like(path: Path, source: dict[str, Any], count: int = 200) -> Path:
    """Labelled texts in the form that a `labelled_text` reads: lines, or columns with pairs and with scores."""
    if source.get("format", "lines") == "lines":
        return write_labelled(path, count, seed=0)
    columns = [source[key] for key in ("text", "second", "label") if key in source]
    names = [column for column in columns if isinstance(column, str)]
    place = {column: names.index(column) if column in names else column - 1 for column in columns}
    rows = ["\t".join(names) + "\n"] if names else []
    for item in scored_pairs(count, seed=0):
        row = [""] * (max(place.values()) + 1)
        row[place[source["text"]]] = item.text
        row[place[source.get("second", source["text"])]] = item.second if "second" in source else item.text
        row[place[source["label"]]] = item.label if source.get("scores") else str(int(float(item.label) > 1))
        rows.append("\t".join(row) + "\n")
    path.write_text("".join(rows), encoding="utf-8")
    return path


def scored_pairs(count: int, seed: int) -> list[Labelled]:
    """Pairs of two words each; the score is how many words both have, and a half."""
    random, words = np.random.default_rng(seed), vocabulary()[:60]
    found = []
    for _ in range(count):
        first = random.choice(words, 2, replace=False).tolist()
        second = [random.choice([word, str(random.choice(words))]) for word in first]
        same = len(set(first) & set(second))
        found.append(Labelled(" ".join(first), f"{same}.5", " ".join(map(str, second))))
    return found


def write_images(path: Path, count: int = 120, size: int = 12, seed: int = 0) -> Path:
    """Gray squares of noise with a bright bar, which lies for 0, stands for 1 and is missing for 2."""
    random = np.random.default_rng(seed)
    pixels, labels = random.integers(100, size=(count, size, size)), np.arange(count) % 3
    for image, label, place in zip(pixels, labels, random.integers(size - 1, size=count), strict=True):
        if label < 2:
            (image if label == 0 else image.T)[place : place + 2] += 150
    np.savez(path, x=pixels.astype(np.uint8), y=labels)
    return path


def write_text(path: Path) -> Path:
    """About 60 kB of paragraphs."""
    path.write_text("\n\n".join(paragraphs()) + "\n", encoding="utf-8")
    return path


def write_parallel(
    root: Path,
    languages: tuple[str, str] = ("de", "en"),
    stems: Iterable[str] = ("train", "val", "test"),
) -> Path:
    """Aligned files of reversals: many to train on, a few for each other stem."""
    root.mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(stems):
        pairs = reversals(16 if number else 400, seed=number)
        for side, language in enumerate(languages):
            (root / f"{stem}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
    return root


def write_help(cache: Path, languages: tuple[str, str]) -> None:
    """Reversals in the form of LibreOffice's help, where the source of that name finds it without a download."""
    pairs = reversals(480, seed=0)
    for side, language in enumerate(languages):
        root = cache / "libreoffice_help" / f"libreoffice-help-{language}_1.0" / "usr/share/libreoffice/help" / language
        (root / "text").mkdir(parents=True)
        for page in range(60):
            texts = enumerate(pair[side] for pair in pairs[page::60])
            paragraphs = "".join(f'<p id="par_{number}">{text}</p>' for number, text in texts)
            (root / "text" / f"{page}.html").write_text(paragraphs, encoding="utf-8")


def language_modelling(folder: Path, *variants: str) -> Path:
    """The recipe of a comparison of language models on made-up text; of all three variants by default."""
    data = {"name": "text", "path": str(write_text(folder / "text.txt"))}
    return _write_recipe(folder, "language_modelling", data, {name: {"mixer": name} for name in variants or VARIANTS})


def translation(folder: Path, *variants: str) -> Path:
    """The recipe of a comparison of encoder-decoders that reverse sentences; they differ in the self roles."""
    data = {"name": "parallel", "root": str(write_parallel(folder / "pairs")), "test": "test"}
    chosen = {name: {"mixer": name, "cross_mixer": "dot_product"} for name in variants or VARIANTS}
    return _write_recipe(folder, "translation", data, chosen)


def masked_language_modelling(folder: Path, *variants: str) -> Path:
    """The recipe of a comparison of masked language models on made-up text; of all three variants by default."""
    data = {"name": "text", "path": str(write_text(folder / "text.txt"))}
    chosen = {name: {"mixer": name} for name in variants or VARIANTS}
    return _write_recipe(folder, "masked_language_modelling", data, chosen)


def classification(folder: Path, *variants: str) -> Path:
    """The recipe of a comparison of classifiers of made-up sentences; of all three variants by default."""
    data = {
        "name": "labelled_text",
        "train": str(write_labelled(folder / "train.txt", 300, seed=0)),
        "test": str(write_labelled(folder / "test.txt", 40, seed=1)),
        "label_names": ["animal", "plant", "stone"],
    }
    return _write_recipe(folder, "classification", data, {name: {"mixer": name} for name in variants or VARIANTS})


def regression(folder: Path, *variants: str) -> Path:
    """The recipe of a comparison of regressions of made-up pairs; of all three variants by default."""
    data = {"name": "labelled_text", "format": "tsv", "text": 1, "second": 2, "label": 3, "scores": True}
    data["path"] = str(write_like(folder / "pairs.tsv", data, 400))
    return _write_recipe(folder, "regression", data, {name: {"mixer": name} for name in variants or VARIANTS})


def multi_task(folder: Path, *variants: str) -> Path:
    """The recipe of a comparison of encoders that learn classes of sentences and of pairs, and scores, at once."""
    data = {"name": "labelled_text", "format": "tsv", "text": 1, "second": 2, "label": 3}
    members = {
        "kinds": {"name": "labelled_text", "path": str(write_labelled(folder / "kinds.txt", 300, seed=0))},
        "same": {**data, "path": str(write_like(folder / "same.tsv", data, 100))},
        "alike": {**data, "scores": True, "path": str(write_like(folder / "alike.tsv", {**data, "scores": True}, 50))},
    }
    chosen = {name: {"mixer": name} for name in variants or VARIANTS}
    return _write_recipe(folder, "multi_task", {"name": "mixture", "members": members}, chosen)


def image_classification(folder: Path, *variants: str) -> Path:
    """The recipe of a comparison of classifiers of made-up images, in 3 x 3 patches; of three variants by default."""
    data = {"name": "images", "path": str(write_images(folder / "images.npz"))}
    chosen = {name: {"mixer": name} for name in variants or VARIANTS}
    return _write_recipe(folder, "image_classification", data, chosen, {"patch": 4})


def write_dialogues(path: Path, count: int = 60, seed: int = 0) -> Path:
    """Lines of a few turns, each of which takes up the last word of the one before."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        turns = [" ".join(random.choice(vocabulary(), 3))]
        for _ in range(random.integers(2, 5)):
            turns.append(" ".join([turns[-1].split()[-1], *random.choice(vocabulary(), random.integers(1, 4))]))
        lines.append(" __eou__ ".join(turns) + " __eou__\t1\t2 1\t0 0\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def replies(folder: Path, task: str, decoder_only: bool = False) -> Path:
    """The recipe of a comparison on made-up dialogues, of encoder-decoders or of decoders alone."""
    test = write_dialogues(folder / "test.txt", count=6, seed=1)
    data = {"name": "dialogues", "train": str(write_dialogues(folder / "train.txt")), "test": str(test), "turns": 2}
    given = {"vocab_size": 280, "max_length": MAX_LENGTH, "decoder_only": decoder_only}
    role = {} if decoder_only else {"cross_mixer": "dot_product"}
    chosen = {name: {"mixer": name, **role} for name in ("dot_product", "average")}
    return _write_recipe(folder, task, data, chosen, given)


def _write_recipe(
    folder: Path, task: str, data: dict[str, Any], variants: dict[str, Any], sizes: dict[str, Any] | None = None
) -> Path:
    recipe = {
        "name": "tiny",
        "data": data,
        "task": {"name": task, **(sizes or {"vocab_size": 300, "max_length": MAX_LENGTH})},
        "model": SIZES,
        "variants": variants,
        "training": {
            "budget": {"steps": 12},
            "batch_tokens": 256,
            "warmup_steps": 4,
            "evaluations": 2,
            "checkpoints": 2,
        },
        "evaluation": {"beams": 2, "samples": 2, "sample_tokens": 6, "speed_rounds": 0},
        "output": str(folder / "run"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def two_steps(path: Path, folder: Path) -> list[str]:
    """Overrides with which any recipe of the repository takes seconds, on made-up data where its own is not at hand."""
    overrides = [
        "training.budget.steps=2",
        "training.evaluations=1",
        "training.checkpoints=1",
        "training.average_checkpoints=0",
        "evaluation.beams=1",
        "evaluation.max_sentences=3",
        "evaluation.samples=1",
        "evaluation.sample_tokens=4",
        "evaluation.speed_rounds=0",
        "seeds=[0]",
    ]
    if is_distillation(path):  # the teacher has data and sizes
        return overrides
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = recipe["data"]
    overrides += ["model.hidden_size=32", "model.intermediate_size=64"]
    if is_comparison(path) and data["name"] in ("labelled_text", "mixture") and "start_from" not in recipe:
        overrides.append("model.num_hidden_layers=1")
    if data["name"] == "images":
        return [*overrides, f"data.path={write_images(folder / 'images.npz', size=28)}"]
    if (recipe.get("task") or {}).get("name") != "recall":  # which has the words of its data
        overrides.append("task.vocab_size=400")
    if data["name"] == "parallel":
        given = {**vars(registry.sources.get("parallel")()), **data}
        stems = [given[part] for part in ("train", "validation", "test") if given[part] is not None]
        root = write_parallel(folder / "pairs", (given["source"], given["target"]), stems)
        overrides.append(f"data.root={root}")
    elif data["name"] == "python_stdlib":
        overrides.append("data.max_files=12")
    elif data["name"] == "docstrings":
        overrides += ["data.max_files=12", "task.max_length=24", "task.too_long=cut", "model.num_hidden_layers=1"]
    elif data["name"] == "dialogues":
        overrides += [f"data.{side}={write_dialogues(folder / f'{side}.txt')}" for side in ("train", "test")]
        overrides.append("model.num_hidden_layers=1")
    elif data["name"] == "text":
        overrides += ["data.train=null", "data.validation=null", "data.test=null", "data.documents=paragraphs"]
        overrides.append(f"data.path={write_text(folder / 'text.txt')}")
    for place, source in {"data": data, **{f"data.members.{name}": own for name, own in members_of(data)}}.items():
        if source["name"] == "labelled_text":
            file = write_like(folder / f"{place}.txt", source)
            overrides += [f"{place}.path={file}", f"{place}.label_names=null"]
            overrides += [f"{place}.{side}=null" for side in ("train", "validation", "test")]
    return overrides


def members_of(data: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """The data sections of several tasks at once, by name; none of one."""
    return (data.get("members") or {}).items()


def is_distillation(path: Path) -> bool:
    """Whether the recipe at `path` is one for `bareformers distill`."""
    return "teacher" in yaml.safe_load(path.read_text(encoding="utf-8"))


def is_paring(path: Path) -> bool:
    """Whether a recipe is for `bareformers pare`."""
    return "candidates" in yaml.safe_load(path.read_text(encoding="utf-8"))


def is_comparison(path: Path) -> bool:
    """Whether a recipe is for `bareformers run` and says no other `kind`."""
    kind = yaml.safe_load(path.read_text(encoding="utf-8")).get("kind", "comparison")
    return kind == "comparison" and not (is_distillation(path) or is_paring(path))


def begun_by(path: Path, recipes: Path) -> list[Path]:
    """The recipes whose runs the recipe at `path` starts from, which are to be carried out before it."""
    named = set(re.findall(r"\bruns/([\w.-]+)/", path.read_text(encoding="utf-8")))
    return [other for other in sorted(recipes.rglob("*.yaml")) if name_of(other) in named - {name_of(path)}]


def name_of(path: Path) -> str:
    """What the recipe at `path` is called, and so is its folder."""
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["name"])


def text_data(cache: Path) -> TaskData:
    """Blocks of the made-up text, prepared."""
    texts = tuple(paragraphs())
    corpus = Corpus("documents", texts[:200], texts[200:206], texts[206:212])
    return prepare(corpus, "language_modelling", 300, MAX_LENGTH, cache=cache)


def pair_data(cache: Path) -> TaskData:
    """Reversals, prepared."""
    train, validation, test = (tuple(reversals(count, seed)) for seed, count in enumerate((400, 16, 16)))
    return prepare(Corpus("pairs", train, validation, test), "translation", 300, MAX_LENGTH, cache=cache)


def masked_data(cache: Path, count: int = 16) -> TaskData:
    """Blocks with masks, so few that a training of thirty steps sees each several times."""
    texts = tuple(paragraphs(count))
    corpus = Corpus("documents", texts[:-4], texts[-4:-2], texts[-2:])
    return prepare(corpus, "masked_language_modelling", 290, MAX_LENGTH, cache=cache, mask_share=0.25)


def labelled_data(cache: Path) -> TaskData:
    """Sentences of three classes, prepared."""
    train, validation, test = (tuple(labelled(count, seed)) for seed, count in enumerate((200, 30, 40)))
    return prepare(Corpus("labelled", train, validation, test), "classification", 290, MAX_LENGTH, cache=cache)


def model(data: TaskData, mixer: Any = "dot_product", seed: int = 0, **config: Any) -> Any:
    """An untrained model for `data`."""
    set_seed(seed)
    given = {
        **SIZES,
        "vocab_size": len(data.tokenizer),
        "max_position_embeddings": MAX_LENGTH,
        "mixer": mixer,
        **config,
    }
    chosen = BareConfig.from_recipe(is_encoder_decoder=MODELS[data.form] is BareForSeq2SeqLM, **given)
    if data.labels:
        chosen.id2label = dict(enumerate(data.labels))
    return MODELS[data.form](chosen)


def validation_loss(net: Any, data: TaskData) -> float:
    """Nats per token on the validation side."""
    batches = (
        data.collate([data.validation[index] for index in indices])
        for indices in evaluation_batches(data.validation.lengths, 1024)
    )
    return quality.likelihood(net, batches, causal=data.task == "language_modelling").loss


def trainer(
    data: TaskData,
    folder: Path,
    mixer: Any = "dot_product",
    seed: int = 0,
    validate: Callable[[Any], float] | None = None,
    callbacks: Iterable[Any] = (),
    collate: Callable[..., Any] | None = None,
    config: dict[str, Any] | None = None,
    **settings: Any,
) -> BareTrainer:
    """A trainer of a tiny model; `settings` are those of a recipe's training section."""
    given = {"batch_tokens": 256, "warmup_steps": 4, "evaluations": 2, "checkpoints": 2, "precision": "fp32"}
    folder.mkdir(parents=True, exist_ok=True)
    return BareTrainer(
        model(data, mixer, seed, **(config or {})),
        Training.model_validate({"budget": {"steps": 12}, **given, **settings}),
        data.train,
        collate or data.collate,
        data.task == "language_modelling",
        validate or (lambda net: validation_loss(net, data)),
        folder,
        seed,
        label="tiny",
        callbacks=callbacks,
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` without what time has to do with."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{key: row[key] for key in row if key not in ("seconds", "tokens_per_second")} for row in rows]


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What a failed command says, once it is sure that it says it as it should."""
        lines = self.err.splitlines()
        said = [line for line in lines if line.startswith("bareformers: ")]
        assert self.code == 2, self
        assert len(said) == 1 and lines[-1] == said[0], self.err
        assert "Traceback" not in self.err + self.out
        return said[0].removeprefix("bareformers: ")


def command(capsys: pytest.CaptureFixture[str], *words: object, stdin: bytes = b"") -> Outcome:
    """Give a command to the entry point in this process, which is several seconds faster than a new one."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bareformers", *map(str, words)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    captured = capsys.readouterr()
    return Outcome(code if isinstance(code, int) else int(code is not None), captured.out, captured.err)


def forget(registered: registry.Registry, *names: str) -> None:
    """Take back what a test has registered."""
    for name in names:
        registered._classes.pop(name, None)


class Fall(TrainerCallback):
    """Ends the process before a step, as far as a test can."""

    class Killed(Exception):
        pass

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.Killed
