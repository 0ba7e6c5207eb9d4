"""What candidates save in the places of a model: time, parameters, decoding state; measured, not declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bareformers.errors import InputError
from bareformers.measure import cost, speed
from bareformers.paring import surgery
from bareformers.paring.teaching import Candidates, Place, Student

Target = Literal["latency", "parameters", "state"]
Savings = dict[Place, dict[str, float]]

BATCHES = (1, 32)  # sequences at once, when time is taken
TIMED_LENGTH = 128  # tokens of each
STATE_LENGTH = 2048  # tokens that decoding has read


def measure(candidates: Candidates, target: Target, rounds: int) -> tuple[Savings, dict[str, float]]:
    """What each candidate saves in its place, and the share of the forward pass that attention takes by batch size.

    Latency is saved as a share of the forward pass of the whole model, the mean over the batch sizes; parameters as
    their number; state as its bytes for one sequence.
    """
    model = candidates.model
    times, shares = latencies(candidates, rounds)
    if target == "latency":
        return times, shares
    found: Savings = {place: {} for place, _ in candidates.students}
    whole = state_bytes(model) if target == "state" else 0
    for (place, name), each in candidates.students.items():
        if target == "parameters":
            before = [model.get_submodule(path) for path in each.planned.new.modules]
            after = list(each.planned.new.modules.values())
            found[place][name] = float(cost.num_parameters(nn.ModuleList(before))) - cost.num_parameters(
                nn.ModuleList(after)
            )
        elif place.role == "encoder":
            found[place][name] = 0.0
        else:
            replaced = candidates.install(place, name)
            found[place][name] = float(whole - state_bytes(model))
            surgery.put_back(model, replaced)
    return found, shares


def check(model: Any, target: Target) -> None:
    """An `InputError` where a model has nothing of what is to be saved."""
    if target == "state" and not model.can_generate():
        raise InputError(f"{type(model).__name__} decodes nothing and has no state to save; write for: latency")


def positions(model: Any) -> int:
    """The most positions that a model reads."""
    return int(model.config.max_position_embeddings)


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
    """Positions that every model with so many can read: some begin to count above 0."""
    return positions(model) - (2 if model.config.model_type == "roberta" else 0)


def forward(model: Any, inputs: Mapping[str, Tensor]) -> Any:
    """One pass without a decoding state."""
    return model(**inputs, **({"use_cache": False} if model.can_generate() else {}))


@torch.no_grad()
def whole_latencies(models: Mapping[str, Any], rounds: int) -> dict[str, dict[int, float]]:
    """Seconds of a forward pass by name and batch size, in turns."""
    length = min(TIMED_LENGTH, *(readable(model) for model in models.values()))
    found: dict[str, dict[int, float]] = {name: {} for name in models}
    for rows in BATCHES:
        calls: dict[str, Callable[[], Any]] = {
            name: partial(forward, model.eval(), inputs_of(model, rows, length)) for name, model in models.items()
        }
        for name, timing in speed.interleaved(calls, rounds).items():
            found[name][rows] = timing.seconds
    return found


@torch.no_grad()
def latencies(candidates: Candidates, rounds: int) -> tuple[Savings, dict[str, float]]:
    """See `measure`."""
    model, students = candidates.model, list(candidates.students.values())
    modes = {module: module.training for module in model.modules()}
    model.eval()
    saved: Savings = {place: {} for place, _ in candidates.students}
    shares = {}
    for rows in BATCHES:
        inputs = inputs_of(model, rows, min(TIMED_LENGTH, readable(model)))
        seconds = timed(model, inputs, students, rounds)
        whole, attention = seconds[""], dict[Place, float]()
        for each in students:
            before = seconds[" ".join(each.planned.new.modules)]
            gain = (before - seconds[f"{each.place} {each.name}"]) / whole / len(BATCHES)
            saved[each.place][each.name] = saved[each.place].get(each.name, 0.0) + gain
            # What takes the place of more than the attention is timed with all that.
            attention[each.place] = min(before, attention.get(each.place, before))
        shares[str(rows)] = sum(attention.values()) / whole
    for module, mode in modes.items():
        module.training = mode
    return saved, shares


def timed(model: Any, inputs: Mapping[str, Tensor], students: Sequence[Student], rounds: int) -> dict[str, float]:
    """Seconds, all in turns: of the whole model (""), of each student, and of what it would take the place of.

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
        forward(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    calls: dict[str, Callable[[], Any]] = {"": partial(forward, model, inputs)}
    for each in students:
        new = {path: module.eval() for path, module in each.planned.new.modules.items()}
        calls[" ".join(new)] = partial(run, {path: model.get_submodule(path) for path in new})
        calls[f"{each.place} {each.name}"] = partial(run, new)
    return {name: timing.seconds for name, timing in speed.interleaved(calls, rounds).items()}
