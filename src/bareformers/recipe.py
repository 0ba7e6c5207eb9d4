"""The recipe: what a comparison consists of, read from YAML and `key=value` overrides.

The sections `data`, `model` and `variants` hold options of registered classes; their keys are checked where those
classes are known (`registry.options`, `BareConfig.from_recipe`). All other keys are checked here.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from bareformers.errors import InputError, nearest, unknown

FILES = ("recipe.yaml", "result.json", "results.csv", "report.html", "layers.json")  # beside the folders of variants
PAIRED = ("translation", "summarisation", "dialogue")  # tasks of a source and its target
SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9}


def _number(value: Any) -> Any:
    """`20M` -> 20,000,000."""
    if isinstance(value, str) and value[-1:] in SUFFIXES:
        try:
            return round(float(value[:-1]) * SUFFIXES[value[-1]])
        except (ValueError, OverflowError):
            return value
    return value


def _no_repeats(entries: list[Any]) -> list[Any]:
    if len(set(entries)) != len(entries):
        raise ValueError("entries repeat")
    return entries


Count = Annotated[int, BeforeValidator(_number), Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rates = Annotated[list[Rate], Field(min_length=1), AfterValidator(_no_repeats)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1), AfterValidator(_no_repeats)]


HEADLINES = {
    "classification": ("accuracy", "f1", "matthews"),
    "image_classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "multi_task": ("accuracy", "f1", "matthews", "pearson", "spearman"),
}
"""What may rank models, by task; the first does by default."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Temperature(Section):
    """Of the sampling of several tasks: the larger, the more alike are their shares."""

    temperature: Rate


def _sampling(value: Any) -> Any:
    """A mapping -> a `Temperature`."""
    if value == "proportional" or isinstance(value, Temperature):
        return value
    try:
        return Temperature.model_validate(value)
    except ValidationError:
        raise ValueError(
            f"sampling is proportional, or has a temperature above 0, as in {{temperature: 2}}, not {value!r}"
        ) from None


JUDGED = ("classification", "regression", "multi_task")  # tasks of texts with a class or a score each
LANGUAGE = ("language_modelling", "masked_language_modelling")
READ_BY: dict[str, tuple[str, ...]] = {
    "vocab_size": (*LANGUAGE, *PAIRED, *JUDGED),
    "max_length": (*LANGUAGE, *PAIRED, *JUDGED, "recall"),
    "too_long": (*PAIRED, *JUDGED),
    "mask_share": ("masked_language_modelling",),
    "patch": ("image_classification",),
    "shift": ("image_classification",),
    "decoder_only": PAIRED,
    "sampling": ("multi_task",),
}
"""The tasks that read an option; what does not stand here all of them read."""


class Task(Section):
    """What is learned from the corpus."""

    name: Literal[
        "recall",
        "classification",
        "regression",
        "multi_task",
        "image_classification",
        "masked_language_modelling",
        "language_modelling",
        "translation",
        "summarisation",
        "dialogue",
    ] = "language_modelling"
    vocab_size: Count = 8000  # of the BPE tokenizer, trained on the training side only; recall has its data's words
    max_length: Annotated[int, Field(ge=2)] = 128  # tokens of a packed block, or of the longest sentence or sequence
    too_long: Literal["drop", "cut", "error"] = "drop"  # pairs and labelled texts beyond max_length, counted
    # Of the training side that is learnt from; the tokenizer reads all of it.
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15  # masked_language_modelling: of the tokens of a block
    patch: Count | None = None  # image_classification: pixels on a side of what becomes a position
    shift: Annotated[int, Field(ge=0)] = 0  # image_classification: the most that training images are moved, in pixels
    decoder_only: bool = False  # of pairs: one decoder reads the source and goes on with the target
    # multi_task: or {temperature: 2}, for more of the small members
    sampling: Annotated[Literal["proportional"] | Temperature, BeforeValidator(_sampling)] = "proportional"

    @property
    def form(self) -> str:
        """What decides about the model: the task, or that all is read by one decoder."""
        return "decoder_only" if self.decoder_only else self.name

    @property
    def said(self) -> str:
        """Its name, and of pairs whether one decoder is to read them."""
        if self.name not in PAIRED:
            return self.name
        return f"{self.name} with decoder_only: {str(self.decoder_only).lower()}"

    @property
    def positions(self) -> int:
        """The most that a model is to read: of a decoder alone both sides of a pair and the `</s>` before them."""
        return 2 * self.max_length + 1 if self.decoder_only else self.max_length

    @staticmethod
    def room(positions: int, decoder_only: bool) -> int:
        """The largest `max_length` that so many positions hold."""
        return (positions - 1) // 2 if decoder_only else positions

    @property
    def temperature(self) -> float:
        """Of the sampling of several tasks; 1 in proportion to their sizes."""
        return 1.0 if isinstance(self.sampling, str) else self.sampling.temperature

    @model_validator(mode="after")
    def _effective(self) -> Task:
        for key, tasks in READ_BY.items():
            if self.name not in tasks and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{self.name} does not read {key}, so it would do nothing; leave it out")
        if self.name == "image_classification" and self.patch is None:
            raise ValueError("image_classification needs patch, pixels on a side of a patch, as in patch: 4")
        return self


class Budget(Section):
    """What every variant may spend: exactly one of these."""

    tokens: Count | None = None  # predicted tokens
    steps: Count | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None  # of training, without evaluation
    epochs: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of tokens, steps, minutes or epochs, not {', '.join(given) or 'none'}")
        return self


class Training(Section):
    """How every variant is trained."""

    budget: Budget
    batch_tokens: Count = 2048  # rows x longest side of a batch, padding included
    accumulate: Count = 1  # batches for each step
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["warmup_stable_decay", "cosine", "inverse_sqrt", "slanted_triangular"] = "warmup_stable_decay"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Annotated[float, Field(ge=0, le=1)] = 0.35  # share of the budget in which warmup_stable_decay falls to 0
    layer_decay: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0  # divides the rate for each layer down
    unfreezing: Literal["none", "gradual"] = "none"  # gradual: the head learns first, and in each epoch one layer more
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01  # not on norms, biases and gains
    clip: Annotated[float, Field(ge=0)] = 1.0  # norm of the gradient
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the processor multiplies it natively
    evaluations: Count = 10  # passes over the validation side, evenly over the budget
    checkpoints: Count = 10  # from which a killed run resumes, evenly over the budget
    average_checkpoints: Annotated[int, Field(ge=0)] = 0  # of the last ones, for the final weights
    early_stopping: Count | None = None  # evaluations without a better loss before training stops
    gradient_checkpointing: bool = False
    report_to: list[str] = []  # trackers of transformers, such as tensorboard

    @model_validator(mode="after")
    def _average(self) -> Training:
        if self.average_checkpoints > self.checkpoints:
            raise ValueError(
                f"average_checkpoints {self.average_checkpoints} is more than checkpoints {self.checkpoints}"
            )
        if self.average_checkpoints and self.early_stopping:
            raise ValueError("average_checkpoints and early_stopping both choose the final weights; give one of them")
        return self

    @model_validator(mode="after")
    def _slanted(self) -> Training:
        for key in ("warmup_steps", "decay") if self.schedule == "slanted_triangular" else ():
            if getattr(self, key) != (default := Training.model_fields[key].default):
                raise ValueError(
                    f"slanted_triangular has its own rise and fall, so {key} {getattr(self, key)} would do nothing; "
                    f"leave it out, or at {default}"
                )
        return self


class Evaluation(Section):
    """What is measured once training has ended."""

    beams: Count = 4  # of translations, summaries and answers
    length_penalty: float = 1.0
    batch_tokens: Count = 2048
    max_sentences: Count | None = None  # of the test side that are translated or answered; all by default
    samples: Annotated[int, Field(ge=0)] = 6
    sample_tokens: Count = 48  # continuation of a language model; what is shown of a block with masks
    speed_rounds: Annotated[int, Field(ge=0)] = 5  # interleaved timings of training and decoding; 0: none
    headline: str | dict[str, str] = ""  # what ranks models that tell classes or scores; multi_task: of which members

    def check(self, task: Task) -> None:
        """An `InputError` where `headline` names nothing that may rank models of the task."""
        if not self.headline:
            return
        known = HEADLINES.get(task.name, ())
        if not known:
            raise InputError(
                f"what ranks models of {task.name} is fixed, so evaluation.headline would do nothing; leave it out"
            )
        if isinstance(self.headline, str) == (task.name == "multi_task"):
            such = "{cola: matthews}, with the name of a member" if task.name == "multi_task" else known[0]
            raise InputError(
                f"evaluation.headline of {task.name} is written as in headline: {such}, not {self.headline!r}"
            )
        for given in self.headline.values() if isinstance(self.headline, dict) else [self.headline]:
            if given not in known:
                raise InputError(
                    f"evaluation.headline {given!r} is no score of {task.name} that ranks; write {' or '.join(known)}"
                )


def _names(given: dict[str, Any], kind: str) -> None:
    """Raise where one of the names does not name a folder."""
    if not given:
        raise ValueError(f"give at least one {kind}")
    for name in given:
        if not name.replace("_", "").replace("-", "").replace("+", "").replace(".", "").isalnum() or name in FILES:
            signs = "letters, digits, '_', '-', '+' and '.'"
            raise ValueError(f"{kind} {name!r} names a folder: use {signs}, but for {', '.join(FILES)}")


class Start(Section):
    """The run that a run starts from: with its sizes, its tokenizer and, unless said otherwise, its weights."""

    run: Annotated[str, Field(min_length=1)]  # its folder; {variant} and {seed} are those of the run that starts
    weights: bool = True  # of its stack; false for a fresh start with the same sizes and tokenizer

    @field_validator("run")
    @classmethod
    def _places(cls, run: str) -> str:
        for _, place, _, _ in Formatter().parse(run):
            if place is not None and place not in ("variant", "seed"):
                raise ValueError(f"{{{place}}} stands for nothing; {{variant}} and {{seed}} are filled in")
        return run

    @property
    def folder(self) -> Path:
        return Path(self.run).expanduser()


def _start(value: Any) -> Any:
    """A folder alone -> a mapping."""
    return {"run": value} if isinstance(value, str) else value


class Named(Section):
    """What every recipe says, whatever is carried out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,=+-]*$")]
    description: str = ""
    output: str = ""  # folder; runs/<name> by default

    @property
    def folder(self) -> Path:
        return Path(self.output or f"runs/{self.name}").expanduser()

    def check(self) -> None:
        """An `InputError` where what it says of single variants is wrong."""

    def dump(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class Study(Named):
    """What every comparison says, however its models come about."""

    seeds: Seeds = [0]
    training: Training
    evaluation: Evaluation = Evaluation()
    plugins: list[str] = []  # modules to import that register mixers, blocks or sources

    @property
    def baseline_name(self) -> str:
        """What the others are held against."""
        raise NotImplementedError


class Recipe(Study):
    """A comparison: variants of one model, trained on the same data with the same budget."""

    kind: Literal["comparison"] = "comparison"
    data: dict[str, Any]  # {name: <source>, <its options>}
    task: Task = Task()
    model: dict[str, Any] = {}  # fields of BareConfig, for all variants
    variants: dict[str, dict[str, Any]]  # what each changes: fields of BareConfig, training: {...}, seeds, start_from
    baseline: str = ""  # the first variant by default
    start_from: Annotated[Start | None, BeforeValidator(_start)] = None  # a run folder, for all variants

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        _names(self.variants, "variant")
        if self.baseline and self.baseline not in self.variants:
            known = ", ".join(self.variants)
            raise ValueError(
                f"baseline {self.baseline!r} is no variant{nearest(self.baseline, self.variants)} ({known})"
            )
        self.evaluation.check(self.task)
        return self

    def check(self) -> None:
        for variant in self.variants:
            self.training_for(variant)
            self.start_for(variant, seed=self.seeds_for(variant)[0])

    @property
    def baseline_name(self) -> str:
        return self.baseline or next(iter(self.variants))

    def training_for(self, variant: str) -> Training:
        """The training section, with what `variant` changes of it (never the budget: that would be unfair)."""
        return _changed(self.training, self.variants[variant].get("training"), variant, "training")

    def seeds_for(self, variant: str) -> list[int]:
        """The seeds of `variant`: its own, or those of the recipe."""
        given = self.variants[variant].get("seeds", self.seeds)
        try:
            return TypeAdapter(Seeds).validate_python(given)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InputError(f"variants.{variant}.seeds: {said}, as in seeds: [0, 1, 2], not {given!r}") from None

    def start_for(self, variant: str, seed: int) -> Start | None:
        """Where `variant` with `seed` starts from: its own `start_from`, or that of the recipe, places filled in."""
        given = self.variants[variant].get("start_from", self.start_from)
        if given is None:
            return None
        start: Start = validated(Start, _start(given), f"variants.{variant}.start_from")
        return Start(run=start.run.format(variant=variant, seed=seed), weights=start.weights)

    def model_for(self, variant: str) -> dict[str, Any]:
        """Fields of the config of `variant`."""
        others = ("training", "seeds", "start_from")
        return {**self.model, **{key: value for key, value in self.variants[variant].items() if key not in others}}


def _changed(training: Training, changes: Any, variant: str, section: str) -> Training:
    """A training section with what a variant changes of it."""
    changes = changes or {}
    if not isinstance(changes, dict):
        raise InputError(f"variants.{variant}.{section} is a mapping of keys to change, not {changes!r}")
    if unfair := sorted({"budget", "batch_tokens", "accumulate"} & set(changes)):
        raise InputError(
            f"variant {variant!r} changes {section}.{unfair[0]}; every variant has the same data and budget"
        )
    merged = OmegaConf.to_container(OmegaConf.merge(training.model_dump(), changes))
    changed: Training = validated(Training, merged, f"variants.{variant}.{section}")
    return changed


DATA_KEYS = ("share", "tokens")
"""Keys of a sweep that say how much is learnt from."""
SIZE_KEYS = ("sizes", "hidden_size", "num_hidden_layers", "num_encoder_layers", "intermediate_size")
"""Keys of a sweep that say how large a model is; all others part the points into settings."""


POINT_KEYS = ("max_length", "share", "learning_rate")
"""Keys of a sweep that belong to the task or to the training, not to the model."""


class Sweep(Recipe):
    """A comparison at every point of a grid: what grows, and the values that it takes."""

    kind: Literal["sweep"] = "sweep"  # type: ignore[assignment]
    # Fields of the model, task.max_length, task.share, or tokens, the budget: lists of values. Or sizes, for what
    # grows together: {small: {hidden_size: 64, num_attention_heads: 2}, ...}, with learning_rate where it is to follow.
    sweep: dict[str, list[bool | int | float | str] | dict[str, dict[str, Any]]]

    @model_validator(mode="before")
    @classmethod
    def _budgeted(cls, given: Any) -> Any:
        """The budget of a sweep over tokens is the largest of them."""
        swept, training = (given.get(key) if isinstance(given, dict) else None for key in ("sweep", "training"))
        if not isinstance(swept, dict) or not isinstance(training, dict) or not isinstance(swept.get("tokens"), list):
            return given
        counts = [_number(count) for count in swept["tokens"]]
        if not counts or not all(isinstance(count, int) for count in counts):
            raise ValueError(f"sweep.tokens is a list of budgets, as in tokens: [500k, 2M], not {swept['tokens']!r}")
        largest = {"tokens": max(counts)}
        said = training.get("budget") or {}
        if said and (not isinstance(said, dict) or {key: _number(said[key]) for key in said if said[key]} != largest):
            raise ValueError("sweep.tokens is the budget, so training.budget would do nothing; leave one of them out")
        return {**given, "sweep": {**swept, "tokens": counts}, "training": {**training, "budget": largest}}

    @model_validator(mode="after")
    def _grid(self) -> Sweep:
        if not self.sweep:
            raise ValueError("sweep says what grows, as in sweep: {hidden_size: [64, 128]}")
        for key, values in self.sweep.items():
            if (key == "sizes") != isinstance(values, dict):
                instead = "a mapping of names to sizes" if key == "sizes" else "a list of values"
                raise ValueError(f"sweep.{key} is {instead}, not {values!r}")
            if not values or isinstance(values, list) and len(set(values)) < len(values):
                raise ValueError(f"sweep.{key} needs at least one value, and none twice")
        if self.training.budget.minutes is not None or self.training.early_stopping:
            key = "early_stopping" if self.training.budget.minutes is None else "budget.minutes"
            raise ValueError(
                f"training.{key} lets each size learn from another amount of data, which laws of size do not allow "
                f"for; write a budget in tokens, steps or epochs alone"
            )
        if all(key in self.sweep for key in DATA_KEYS):
            raise ValueError("sweep.share and sweep.tokens both say how much is learnt from; leave one of them out")
        _names(self.sizes or {"none": {}}, "size")
        own = [set(size) for size in self.sizes.values()]
        if lacking := {key for keys in own for key in keys if not all(key in other for other in own)}:
            raise ValueError(f"sizes say the same keys, and not all of them say {sorted(lacking)[0]}")
        return self

    @property
    def sizes(self) -> dict[str, dict[str, Any]]:
        """What `sizes` says, by name."""
        found = self.sweep.get("sizes", {})
        assert isinstance(found, dict)
        return found

    @property
    def swept(self) -> list[str]:
        """All keys that differ between points, those of sizes too."""
        return [key for key in self.sweep if key != "sizes"] + list(next(iter(self.sizes.values()), {}))

    def check(self) -> None:
        super().check()
        inside = [key for key in next(iter(self.sizes.values()), {}) if key in self.sweep]
        if inside:
            raise InputError(f"sweep.{inside[0]} is also in sweep.sizes; say it in one of them")
        for key in self.swept:
            places = {"model": self.model, **{f"variants.{name}": given for name, given in self.variants.items()}}
            if key == "learning_rate":
                places = {
                    f"variants.{name}.training": given.get("training") or {} for name, given in self.variants.items()
                }
            if said := [place for place, given in places.items() if key in given]:
                raise InputError(
                    f"{key} is in the sweep, which would do nothing where {said[0]}.{key} says it; leave one out"
                )
            # Written out as it is by default it may stand, as it does in the recipe that a sweep leaves in its folder.
            section, name = (self.training, "training") if key == "learning_rate" else (self.task, "task")
            if key in POINT_KEYS and getattr(section, key) != type(section).model_fields[key].default:
                raise InputError(f"{key} is in the sweep, so {name}.{key} would do nothing; leave it out")
        self.points()

    def grid(self) -> list[dict[str, Any]]:
        """What each point says of the keys of the sweep; of sizes the name."""
        return [dict(zip(self.sweep, chosen, strict=True)) for chosen in product(*self.sweep.values())]

    def points(self) -> dict[str, Recipe]:
        """The comparison at each point of the grid, by its name, which is that of its folder too."""
        return {_point_name(values): self._point(values) for values in self.grid()}

    def _point(self, values: dict[str, Any]) -> Recipe:
        name = _point_name(values)
        flat = {key: value for key, value in values.items() if key != "sizes"} | self.sizes.get(
            values.get("sizes", ""), {}
        )
        task = {key: flat.pop(key) for key in ("max_length", "share") if key in flat}
        training = {"learning_rate": flat.pop("learning_rate")} if "learning_rate" in flat else {}
        if "tokens" in flat:
            training["budget"] = {"tokens": flat.pop("tokens")}
        own = self.model_dump(mode="json", exclude={"kind", "sweep"})
        given = {
            **own,
            "name": name,
            "description": " ".join(filter(None, (f"A point of the sweep {self.name}.", self.description))),
            "output": str(self.folder / name),
            "task": {**own["task"], **task},
            "model": {**self.model, **flat},
            "training": {**own["training"], **training},
        }
        point: Recipe = validated(Recipe, given, f"the point {name}")
        return point


def _point_name(values: dict[str, Any]) -> str:
    """`small,share=0.5`, `hidden_size=64,tokens=2M`."""

    def written(key: str, value: Any) -> str:
        said = _short(value) if key == "tokens" else f"{value:g}" if isinstance(value, float) else str(value)
        return said if key == "sizes" else f"{key}={said}"

    return ",".join(written(key, value) for key, value in values.items())


def _short(count: int) -> str:
    """2,000,000 -> `2M`."""
    for suffix, size in reversed(SUFFIXES.items()):
        if count % size == 0:
            return f"{count / size:.0f}{suffix}"
    return str(count)


class General(Section):
    """The first stage of a transfer: a language model of text that need have nothing to do with the task."""

    data: dict[str, Any]  # {name: <source>, <its options>}
    training: Training
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None  # of one model for all seeds; by default each has its own


class Adaptation(Section):
    """The second: the language model goes on with the task's own training texts."""

    training: Training


Stage = General | Adaptation
STAGES = ("general", "adaptation")


class Transfer(Recipe):
    """Classifiers that begin as language models (Howard & Ruder, ACL 2018, arXiv:1801.06146)."""

    kind: Literal["transfer"] = "transfer"  # type: ignore[assignment]
    language_model: Literal["language_modelling", "masked_language_modelling"] = "language_modelling"
    general: General | None = None
    adaptation: Adaptation | None = None

    @model_validator(mode="after")
    def _staged(self) -> Transfer:
        if self.task.name != "classification":
            raise ValueError(f"a transfer ends in a classifier: write task.name: classification, not {self.task.name}")
        if self.general is None and self.adaptation is None:
            raise ValueError("a transfer has a stage before the classifier: write general: or adaptation:, or both")
        if self.start_from is not None or any(given.get("start_from") for given in self.variants.values()):
            raise ValueError("a transfer begins with its own language models, so start_from has no place; leave it out")
        if taken := {"general", "adapted"} & set(self.variants):
            raise ValueError(f"no variant is called {taken.pop()!r}, for that folder holds language models")
        return self

    def check(self) -> None:
        super().check()
        for variant in self.variants:
            for stage in STAGES:
                self.stage_for(variant, stage)
            if "classifier_causal" in {**self.model, **self.variants[variant]}:
                raise InputError("classifier_causal follows from language_model; leave it out of the model")

    def stage_for(self, variant: str, stage: str) -> Stage | None:
        """A stage with what `variant` changes of its training; None where the variant does without it."""
        own: Stage | None = getattr(self, stage)
        if stage not in self.variants[variant]:
            return own
        given = self.variants[variant][stage]
        if given is None:
            return None
        where = f"variants.{variant}.{stage}"
        if own is None:
            raise InputError(f"{where} changes a stage that the recipe does not have; write {stage}: at its top")
        if not isinstance(given, dict) or set(given) != {"training"}:
            raise InputError(f"{where} is null, or changes training: {{...}}, not {given!r}")
        changed = _changed(own.training, given["training"], variant, f"{stage}.training")
        return own.model_copy(update={"training": changed})

    def language_model_for(self, variant: str) -> dict[str, Any]:
        """Fields of the config of the language models of `variant`."""
        return {key: value for key, value in self.model_for(variant).items() if not key.startswith("classifier_")}

    def model_for(self, variant: str) -> dict[str, Any]:
        """Fields of the config of the classifier of `variant`, which reads as the language model does."""
        given = {key: value for key, value in super().model_for(variant).items() if key not in STAGES}
        return given | ({"classifier_causal": True} if self.language_model == "language_modelling" else {})


class LessonTraining(Training):
    """How students learn what parts of a teacher give: all in one pass, and each as if it were alone."""

    clip: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # so that a student that knows all stays as it is

    @model_validator(mode="after")
    def _alone(self) -> LessonTraining:
        if self.clip or self.early_stopping:
            key = "clip" if self.clip else "early_stopping"
            raise ValueError(f"{key} would let students that share no weights change each other; leave it out")
        for key in ("label_smoothing", "gradient_checkpointing"):
            if getattr(self, key):
                raise ValueError(f"{key} would do nothing, since students learn no labels; write it under finetune")
        if self.layer_decay != 1 or self.unfreezing != "none":
            key = "unfreezing" if self.layer_decay == 1 else "layer_decay"
            raise ValueError(f"{key} is for whole models, and students learn alone; write it under finetune")
        return self


class Finetune(Training):
    """How each student is trained whole, once it has learnt its parts."""

    logits: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the teacher's predictions in what is learnt
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of these predictions
    only_replaced: bool = False  # whether only what the student does not have from the teacher learns

    @model_validator(mode="after")
    def _effective(self) -> Finetune:
        if self.temperature != 1 and not self.logits:
            raise ValueError("temperature would do nothing without the teacher's predictions; write logits: 0.5")
        if self.label_smoothing and self.logits == 1:
            raise ValueError("label_smoothing would do nothing, since logits: 1 leaves no share to the labels")
        return self


class Distillation(Study):
    """Students that take over parts of a trained teacher."""

    teacher: Annotated[str, Field(min_length=1)]  # a run folder, or that of a model of ours
    data: dict[str, Any] = {}  # what differs from the data and the task of the teacher's run
    task: dict[str, Any] = {}
    students: dict[str, dict[str, Any]]  # the mixers that stand in for the teacher's: {encoder_mixer: gaussian}
    training: LessonTraining
    match_maps: Annotated[float, Field(ge=0)] = 0.0  # weight of the squared difference of maps, where both have one
    finetune: Finetune | None = None
    # in which layers are replaced
    orders: Annotated[list[Literal["alone", "bottom", "top"]], AfterValidator(_no_repeats)] = ["alone", "bottom", "top"]

    @model_validator(mode="after")
    def _consistent(self) -> Distillation:
        _names(self.students, "student")
        if taken := {"teacher", "lessons"} & set(self.students):
            raise ValueError(f"no student is called {taken.pop()!r}, for that folder holds something else")
        return self

    @property
    def baseline_name(self) -> str:
        return "teacher"


class Tuning(Finetune):
    """How a pared model is trained whole."""

    # The rank of what linear maps learn while their weights stay (Hu et al., ICLR 2022); by default all weights learn.
    low_rank: Count | None = None

    @model_validator(mode="after")
    def _all_weights(self) -> Tuning:
        for key in ("only_replaced", "average_checkpoints", "early_stopping"):
            if self.low_rank and getattr(self, key):
                raise ValueError(f"{key} is about weights that do not learn with low_rank; leave one of both out")
        return self


class Search(Section):
    """How it is found what can be replaced."""

    # Of the validation side, the rest of which verifies; without a test side, of the training side. 0.5 and 0.1.
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    examples: Count | None = 1000  # that it is scored on, the most
    noise: Annotated[float, Field(ge=0)] | None = None  # drops below it count as it; by default one example's
    slack: Annotated[float, Field(ge=1)] = 1.0  # times max_drop that it may lose, where fine-tuning wins back the rest


LESSONS: dict[str, Any] = {"budget": {"epochs": 2}, "warmup_steps": 10}
TUNING: dict[str, Any] = {"budget": {"epochs": 1}, "learning_rate": 5e-5, "warmup_steps": 10, "logits": 0.5}


class Paring(Study):
    """A trained model whose attention is replaced wherever that costs little."""

    model: Annotated[str, Field(min_length=1)]  # a run folder, or a folder or name of a model of transformers
    data: dict[str, Any] = {}  # of a run what differs from its own
    task: dict[str, Any] = {}
    candidates: Annotated[list[str | dict[str, Any]], Field(min_length=1)] = ["gaussian", "average", "linear"]
    max_drop: Annotated[float, Field(ge=0)] = 1.0  # of the metric, in points; where less of it is better, in percent
    metric: str = ""  # the first of those that the task has
    target: Literal["latency", "parameters", "state"] = "latency"  # what is to be saved
    training: LessonTraining = LessonTraining(**LESSONS)
    match_maps: Annotated[float, Field(ge=0)] = 0.0  # weight of the squared difference of maps, where both have one
    search: Search = Search()
    finetune: Tuning | None = Tuning(**TUNING)

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """What a section does not say is as in the default of the whole section."""
        if not isinstance(given, dict):
            return given
        filled = {}
        for key, defaults in {"training": LESSONS, "finetune": TUNING}.items():
            if isinstance(own := given.get(key), dict):
                idle = "warmup_steps" if own.get("schedule") == "slanted_triangular" else ""
                filled[key] = {**{name: value for name, value in defaults.items() if name != idle}, **own}
        return {**given, **filled}

    @field_validator("evaluation")
    @classmethod
    def _bounded(cls, evaluation: Evaluation) -> Evaluation:
        if evaluation.headline:
            raise ValueError("what a paring bounds also ranks, so headline would do nothing; write metric")
        return evaluation

    @field_validator("seeds")
    @classmethod
    def _one_seed(cls, seeds: list[int]) -> list[int]:
        if len(seeds) > 1:
            raise ValueError("one model comes out of a paring, so give one seed")
        return seeds

    @property
    def baseline_name(self) -> str:
        return "original"


def _deviation(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (number and 0 <= value < float("inf")):
        raise ValueError(f"{value!r} is neither a number from 0 on nor auto, which is the start of the authors")
    return value


class ScanAndSnapRecipe(Named):
    """One layer without positions in the variables of its own theory (Tian et al., NeurIPS 2023, arXiv:2305.16380)."""

    kind: Literal["scan_and_snap"] = "scan_and_snap"
    seeds: Seeds = [0]
    classes: Count = 2  # next tokens of each last token
    last_tokens: Count = 1
    common: Annotated[int, Field(ge=0)] = 10  # tokens in the contexts of all next tokens
    distinct: Count = 10  # tokens in the context of one next token alone, for each
    length: Annotated[int, Field(ge=2)] = 128  # tokens of a sequence, with the last one
    batch: Count = 128
    iterations: Count = 100
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    learning_rate_z: Rates = [0.5, 1.0, 2.0]
    # Each has a colour of its own, and there are eight.
    ratios: Annotated[Rates, Field(max_length=8)] = [1.0, 2.0, 5.0, 10.0]
    # Standard deviation of Y and Z; auto: that of the authors' sweep, 1 / sqrt(3 * tokens).
    initial: Annotated[float | Literal["auto"], BeforeValidator(_deviation)] = 0.0

    @model_validator(mode="after")
    def _open(self) -> ScanAndSnapRecipe:
        if self.classes * self.last_tokens == 1:
            raise ValueError("one last token with one next token leaves nothing to predict; write classes: 2")
        return self


class MatrixRow(Section):
    """One task of a matrix: the folder of a finished comparison, and what stands there for which mixer."""

    results: Annotated[str, Field(min_length=1)]  # the folder with its result.json
    metric: str = ""  # the comparison's headline by default
    variants: dict[str, str] = {}  # mixer: what it is called there, where that is something else


class MatrixRecipe(Named):
    """Mixers x tasks, from comparisons that are finished."""

    kind: Literal["matrix"] = "matrix"
    whole: str = "dot_product"  # where the way ends that begins at a task's best floor
    mixers: Annotated[list[str], Field(min_length=1), AfterValidator(_no_repeats)]  # the columns
    tasks: Annotated[dict[str, MatrixRow], Field(min_length=1)]  # by what they are called

    @model_validator(mode="after")
    def _compared(self) -> MatrixRecipe:
        if self.whole not in self.mixers:
            raise ValueError(f"whole is {self.whole!r}, which is not among mixers ({', '.join(self.mixers)}); add it")
        for task, row in self.tasks.items():
            for mixer in row.variants:
                if mixer not in self.mixers:
                    raise ValueError(
                        f"tasks.{task}.variants names the mixer {mixer!r}, which is not among mixers "
                        f"({', '.join(self.mixers)}){nearest(mixer, self.mixers)}"
                    )
        return self


RECIPES: dict[str, type[Named]] = {
    "comparison": Recipe,
    "sweep": Sweep,
    "transfer": Transfer,
    "scan_and_snap": ScanAndSnapRecipe,
    "matrix": MatrixRecipe,
}
"""What `bareformers run` carries out, by the `kind` that a recipe says."""


def load(path: Path, overrides: list[str] | None = None) -> Any:
    """Read a recipe of one of the `RECIPES`, of a comparison where it says no `kind`.

    `overrides` are `key.sub=value`. What is wrong with it is one `InputError`.
    """
    plain = _plain(path, overrides, Recipe)
    kind = str(plain.get("kind", "comparison"))
    if kind not in RECIPES:
        raise unknown("kind of recipe", kind, RECIPES)
    recipe = validated(RECIPES[kind], plain, str(path))
    recipe.check()
    return recipe


def load_distillation(path: Path, overrides: list[str] | None = None) -> Distillation:
    """Read the recipe of a distillation, as `load` does that of a comparison."""
    distillation: Distillation = _load(Distillation, path, overrides)
    return distillation


def load_paring(path: Path, overrides: list[str] | None = None) -> Paring:
    """Read the recipe of a paring, as `load` does that of a comparison."""
    paring: Paring = _load(Paring, path, overrides)
    return paring


def paring(given: dict[str, Any], overrides: list[str] | None = None) -> Paring:
    """The recipe of a paring from its keys, without a file."""
    found: Paring = validated(Paring, _resolved(given, overrides, "pare"), "pare")
    return found


def _load(cls: type[Study], path: Path, overrides: list[str] | None) -> Any:
    return validated(cls, _plain(path, overrides, cls), str(path))


def _plain(path: Path, overrides: list[str] | None, cls: type[Study]) -> dict[str, Any]:
    """What a recipe says, references filled in; `cls` is what it may be, should it hold nothing like it."""
    if not path.is_file():
        raise InputError(f"there is no recipe {path}")
    try:
        plain = _resolved(path.read_text(encoding="utf-8"), overrides, str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from error
    if not isinstance(plain, dict):
        own = [name for name, field in cls.model_fields.items() if field.is_required()]
        raise InputError(f"{path} should hold a mapping with {', '.join(own[:-1])} and {own[-1]}")
    return plain


def _resolved(given: str | dict[str, Any], overrides: list[str] | None, where: str) -> Any:
    """What YAML or a mapping says, with overrides and all references filled in."""
    try:
        config = OmegaConf.create(given)
        for override in overrides or []:
            _override(config, override)
        return OmegaConf.to_container(config, resolve=True)
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except (OmegaConfBaseException, AssertionError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from error


def _override(given: Any, override: str) -> None:
    """Apply `key.sub=value`; a kind of budget and `data` replace what was there, and `seeds` those of variants too."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"{override!r} is no override; write key=value, as in training.learning_rate=0.001")
    try:
        merge = key.rpartition(".")[2] != "data" and not key.endswith(".budget")
        OmegaConf.update(given, key, yaml.safe_load(value) if value else None, merge=merge, force_add=True)
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{override!r} cannot be applied: {' '.join(str(error).split())}") from error
    if key == "seeds" and OmegaConf.is_dict(given.get("variants")):
        for variant in given.variants.values():
            if OmegaConf.is_dict(variant):
                variant.pop("seeds", None)
    budget, _, kind = key.rpartition(".")
    if budget.endswith(".budget") and kind in Budget.model_fields:
        for other in set(Budget.model_fields) - {kind}:
            OmegaConf.select(given, budget).pop(other, None)


def validated(cls: type[Any], given: Any, where: str) -> Any:
    """`given` as a `cls`; what does not fit is an `InputError` that names the key."""
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise InputError(f"{where}: {_sentence(cls, error)}") from None


def _sentence(cls: type[BaseModel], error: ValidationError) -> str:
    """The first thing that is wrong, in words."""
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _fields_at(cls, path[:-1])
        return f"unknown key {key!r}{nearest(path[-1], known) or ';'} known are {', '.join(known)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return (
        f"{key}: {message}" + (f", not {first['input']!r}" if first["type"] != "value_error" else "")
        if key
        else message
    )


def _fields_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = cls.model_fields[part].annotation
        for option in (annotation, *get_args(annotation)):
            if isinstance(option, type) and issubclass(option, BaseModel):
                cls = option
    return list(cls.model_fields)
