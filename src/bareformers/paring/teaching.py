"""Students learn what the attention of a trained model does, before they take its place, all in the same passes.

It works for every model that `surgery.swap` knows. Of the model nothing is trained, nor of the students the output
projection, which they have from the attention.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bareformers.data.examples import IGNORED
from bareformers.errors import InputError
from bareformers.mixers.base import TokenMixer
from bareformers.mixers.dropout import Dropout
from bareformers.paring import surgery
from bareformers.paring.families import REACH
from bareformers.paring.surgery import Planned, Replaced
from bareformers.training.distill import Lesson, Lessons, can_match, examine

Spec = str | Mapping[str, Any]
"""A mixer, as in recipes."""


class Place(NamedTuple):
    """Where an attention is in a model."""

    role: str
    layer: int

    def __str__(self) -> str:
        return f"{self.role} layer {self.layer}"


def named(spec: Spec) -> str:
    """A mixer in a few words: `gaussian`, `alr size=XS`."""
    if isinstance(spec, str):
        return spec
    given = {key: value for key, value in spec.items() if key != "name"}
    return " ".join([str(spec.get("name")), *(f"{key}={json.dumps(value)}" for key, value in given.items())]).replace(
        '"', ""
    )


def places_of(model: Any) -> list[Place]:
    """Where the attentions of a model are, the encoder's first."""
    insides, found = surgery.insides_of(model), list[Place]()
    for role, there in insides.places(model).items():
        layers = range(len(there.layers))
        found += [Place(role, layer) for layer in layers if insides.attention_at(there, layer) is not None]
    order = ("encoder", "decoder", "cross")
    return sorted(found, key=lambda place: (order.index(place.role), place.layer))


@contextmanager
def without_cache(*models: Any) -> Iterator[None]:
    """Meanwhile no model keeps a decoding state, unless it is called with `use_cache` itself."""
    configs = {id(config): config for model in models for config in configs_of(model)}.values()
    before = [config.use_cache for config in configs]
    try:
        for config in configs:
            config.use_cache = False
        yield
    finally:
        for config, told in zip(configs, before, strict=True):
            config.use_cache = told


def configs_of(model: Any) -> Iterator[Any]:
    """The configs inside a model that say whether a decoding state is kept; stacks may have copies of their own."""
    for module in model.modules():
        if hasattr(config := getattr(module, "config", None), "use_cache"):
            yield config


class Reading:
    """Runs a model on batches, and knows which positions of the batch at hand are real."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.batch: dict[str, Any] = {}

    def __call__(self, batch: dict[str, Any]) -> None:
        self.batch, model = batch, self.model
        given = {name: value for name, value in batch.items() if name != "labels"}
        if (labels := self.decoded()) is not None and "decoder_input_ids" not in batch:
            given["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels)
        with without_cache(model):
            model.base_model(**given)  # without the head, whose output nobody learns

    def decoded(self) -> Tensor | None:
        """The labels [B, T] of the batch at hand where they are what a decoder reads, one later."""
        labels = self.batch.get("labels")
        reads = self.model.config.is_encoder_decoder and isinstance(labels, Tensor) and labels.dim() == 2
        return labels if reads else None

    def real(self, role: str) -> Tensor | None:
        """[B, T], the real positions of those that ask in a role; None where the batch does not say."""
        keep = self.batch.get("attention_mask")
        if self.model.config.is_encoder_decoder and role != "encoder":
            if (labels := self.decoded()) is not None:
                keep = labels != IGNORED
            elif "decoder_input_ids" in self.batch:
                keep = None
            keep = self.batch.get("decoder_attention_mask", keep)
        return keep if isinstance(keep, Tensor) and keep.dim() == 2 else None


@dataclass(frozen=True, eq=False)
class Taught(Lesson):
    """A lesson about real positions, also where the mask of the mixer does not say which are.

    Attributes:
        real: which are, as `Reading.real`.
    """

    real: Callable[[], Tensor | None] = field(default=lambda: None, kw_only=True)

    def errors(
        self, y: Tensor, weights: Tensor | None, target: Tensor, taught: Tensor | None, keep: Tensor | None
    ) -> Tensor:
        real = self.real()
        return super().errors(y, weights, target, taught, keep if real is None else real)


@dataclass(frozen=True, eq=False)
class Student:
    """A mixer that is to learn what the attention of a place does."""

    place: Place
    name: str
    planned: Planned

    @property
    def mixer(self) -> TokenMixer:
        return self.planned.mixer


class Candidates:
    """Students for places of a model, several for one place where there is a choice.

    How a student begins depends on the seed, its place and itself only.

    Args:
        wanted: places and mixers.
        max_length: positions that a mixer of fixed length is built for, as `surgery.swap` has it.
        match_maps: weight of the squared difference of maps, where attention and student both have one.
    """

    def __init__(
        self,
        model: Any,
        wanted: Iterable[tuple[Place, Spec]],
        *,
        max_length: int | None = None,
        match_maps: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model, self.match_maps = surgery.unwrapped(model), match_maps
        self.students: dict[tuple[Place, str], Student] = {}
        for place, spec in wanted:
            name = named(spec)
            with torch.random.fork_rng():
                torch.manual_seed(zlib.crc32(f"{seed} {place} {name}".encode()))
                (planned,) = surgery.planned(self.model, spec, place.layer, place.role, max_length)
            if planned.mixer.part == "mixer+residual":
                raise InputError(
                    f"{name} stands for the norm and the skip of an attention too, which it does not learn here; "
                    f"write alr, which stands for the attention alone"
                )
            self.students[place, name] = Student(place, name, planned)

    def install(self, place: Place, name: str, model: Any = None) -> Replaced:
        """Put a student into its place, in the model itself or in a copy."""
        return surgery.install(self.model if model is None else model, self.students[place, name].planned)

    def install_all(self, chosen: Mapping[Place, str]) -> list[Replaced]:
        """Put several students into their places; `surgery.put_back` undoes it."""
        students = [self.students[place, name] for place, name in chosen.items()]
        students.sort(key=lambda each: REACH[each.mixer.part])  # what takes the place of a whole layer comes last
        return [self.install(each.place, each.name) for each in students]

    def learnt(self, chosen: Mapping[Place, str]) -> set[str]:
        """The names, in the model, of the parameters of students: what they do not have from the attention."""
        found = set()
        for place, name in chosen.items():
            each = self.students[place, name]
            mixer: Any = each.mixer
            own = {id(parameter) for parameter in mixer.parameters()}
            if has_output(mixer):
                own -= {id(parameter) for parameter in mixer.output.parameters()}
            for path, module in each.planned.new.modules.items():
                parameters = module.named_parameters(remove_duplicate=False)
                found |= {f"{path}.{inside}" for inside, parameter in parameters if id(parameter) in own}
        return found

    @contextmanager
    def lessons(self) -> Iterator[Lessons]:
        """What the students learn.

        Meanwhile the model is frozen and in evaluation, and where its attention is not ours, ours does the same. Then
        it is as it was, and the students have their output projections.
        """
        flags = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        modes = {module: module.training for module in self.model.modules()}
        swapped: list[Replaced] = []
        outputs = {each: each.mixer.output for each in self.students.values() if has_output(each.mixer)}
        dropped = [drop for each in self.students.values() for drop in without_dropout(each.mixer)]
        try:
            for place in dict.fromkeys(place for place, _ in self.students):
                if self.mixer_at(place) is None:
                    swapped += surgery.swap(self.model, "dot_product", place.layer, place.role)
            self.model.requires_grad_(False).eval()
            reading = Reading(self.model)
            yield Lessons([self.lesson(each, reading) for each in self.students.values()], reading)
        finally:
            surgery.put_back(self.model, swapped)
            for each, output in outputs.items():
                each.mixer.output = output
            for module, name, value in dropped:
                setattr(module, name, value)
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
            for module, mode in modes.items():
                module.training = mode

    def mixer_at(self, place: Place) -> TokenMixer | None:
        """The mixer of ours at a place."""
        insides = surgery.insides_of(self.model)
        found: TokenMixer | None = insides.mixer_at(insides.places(self.model)[place.role], place.layer)
        return found

    def lesson(self, each: Student, reading: Reading) -> Lesson:
        """What a student learns of the mixer that is in its place."""
        place, student, mixer = each.place, each.mixer, self.mixer_at(each.place)
        assert mixer is not None
        block = surgery.insides_of(self.model).places(self.model)[place.role].layers[place.layer]
        weight, target = 0.0, (block, "output")
        if student.part != "block":
            weight = self.match_maps if can_match(mixer, student) else 0.0
            target = (mixer, "output")
            if has_output(mixer) and has_output(student):
                student.output = nn.Identity()  # both are compared before the output projection
                target = (mixer.output, "input")
        return Taught(
            student,
            block,
            mixer,
            target,  # type: ignore[arg-type]
            weight,
            real=lambda: reading.real(place.role),
        )


def has_output(mixer: Any) -> bool:
    """Whether a mixer has an output projection, which its attention could bring."""
    return isinstance(getattr(mixer, "output", None), nn.Linear)


def without_dropout(mixer: TokenMixer) -> list[tuple[Any, str, Any]]:
    """Take dropout from a mixer, for each draw would depend on who else learns; returns what was there."""
    found: list[tuple[Any, str, Any]] = []
    for part in mixer.modules():
        if isinstance(part, Dropout | nn.Dropout):
            found.append((part, "p", part.p))
            part.p = 0.0
        elif isinstance(part, TokenMixer):
            found.append((part, "slot", part.slot))
            part.slot = replace(part.slot, dropout=0.0)
    return found


def distill(
    model: Any,
    mixer: Spec,
    batches: Iterable[Mapping[str, Any]],
    layers: int | Iterable[int] | None = None,
    role: str | None = None,
    *,
    steps: int | None = None,
    learning_rate: float = 1e-3,
    max_length: int | None = None,
    match_maps: float = 0.0,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> list[Replaced]:
    """Teach a mixer what the attention of some layers does, all in the same passes, and put it in their place.

    The attention teaches, as in Bozic et al. (AAAI 2024, arXiv:2311.10642), but while the model reads: nothing goes to
    disk. What is minimised is the mean squared error of what goes into the output projection, over real positions,
    summed over the layers, by Adam with a rate that falls to 0. The rest of the model stays as it is, to the bit.

        batches = [tokenizer(texts, padding=True, return_tensors="pt") for texts in my_texts]
        replaced = distill(model, "gaussian", batches, layers=[0, 1], steps=500)
        model.save_pretrained("with_gaussian")

    Args:
        model, mixer, layers, role, max_length: as in `swap`. The parameters of what was put in can be trained on, all.
        batches: what the model is called with, as a list or a DataLoader: they are gone through again and again. No
            labels are needed, but by an encoder-decoder, whose decoder reads them.
        steps: one for each batch; by default each batch once.
        learning_rate: at the first step.
        match_maps: weight of the squared difference of the maps, where both have one.
        seed: of how the mixers begin.
        log: takes sentences about what is learnt: for each layer the squared error, as a share of the squares of what
            should be given; to give nothing would miss 100 %.

    Returns:
        What `put_back` needs, one for each layer.

    Raises:
        InputError: what is asked for does not fit, batches are empty, or a loss is no number any more; the model is
            then as it was.
    """
    model = surgery.unwrapped(model)
    places = surgery.insides_of(model).places(model)
    role = surgery.chosen(role, places, model)
    numbers = surgery.numbered(layers, len(places[role].layers), role)
    steps = number_of(batches) if steps is None else steps
    if steps < 1:
        raise InputError("there is nothing to learn from: batches is empty, or steps is below 1; give some")
    candidates = Candidates(
        model,
        [(Place(role, layer), mixer) for layer in numbers],
        max_length=max_length,
        match_maps=match_maps,
        seed=seed,
    )
    students = list(candidates.students.values())
    with candidates.lessons() as lessons:
        learn(lessons, students, batches, steps, learning_rate, log)
    return candidates.install_all({each.place: each.name for each in students})


def learn(
    lessons: Lessons,
    students: list[Student],
    batches: Iterable[Mapping[str, Any]],
    steps: int,
    learning_rate: float,
    log: Callable[[str], None],
) -> None:
    """Train all students for so many steps."""
    parameters = [parameter for parameter in lessons.parameters() if parameter.requires_grad]
    if not parameters:
        return
    device = parameters[0].device
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    lessons.train()
    batch: dict[str, Any] = {}
    for step, given in zip(range(steps), again_and_again(batches), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        batch = tensors(given, device)
        errors, maps, _, counts = lessons(**batch).unbind(-1)
        losses = (errors + maps) / counts.clamp_min(1)
        if not bool(losses.isfinite().all()):
            each = students[int((~losses.isfinite()).nonzero()[0])]
            raise InputError(
                f"the loss of {each.name} in {each.place} is no number at step {step + 1}; write a smaller "
                f"learning_rate than {learning_rate:g}"
            )
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    for each, grade in zip(students, examine(lessons, [batch]), strict=True):
        missed = f"{100 * grade.relative:.3g} % of what it should give"
        log(f"{each.name} in {each.place}: misses {missed}, on the last batch that it learnt from")


def number_of(batches: Iterable[Any]) -> int:
    """How many there are."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # a DataLoader may not know either
        return sum(1 for _ in batches)


def again_and_again(batches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All batches, pass after pass."""
    count = 1
    while count:
        count = 0
        for batch in batches:
            count += 1
            yield batch
    raise InputError("batches is empty, or can be gone through only once; pass a list or a DataLoader")


def tensors(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of a batch, where the model is."""
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
