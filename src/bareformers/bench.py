"""What each mixer costs against length: time, memory and decoding state of one mixer alone, beside the dot product.

Or what each block does: one layer of each around the same mixer, beside Pre-LN, called as a mixer is. All are built by
name and initialised as in a model; nothing here knows any of them. Within a length they take turns, so that a slow
minute of the machine hits all alike, and in decoding so do the lengths.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from bareformers import registry
from bareformers.blocks.base import Block, Signals
from bareformers.errors import InputError, unknown
from bareformers.measure import cost, environment, speed
from bareformers.measure.speed import Timing
from bareformers.mixers.base import SelfInitialised, Slot, TokenMixer, build, init_linear
from bareformers.mixers.masks import Mask
from bareformers.mixers.state import LayerState, MixerState
from bareformers.models import BareConfig
from bareformers.report import benchmark as reporting
from bareformers.report import words
from bareformers.report.result import Benchmark, Measure, VariantResult

BASELINES = {"mixer": "dot_product", "block": "pre_ln"}
EXAMPLES = {
    "--mixers": "{name: gaussian, std: 0.5}",
    "--blocks": "{name: post_ln, deep_norm: true}",
    "--candidates": "{name: alr, size: XS}",
}
ALL = "all"
DEPTH, MIDDLE = 3, 1  # of the stack that a measured layer is from, and its place there: neither first nor last
CHUNK = 256  # positions at once, where a decoding state is filled
PROBE = 64  # the length at which memory is measured first, to tell what longer ones take
FALLBACK_MEMORY = 8 << 30  # where the system does not say what it has

Spec = str | dict[str, Any]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        mixers: what a recipe may name, `all` among them for whatever is registered; with `blocks` one, which all hold.
        lengths: in tokens, ascending.
        rounds: timings of each call, of which the median counts.
        seconds: the most that the timings of one call may take; slow ones get fewer rounds, but one at least.
        memory_limit: bytes for everything at once; by default half of what is free.
        blocks: where there are any, layers of these are measured; `norm` in braces is for that one alone.
        norm: with blocks, as in a config; by default `layer`.
        intermediate_size: with blocks, the width of the feed-forward network; by default four times `hidden_size`.
    """

    mixers: tuple[Spec, ...]
    lengths: tuple[int, ...]
    role: str = "decoder"
    hidden_size: int = 512
    heads: int = 8
    batch: int = 1
    rounds: int = 5
    seconds: float = 10.0
    memory_limit: int | None = None
    blocks: tuple[Spec, ...] = ()
    norm: str | None = None
    intermediate_size: int | None = None

    def __post_init__(self) -> None:
        if self.role not in registry.ROLES:
            raise unknown("role", self.role, registry.ROLES)
        if self.blocks and self.role == "cross":
            raise InputError("--blocks measures whole layers, and none has the role cross; write --role decoder")
        if self.blocks and (len(self.mixers) > 1 or self.mixers[0] == ALL):
            raise InputError("--blocks puts the same mixer into every block; write one, as in --mixers dot_product")
        for option in ("norm", "intermediate_size"):
            if getattr(self, option) is not None and not self.blocks:
                raise InputError(f"--{option.replace('_', '-')} is a matter of blocks; write --blocks all beside it")
        if self.hidden_size % self.heads:
            nearest = self.hidden_size // self.heads * self.heads or self.heads
            raise InputError(
                f"--hidden-size {self.hidden_size} is not a multiple of --heads {self.heads}; "
                f"write --hidden-size {nearest}, or other heads"
            )

    @property
    def kind(self) -> str:
        """What is compared, `mixer` or `block`."""
        return "block" if self.blocks else "mixer"

    @property
    def registered(self) -> registry.Registry:
        """What `all` stands for."""
        return registry.blocks if self.blocks else registry.mixers

    @property
    def baseline(self) -> str:
        return BASELINES[self.kind]

    @property
    def layer(self) -> dict[str, Any]:
        """What a config says of every layer beside its block; empty where mixers stand alone."""
        if not self.blocks:
            return {}
        return {
            "mixer": self.mixers[0],
            "norm": "layer" if self.norm is None else self.norm,
            "intermediate_size": self.intermediate_size or 4 * self.hidden_size,
        }

    @property
    def decodes(self) -> bool:
        """Whether the role goes on from what it has read; an encoder does not."""
        return self.role != "encoder"

    def slot(self, length: int) -> Slot:
        """The place of a mixer that is built for `length` positions, of the context too."""
        return Slot(
            role=self.role,
            layer=0,
            hidden_size=self.hidden_size,
            num_heads=self.heads,
            max_length=length,
            max_context_length=length,
        )


def spec_list(text: str, option: str) -> tuple[Spec, ...]:
    """What `--mixers` or `--blocks` says: names, and mappings such as `{name: gaussian, std: 0.5}`, between commas."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return tuple(_spec(item.strip(), text, option) for item in items)


def _spec(item: str, text: str, option: str) -> Spec:
    if not item:
        raise InputError(f"{option} names nothing between two commas or at an end: {text!r}")
    if not item.startswith("{"):
        return item
    try:
        found = yaml.safe_load(item)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{option} cannot read {item!r}; write options as in {EXAMPLES[option]}")
    return found


def length_list(text: str) -> tuple[int, ...]:
    """What `--lengths` says: whole numbers with commas between them, here in order and each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--lengths is a list of whole numbers above 0, as in 128,1024,4096, not {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def bench(settings: Settings, command: str, folder: Path, log: Log = print) -> Benchmark:
    """Measure, and leave `result.json`, `results.csv` and `report.html` in `folder`.

    Args:
        command: what the user typed, for the report.
        log: takes sentences about what is going on.
    """
    entries, notes = choose(settings)
    claim(folder)
    for note in notes:
        log(note)

    def leave_out(sentence: str) -> None:
        notes.append(sentence)
        log(sentence)

    results = {
        entry.label: VariantResult(
            name=entry.label, floor=entry.floor, description=entry.description, seeds=[0], runs=[]
        )
        for entry in entries
    }
    memory = Memory.of(settings)
    decodings: dict[str, Decoding] = {}
    for length in settings.lengths:
        log(f"{length:,} tokens")
        decodings |= measure_length(settings, length, entries, results, memory, leave_out)
    if decodings:
        log("decoding, all lengths in turns")
        measure_decoding(settings, decodings, results)
    if not any(result.cost or result.speed for result in results.values()):
        limit = words.quantity(memory.limit, "bytes")
        raise InputError(f"nothing fits into {limit}; write a larger --memory-limit or smaller --lengths")
    benchmark = Benchmark(
        name=folder.name or "bench",
        title=f"What each {settings.kind} costs against length",
        description=f"{subject(settings)} in the role {settings.role}, of width {settings.hidden_size} with "
        f"{settings.heads} heads, on a batch of {settings.batch}.",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        baseline=settings.baseline,
        variants=list(results.values()),
        environment=environment.describe("fp32"),
        notes=notes,
        settings={
            "compared": f"{settings.kind}s",
            **settings.layer,
            "role": settings.role,
            "hidden_size": settings.hidden_size,
            "heads": settings.heads,
            "batch": settings.batch,
            "lengths": list(settings.lengths),
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "memory_limit_bytes": int(memory.limit),
        },
    )
    benchmark.save(folder / "result.json")
    reporting.write_csv(benchmark, folder / "results.csv")
    reporting.build(folder)
    return benchmark


def subject(settings: Settings) -> str:
    """What a benchmark is about, as the beginning of a sentence."""
    if not settings.blocks:
        return "One mixer alone"
    width, norm = settings.layer["intermediate_size"], settings.layer["norm"]
    return (
        f"One layer from the middle of a stack, with the mixer {label_of(settings.mixers[0])}, a feed-forward network "
        f"of width {width} and norm: {norm},"
    )


def claim(folder: Path) -> None:
    """Make the folder, or take that of an earlier benchmark; what belongs to something else is refused."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; write --output <a folder>")
    there = folder / "result.json"
    if (folder / "recipe.yaml").exists() or there.exists() and not reporting.is_benchmark(there):
        raise InputError(f"{folder} holds something else than a benchmark; write --output <another folder>")
    folder.mkdir(parents=True, exist_ok=True)


# What is measured


class Layer(nn.Module):
    """A block that is called as a mixer is, from the middle of a stack: the first and the last one have more parts."""

    def __init__(self, block: Block, slot: Slot) -> None:
        super().__init__()
        self.block, self.slot = block, slot

    @classmethod
    def of(cls, spec: Spec, settings: Settings, length: int) -> Layer:
        """The one that a model would have, built for `length` positions."""
        given: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
        config = BareConfig.from_recipe(
            **settings.layer | {"norm": given.pop("norm", settings.layer["norm"])},
            block=given,
            hidden_size=settings.hidden_size,
            num_attention_heads=settings.heads,
            num_hidden_layers=DEPTH,
            max_position_embeddings=length,
            position_embedding="none",
            dropout=0.0,
        )
        block, options = registry.blocks.parse(given, "--blocks")
        slot = config.slot(settings.role, MIDDLE)
        return cls(block(config.place(settings.role, MIDDLE), build(settings.mixers[0], slot), None, options), slot)

    def forward(
        self, x: Tensor, mask: Mask, context: Tensor | None = None, state: MixerState | None = None
    ) -> tuple[Tensor, None]:
        """x [B, T, D] -> hidden states [B, T, D]; there is no context."""
        remembered = None
        if state is not None:
            remembered = LayerState()
            remembered.mixers["self"] = state
        stream = self.block(self.block.open(x), Signals(mask, state=remembered))
        return self.block.hidden(stream), None


def make(spec: Spec, settings: Settings, length: int) -> TokenMixer | Layer:
    """What is timed, built for `length` positions."""
    if settings.blocks:
        return Layer.of(spec, settings, length)
    mixer = build(spec, settings.slot(length))
    if mixer is None:
        raise InputError(f"mixer {label_of(spec)!r} leaves its sub-layer out, so that there is nothing to time")
    return mixer


@dataclass(frozen=True)
class Entry:
    """A mixer, or a block, that was asked for.

    Attributes:
        label: what the user wrote, options included.
        parameters: how many it has when built for a length.
        held: bytes of its parameters and buffers then.
    """

    label: str
    spec: Spec
    floor: bool
    description: str
    parameters: dict[int, int]
    held: dict[int, int]

    @classmethod
    def of(cls, label: str, spec: Spec, settings: Settings) -> Entry:
        """Built at every length, without memory, so that whatever is wrong is an `InputError` here."""
        found: dict[int, TokenMixer | Layer] = {}
        for length in settings.lengths:
            with torch.device("meta"):
                found[length] = make(spec, settings, length)
        first = found[settings.lengths[0]]
        kind = type(first.block if isinstance(first, Layer) else first)
        return cls(
            label,
            spec,
            getattr(kind, "floor", False),
            (kind.__doc__ or "").strip().partition("\n")[0],
            {length: cost.num_parameters(mixer) for length, mixer in found.items()},
            {length: num_bytes(mixer) for length, mixer in found.items()},
        )


def choose(settings: Settings) -> tuple[list[Entry], list[str]]:
    """What to measure, the baseline first, and a sentence for each change to what was asked for.

    Of `all`, those are left out that cannot be measured in the role; what was named must be possible.
    """
    given, baseline = settings.blocks or settings.mixers, settings.baseline
    asked = [label_of(spec) for spec in given]
    if repeated := [label for label in asked if asked.count(label) > 1]:
        raise InputError(f"--{settings.kind}s names {repeated[0]!r} twice")
    specs: dict[str, Spec] = {baseline: baseline}
    specs |= {label: spec for label, spec in zip(asked, given, strict=True) if label not in (ALL, baseline)}
    notes = []
    if ALL in asked:
        specs |= {name: name for name in settings.registered.names() if name not in specs}
    elif baseline not in asked:
        notes.append(f"{baseline} was added: the others are held against it.")
    if settings.norm == "none":
        specs[baseline] = {"name": baseline, "norm": "layer"}
        notes.append(f"{baseline} keeps its norms (norm: layer), which it cannot do without.")
    entries = []
    for label, spec in specs.items():
        try:
            entries.append(Entry.of(label, spec, settings))
        except InputError as error:
            if label in (*asked, baseline):
                raise
            needed = required_options(label, settings.registered)
            reason = f"it needs the option {needed[0]!r}; name it in braces, with that" if needed else str(error)
            notes.append(f"{label} was left out: {reason}.")
    return entries, notes


def label_of(spec: Spec) -> str:
    """`gaussian`, `gaussian std=0.5` or `post_ln deep_norm=true`."""
    if isinstance(spec, str):
        return spec
    written = {key: str(value).lower() if isinstance(value, bool) else value for key, value in spec.items()}
    options = [f"{key}={value}".replace(" ", "") for key, value in written.items() if key != "name"]
    return " ".join([str(spec.get("name")), *options])


def required_options(name: str, registered: registry.Registry = registry.mixers) -> list[str]:
    """The options of a registered mixer, or block, that have no default."""
    fields = dataclasses.fields(registered.get(name).Options)
    return [
        each.name
        for each in fields
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What every mixer reads at one length: x [B, T, D], the gradient [B, T, D] of its output, for cross a context."""

    x: Tensor
    gradient: Tensor
    context: Tensor | None

    @classmethod
    def draw(cls, settings: Settings, length: int) -> Inputs:
        """The same numbers each time."""
        generator, device = torch.Generator().manual_seed(0), environment.default_device()
        shape = (settings.batch, length, settings.hidden_size)
        x, gradient, context = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
        is_cross = settings.role == "cross"
        return cls(x.requires_grad_(), gradient, context.requires_grad_() if is_cross else None)


@dataclass(frozen=True, eq=False)
class Case:
    """A mixer, or a layer in its place, built for the length of its inputs."""

    mixer: TokenMixer | Layer
    inputs: Inputs

    @classmethod
    def build(cls, spec: Spec, settings: Settings, inputs: Inputs) -> Case:
        """Initialised as a model does it, the same each time, and in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mixer = make(spec, settings, inputs.x.shape[1])
            mixer.apply(partial(initialise, std=settings.hidden_size**-0.5))
        return cls(mixer.to(inputs.x.device).eval(), inputs)

    @property
    def length(self) -> int:
        return self.inputs.x.shape[1]

    def mix(self, start: int, stop: int, state: MixerState | None = None) -> Tensor:
        """Outputs [B, stop - start, D] of these positions; `state` holds what was before and is advanced."""
        x, context, device = self.inputs.x, self.inputs.context, self.inputs.x.device
        if context is None:
            mask = Mask(stop - start, stop, causal=self.mixer.slot.role == "decoder", device=device)
        else:
            positions = torch.arange(start, stop, device=device)[None]
            mask = Mask(stop - start, context.shape[1], causal=False, device=device, query_positions=positions)
        new = x if stop - start == self.length else x[:, start:stop]
        y, _ = self.mixer(new, mask, context=context, state=state)
        if state is not None:
            state.length += stop - start
        return y

    @torch.no_grad()
    def forward(self) -> None:
        self.mix(0, self.length)

    @torch.no_grad()
    def prefill(self) -> None:
        self.mix(0, self.length, MixerState())

    def backward(self) -> None:
        """Forward and backward; gradients stay."""
        self.mix(0, self.length).backward(self.inputs.gradient)

    def train(self) -> None:
        """Forward and backward, as in a step of training."""
        self.backward()
        self.clear()

    def clear(self) -> None:
        """Drop all gradients."""
        self.mixer.zero_grad()
        for tensor in (self.inputs.x, self.inputs.context):
            if tensor is not None:
                tensor.grad = None


def initialise(module: nn.Module, std: float) -> None:
    """What a model does with its linear maps, its mixers and its blocks."""
    if isinstance(module, nn.Linear):
        init_linear(module)
    elif isinstance(module, SelfInitialised):
        module.init_weights(std)


class Decoding:
    """The decoding step of the last position, again and again from the state that all before it left.

    The state is filled once. A call puts its tensors back first: a step grows it.
    """

    @torch.no_grad()
    def __init__(self, case: Case) -> None:
        self.case, self.state, self.last = case, MixerState(), case.length - 1
        if case.inputs.context is not None:
            case.mix(self.last, case.length, self.state)  # the context is read by the first query, whichever it is
        for start in range(0, self.last if case.inputs.context is None else 0, CHUNK):
            case.mix(start, min(start + CHUNK, self.last), self.state)
        self.filled = self.state.tensors

    @torch.no_grad()
    def __call__(self) -> None:
        self.state.tensors, self.state.length = dict(self.filled), self.last
        self.case.mix(self.last, self.last + 1, self.state)

    def state_bytes(self) -> int:
        """Bytes remembered for one sequence once all positions have been read."""
        self()
        return self.state.num_bytes() // self.case.inputs.x.shape[0]


# Whether it fits


@dataclass
class Memory:
    """Tells before a call whether it fits, from what calls of that mixer took at shorter lengths.

    Attributes:
        limit: bytes for everything.
        held: bytes of the mixers that are kept.
        taken: by mixer and pass: bytes that a call takes at the lengths where that was measured, gradients included.
    """

    settings: Settings
    limit: float
    held: int = 0
    taken: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Memory:
        limit = settings.memory_limit
        return cls(settings, free_memory() / 2 if limit is None else limit)

    @property
    def room(self) -> float:
        return self.limit - self.held

    def needed(self, entry: Entry, what: str, length: int) -> float:
        """The most bytes that a call at `length` takes: at twice a length nothing takes more than four times as much.

        Where that bound is too large it is made tighter by measuring at longer lengths, as long as they fit themselves.

        Args:
            what: `forward` or `backward`.
        """
        known = self.taken.setdefault((entry.label, what), {})
        if not known and not self.probe(entry, what, min(length, PROBE)):
            return 0.0
        while True:
            longest = max(known)
            bound = known[longest] * (length / longest) ** 2
            settled = bound <= self.room or 2 * longest >= length or 4 * known[longest] > self.room
            if settled or not self.probe(entry, what, 2 * longest):
                return bound

    def probe(self, entry: Entry, what: str, length: int) -> bool:
        """Measure a call at `length`; False where the mixer cannot be built for it."""
        try:
            case = Case.build(entry.spec, self.settings, Inputs.draw(self.settings, length))
        except InputError:
            return False  # options that hold for one length only
        self.peak(entry, what, case)
        return True

    def peak(self, entry: Entry, what: str, case: Case) -> float:
        """The most bytes that a call takes at once beyond weights, gradients and inputs; infinite where it failed."""
        call = case.backward if what == "backward" else case.forward
        case.mixer.train(what == "backward")
        try:
            peak: float = cost.peak_bytes(call, case.inputs.x.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            peak = math.inf
        case.clear()
        case.mixer.eval()
        self.taken.setdefault((entry.label, what), {})[case.length] = peak + num_bytes(case.mixer)
        return peak


def num_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class for a GPU that is full, and only words for the main memory."""
    said = ("can't allocate memory", "not enough memory")
    kinds = (torch.cuda.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(sentence in str(error) for sentence in said)


def free_memory() -> int:
    """Bytes that the machine, or the container that we are in, has free."""
    if environment.default_device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) << 10)
    except OSError:
        found += [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    try:
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # none, or the word max
        pass
    return min(found, default=FALLBACK_MEMORY)


# The measurements


def measure_length(
    settings: Settings,
    length: int,
    entries: list[Entry],
    results: Mapping[str, VariantResult],
    memory: Memory,
    leave_out: Log,
) -> dict[str, Decoding]:
    """Time and memory of all mixers at one length, into `results`; returns the decoding steps that are left to time."""

    def refuse(entry: Entry, what: str, needed: float) -> None:
        amount = words.quantity(needed, "bytes") if math.isfinite(needed) else "more than there is"
        leave_out(
            f"{entry.label} at {length:,} tokens: {what} left out, for it may take {amount} and "
            f"{words.quantity(max(memory.room, 0.0), 'bytes')} of the --memory-limit are left."
        )

    inputs, cases, decodings = Inputs.draw(settings, length), dict[str, Case](), dict[str, Decoding]()
    for entry in entries:
        if entry.held[length] > memory.room:
            refuse(entry, "everything is", entry.held[length])
            continue
        memory.held += entry.held[length]
        cases[entry.label] = case = Case.build(entry.spec, settings, inputs)
        results[entry.label].cost[f"parameters@{length}"] = counted(entry.parameters[length])
        if settings.decodes:
            decoding = decodings[f"{entry.label}@{length}"] = Decoding(case)
            results[entry.label].cost[f"state_bytes@{length}"] = counted(decoding.state_bytes(), "bytes")
    calls: dict[str, dict[str, Callable[[], None]]] = {"forward_ms": {}, "forward_backward_ms": {}, "prefill_ms": {}}
    for entry in entries:
        if entry.label not in cases:
            continue
        case = cases[entry.label]
        needed = memory.needed(entry, "backward", length)
        if needed <= memory.room:
            needed = memory.peak(entry, "backward", case)
        if needed <= memory.room:
            results[entry.label].cost[f"peak_memory@{length}"] = counted(int(needed), "bytes")
            calls["forward_backward_ms"][entry.label] = case.train
        else:
            refuse(entry, "forward and backward is", needed)
            needed = memory.needed(entry, "forward", length)
            if needed > memory.room:
                refuse(entry, "a forward pass is", needed)
                continue
        calls["forward_ms"][entry.label] = case.forward
        if settings.decodes:
            calls["prefill_ms"][entry.label] = case.prefill
    for key, by_label in calls.items():
        for label in by_label:
            cases[label].mixer.train(key == "forward_backward_ms")
        for label, timing in speed.timed(by_label, settings.rounds, settings.seconds).items():
            results[label].speed[f"{key}@{length}"] = milliseconds(timing)
            cases[label].mixer.eval()
    if not settings.decodes:
        memory.held = 0  # nothing is kept for decoding
    return decodings


def measure_decoding(
    settings: Settings, decodings: Mapping[str, Decoding], results: Mapping[str, VariantResult]
) -> None:
    """The time of a decoding step of each mixer at each length, all in turns."""
    for key, timing in speed.timed(decodings, settings.rounds, settings.seconds).items():
        label, _, length = key.rpartition("@")
        results[label].speed[f"step_ms@{length}"] = milliseconds(timing)


def counted(value: int, unit: str = "") -> Measure:
    """A number that is the same in every round."""
    return Measure(value=value, unit=unit, better="lower", spread=0.0)


def milliseconds(timing: Timing) -> Measure:
    """The median, with the interquartile range as the spread; a single round has none."""
    spread = None if timing.rounds < 2 else float(f"{1e3 * timing.spread:.5g}")
    return Measure(value=float(f"{1e3 * timing.seconds:.5g}"), unit="ms", better="lower", spread=spread)
