"""What candidates save in the places of a model: time, parameters, decoding state; measured, not declared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bareformers.errors import InputError
from bareformers.measure import cost, speed
from bareformers.measure.speed import Timing
from bareformers.paring import surgery
from bareformers.paring.teaching import Candidates, Place, Student, without_cache

Target = Literal["latency", "parameters", "state"]
Savings = dict[Place, dict[str, float]]

BATCHES = (1, 32)  # sequences at once, when time is taken
TIMED_LENGTH = 128  # tokens of each
STATE_LENGTH = 2048  # tokens that decoding has read
STEPS = 8  # of decoding, in each round of a timing
SECONDS = 60.0  # that all rounds of one timing take at most


def measure(candidates: Candidates, target: Target, rounds: int) -> tuple[Savings, dict[str, float]]:
    """What each candidate saves in its place, and the share of the forward pass that attention takes by batch size.

    Latency is saved as a share of the forward pass of the whole model, the mean over the batch sizes; parameters as
    their number; state as its bytes for one sequence.

    Args:
        rounds: of timings; 0: none, and no shares.
    """
    times, shares = latencies(candidates, rounds) if rounds else ({}, {})
    if target == "latency":
        return times, shares
    model = candidates.model
    found: Savings = {place: {} for place, _ in candidates.students}
    whole = state_bytes(model) if target == "state" else 0
    for students in alike(candidates):
        first = students[0]
        if target == "parameters":
            before = nn.ModuleList(model.get_submodule(path) for path in first.planned.new.modules)
            saved = cost.num_parameters(before) - cost.num_parameters(nn.ModuleList(modules_of(first)))
        elif first.place.role == "encoder":
            saved = 0
        else:
            replaced = candidates.install(first.place, first.name)
            saved = whole - state_bytes(model)
            surgery.put_back(model, replaced)
        for each in students:
            found[each.place][each.name] = float(saved)
    return found, shares


def alike(candidates: Candidates) -> list[list[Student]]:
    """Students of one mixer in places of one role and shape, which cost the same."""
    groups: dict[Any, list[Student]] = {}
    for each in candidates.students.values():
        there = [candidates.model.get_submodule(path) for path in each.planned.new.modules]
        shapes = tuple(parameter.shape for part in (*there, *modules_of(each)) for parameter in part.parameters())
        groups.setdefault((each.place.role, each.name, shapes), []).append(each)
    return list(groups.values())


def check(model: Any, target: Target, rounds: int) -> None:
    """An `InputError` where a model has nothing of what is to be saved, or it is not to be measured."""
    if target == "state" and not model.can_generate():
        raise InputError(f"{type(model).__name__} decodes nothing and has no state to save; write target: latency")
    if target == "latency" and not rounds:
        raise InputError("latency is not known without timings; write evaluation.speed_rounds: 5, or another target")


def inputs_of(model: Any, rows: int, length: int) -> dict[str, Tensor]:
    """Made-up token ids [rows, length] for every stack of a model, the same each time."""
    generator = torch.Generator().manual_seed(0)
    names = ("input_ids", "decoder_input_ids") if model.config.is_encoder_decoder else ("input_ids",)
    ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    return {name: ids.to(model.device) for name in names}


def state_bytes(model: Any) -> int:
    """Bytes of the decoding state of one sequence, long or as long as the model reads."""
    return cost.state_bytes(model, inputs_of(model, 1, min(STATE_LENGTH, readable(model))))


def readable(model: Any) -> int:
    """The most positions that a model reads."""
    return int(surgery.insides_of(model).positions(model))


@torch.no_grad()
def whole_latencies(models: Mapping[str, Any], rounds: int) -> dict[str, dict[int, Timing]]:
    """The time of a forward pass by name and batch size, in turns."""
    length = min(TIMED_LENGTH, *(readable(model) for model in models.values()))
    found: dict[str, dict[int, Timing]] = {name: {} for name in models}
    for rows in BATCHES:
        calls: dict[str, Callable[[], Any]] = {
            name: partial(model.eval(), **inputs_of(model, rows, length)) for name, model in models.items()
        }
        with without_cache(*models.values()):
            for name, timing in speed.timed(calls, rounds, SECONDS).items():
                found[name][rows] = timing
    return found


@torch.no_grad()
def decoding_steps(models: Mapping[str, Any], rounds: int) -> tuple[int, dict[str, Timing]]:
    """Tokens of one sequence that were read before, and the time of a step of decoding behind them, in turns.

    No times where a model has no room for so many steps, or decodes nothing.
    """
    steps = STEPS * (rounds + 1)
    length = min(STATE_LENGTH, *(readable(model) - steps for model in models.values()))
    if length < 1 or not all(model.can_generate() for model in models.values()):
        return 0, {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, model in models.items():
        inputs = inputs_of(model.eval(), 1, length)
        read = model(**inputs, use_cache=True)
        given = {"past_key_values": read.past_key_values, "use_cache": True}
        if model.config.is_encoder_decoder:
            given["encoder_outputs"] = (read.encoder_last_hidden_state,)
            given["decoder_input_ids"] = inputs["decoder_input_ids"][:, -1:]
        else:
            given["input_ids"] = inputs["input_ids"][:, -1:]
        calls[name] = partial(repeat, partial(model, **given))
    taken = speed.interleaved(calls, rounds)
    return length, {name: Timing(each.seconds / STEPS, each.spread / STEPS, rounds) for name, each in taken.items()}


def repeat(step: Callable[[], Any]) -> None:
    for _ in range(STEPS):
        step()


@torch.no_grad()
def latencies(candidates: Candidates, rounds: int) -> tuple[Savings, dict[str, float]]:
    """See `measure`. A mixer saves the same in all places that are alike: the median over them.

    What lies within the spread of the timings counts as nothing.
    """
    model = candidates.model
    modes = {module: module.training for module in model.modules()}
    model.eval()
    groups, shares = alike(candidates), {}
    saved: Savings = {place: {} for place, _ in candidates.students}
    for rows in BATCHES:
        inputs = inputs_of(model, rows, min(TIMED_LENGTH, readable(model)))
        taken = timed(model, inputs, list(candidates.students.values()), rounds)
        whole, attention = taken[""].seconds, dict[Place, float]()
        for students in groups:
            pairs = [(taken[paths_of(each)], taken[f"{each.place} {each.name}"]) for each in students]
            gain = statistics.median(before.seconds - after.seconds for before, after in pairs)
            spread = statistics.median(max(before.spread, after.spread) for before, after in pairs)
            for each, (before, _) in zip(students, pairs, strict=True):
                share = gain / whole / len(BATCHES) if abs(gain) > spread else 0.0
                saved[each.place][each.name] = saved[each.place].get(each.name, 0.0) + share
                # What takes the place of more than the attention is timed with all that.
                attention[each.place] = min(before.seconds, attention.get(each.place, before.seconds))
        shares[str(rows)] = sum(attention.values()) / whole
    for module, mode in modes.items():
        module.training = mode
    return saved, shares


def modules_of(each: Student) -> list[nn.Module]:
    """What a student brings into a model."""
    return list(each.planned.new.modules.values())


def paths_of(each: Student) -> str:
    """Where that goes."""
    return " ".join(each.planned.new.modules)


def timed(model: Any, inputs: Mapping[str, Tensor], students: Sequence[Student], rounds: int) -> dict[str, Timing]:
    """The times, in turns: of the whole model (""), of each student, and of what it would take the place of.

    The latter is called by its paths. All are given what the model gives to what is there.
    """
    kept: dict[str, tuple[Any, ...]] = {}

    def keep(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept[path] = args, kwargs

    def run(modules: Mapping[str, nn.Module]) -> None:
        for path, module in modules.items():
            if path in kept:
                args, kwargs = kept[path]
                module(*args, **kwargs)

    paths = dict.fromkeys(path for each in students for path in each.planned.new.modules)
    hooks = [
        model.get_submodule(path).register_forward_pre_hook(partial(keep, path), with_kwargs=True) for path in paths
    ]
    try:
        with without_cache(model):
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    calls: dict[str, Callable[[], Any]] = {"": partial(model, **inputs)}
    for each in students:
        new = {path: module.eval() for path, module in each.planned.new.modules.items()}
        calls[paths_of(each)] = partial(run, {path: model.get_submodule(path) for path in new})
        calls[f"{each.place} {each.name}"] = partial(run, new)
    with without_cache(model):
        return speed.timed(calls, rounds, SECONDS)
