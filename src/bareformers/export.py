"""Writes a trained model as one graph, of `torch.export` or ONNX, and holds it against the model it was made of.

The graph is one forward pass for any batch and length: decoding with a state is not exported.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from bareformers import run_folder
from bareformers.errors import InputError, unknown
from bareformers.measure import environment, speed
from bareformers.mixers.base import TokenMixer
from bareformers.paring import savings, surgery
from bareformers.report.result import write_whole
from bareformers.run_folder import Log

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""Of the files of each format."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""The most that an output may differ from that of the model, as a share of the largest."""
LONGEST = 1024  # tokens that are compared, where a model reads more
ONE_FILE = 1_500_000_000  # bytes of weights; what ONNX holds beyond lies in a second file

Run = Callable[[Mapping[str, Tensor]], Tensor]
"""What makes the output of inputs."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the graph.
        format: `onnx` or `torch`.
        difference: the largest between its output and that of the model, as a share of the largest output.
        compared: rows and tokens of what was compared, of the target too where there is one.
        tokens: of each sequence, when time was taken.
        latencies: milliseconds of a forward pass, the median, by what ran it and rows at once; empty with no rounds.
    """

    path: Path
    format: str
    difference: float
    compared: list[tuple[int, ...]]
    tokens: int
    latencies: dict[str, dict[int, float]]


class Shape(NamedTuple):
    """Sequences at once, and the tokens of each; of the target too, where a model reads one."""

    rows: int
    length: int
    target: int


class Pass(nn.Module):
    """One forward pass without a decoding state, from tensors by name to one tensor."""

    def __init__(self, model: Any, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
    ) -> Tensor:
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "pixel_values": pixel_values,
        }
        given = {name: tensor for name, tensor in given.items() if tensor is not None}
        found: Tensor = getattr(self.model(**given, return_dict=True), self.output)
        return found


def export(
    model: Any, path: str | Path | None = None, format: str = "onnx", rounds: int = 5, log: Log = print
) -> Exported:
    """Write the forward pass of a model as a graph, once its outputs are those of the model; what it took beside it.

    The graph takes `input_ids` and `attention_mask` [B, T], with a decoder of their own `decoder_input_ids` and
    `decoder_attention_mask` [B, S] too, or `pixel_values`; it gives the logits, or the last hidden states of a model
    without a head.

    Args:
        model: a run folder of ours, the folder of a paring, one of a model of `transformers`; or the model itself,
            which stays as it is.
        path: of the file; what is there is replaced. By default `model.onnx` or `model.pt2` in the folder.
        format: `onnx` or `torch`.
        rounds: timings of each, in turns; 0 takes no time.
        log: takes sentences about what is going on.
    """
    if format not in SUFFIXES:
        raise unknown("format", format, SUFFIXES)
    if format == "onnx" and (missing := [name for name in PACKAGES if find_spec(name) is None]):
        raise InputError(f"--format onnx needs {' and '.join(missing)}; pip install 'bareformers[export]'")
    if rounds < 0:
        raise InputError(f"rounds is at least 0, not {rounds}")
    path = place(model, path, format)
    subject = opened(Path(model)) if isinstance(model, str | Path) else copy.deepcopy(surgery.unwrapped(model))
    subject = subject.cpu().float().eval()
    if hasattr(subject.config, "use_cache"):
        subject.config.use_cache = False
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.mkdir()
    try:
        with torch.no_grad(), hushed():
            found = written(subject, unfinished / path.name, format, rounds, log)
        for each in sorted(unfinished.iterdir(), key=lambda each: each.name == path.name):  # the graph comes last
            os.replace(each, path.with_name(each.name))
    finally:
        shutil.rmtree(unfinished)
    found = Exported(**{**vars(found), "path": path})
    write_whole(path.with_name(f"{path.name}.json"), json.dumps(report(found), indent=1) + "\n")
    return found


def place(model: Any, path: str | Path | None, format: str) -> Path:
    """Where the file is to be; an `InputError` where it cannot be there."""
    if path is None:
        if not isinstance(model, str | Path):
            raise InputError("a model that is in no folder needs a path; write where the file is to be")
        return Path(model).expanduser() / f"model{SUFFIXES[format]}"
    path = Path(path).expanduser()
    others = {suffix: name for name, suffix in SUFFIXES.items() if name != format}
    if path.suffix in others:
        raise InputError(
            f"{path} is named as a file of the format {others[path.suffix]}, and the format is {format}; write "
            f"{path.with_suffix(SUFFIXES[format])}"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; write {path / f'model{SUFFIXES[format]}'}")
    return path


def opened(folder: Path) -> Any:
    """The model in a folder: of a run, of a paring, or of `transformers`."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; name a run folder, or that of a model of transformers")
    there = folder / "model" if (folder / "model").is_dir() else folder
    if not (there / "config.json").exists():
        run_folder.load_model(folder)  # says what is missing
    if (folder / "recipe.yaml").exists():
        run_folder.import_plugins(run_folder.read_yaml(folder / "recipe.yaml").get("plugins") or [])
    return surgery.load(there)


def written(model: Any, path: Path, format: str, rounds: int, log: Log) -> Exported:
    """Trace a model, write it, compare what was written, and time both."""
    limits = lengths(model)
    # No two of these are alike: torch takes lengths that are for the same one.
    example = inputs(model, Shape(11, min(7, limits.length), min(5, limits.target - 1)), padding=True)
    net = Pass(model, refused_where(model, partial(output_of, model, example))).eval()
    log(f"tracing {type(model).__name__}")
    program = refused_where(model, partial(trace, net, example, limits))
    if format == "onnx":
        log("translating into ONNX")
        run = refused_where(model, partial(as_onnx, program, model, path), f"; {other(format)} may do")
    else:
        torch.export.save(program, path)
        module = torch.export.load(path).module()
        run = lambda given: module(**given)  # noqa: E731
    difference, compared = checked(model, net, run, limits)
    if not difference <= TOLERANCE:
        raise InputError(
            f"the graph of {type(model).__name__} differs from the model by {difference:.1e} of the largest output, "
            f"and at most {TOLERANCE:g} is right; it was not written, and {other(format)} may do"
        )
    tokens = min(savings.TIMED_LENGTH, limits.length, limits.target)
    found: dict[str, dict[int, float]] = {}
    for rows in savings.BATCHES if rounds else ():
        log(f"timing {rows} at once")
        given = inputs(model, Shape(rows, tokens, tokens))
        calls = {"torch": partial(net, **given), "onnxruntime" if format == "onnx" else "exported": partial(run, given)}
        for name, timing in speed.interleaved(calls, rounds).items():
            found.setdefault(name, {})[rows] = 1000 * timing.seconds
    return Exported(path, format, difference, compared, tokens, found)


def other(format: str) -> str:
    """The option that asks for another format."""
    return f"--format {next(name for name in SUFFIXES if name != format)}"


def lengths(model: Any) -> Shape:
    """The most tokens that a model and its mixers read; its rows are of no account."""
    config = model.config
    if getattr(config, "add_cross_attention", False) and not config.is_encoder_decoder:
        raise InputError(
            f"a {type(model).__name__} that reads hidden states of another model is no graph of its own; export a "
            f"model that holds both"
        )
    if model.main_input_name == "pixel_values":
        return Shape(0, savings.TIMED_LENGTH, savings.TIMED_LENGTH)
    if model.main_input_name != "input_ids":
        raise InputError(f"a {type(model).__name__} reads {model.main_input_name}, and only texts and images are known")
    slots = [module.slot for module in model.modules() if isinstance(module, TokenMixer)]
    reading = [slot.max_context_length if slot.role == "cross" else slot.max_length for slot in slots]
    of_target = [slot.max_length for slot in slots if slot.role != "encoder"]
    if config.is_encoder_decoder:
        reading = [most for slot, most in zip(slots, reading, strict=True) if slot.role != "decoder"]
    most = savings.readable(model)
    return Shape(0, min(most, *reading, most), min(most, *of_target, most))


def inputs(model: Any, shape: Shape, padding: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Made-up inputs by name; with padding, on the right in every third row and on the left in the next."""
    generator, config = torch.Generator().manual_seed(seed), model.config
    if model.main_input_name == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.randn(shape.rows, config.num_channels, height, width, generator=generator)}
    found: dict[str, Tensor] = {}
    sides = {"": shape.length, "decoder_": shape.target} if config.is_encoder_decoder else {"": shape.length}
    for side, length in sides.items():
        mask = torch.ones(shape.rows, length, dtype=torch.long)
        for row in range(shape.rows if padding and length > 1 else 0):
            count = int(torch.randint(1, length, (), generator=generator))
            if (row + seed) % 3 == 1:
                mask[row, length - count :] = 0
            elif (row + seed) % 3 == 2:
                mask[row, :count] = 0
        ids = torch.randint(config.vocab_size, mask.shape, generator=generator)
        found |= {
            f"{side}input_ids": ids.masked_fill(mask == 0, config.pad_token_id or 0),
            f"{side}attention_mask": mask,
        }
    return found


def output_of(model: Any, given: Mapping[str, Tensor]) -> str:
    """The name of what a model gives that a graph is to give."""
    found = model(**given, return_dict=True)
    for name in ("logits", "last_hidden_state"):
        if getattr(found, name, None) is not None:
            return name
    raise InputError(f"a {type(model).__name__} gives {', '.join(found)}, and only logits and hidden states are known")


def trace(net: Pass, example: Mapping[str, Tensor], limits: Shape) -> Any:
    """The graph of a pass, with rows and lengths left open up to the limits."""
    rows = Dim("batch", min=1)
    sides = {"": Dim("length", min=1, max=limits.length), "decoder_": Dim("target", min=1, max=limits.target)}
    dims: dict[str, Any] = {
        name: {0: rows} if name == "pixel_values" else {0: rows, 1: sides["decoder_" if "decoder" in name else ""]}
        for name in example
    }
    return torch.export.export(net, (), dict(example), dynamic_shapes=dims, strict=False)


def as_onnx(program: Any, model: Any, path: Path) -> Run:
    """Translate a graph, write it, and open what was written."""
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    translated = torch.onnx.export(program, (), dynamo=True, verbose=False, output_names=["output"])
    assert translated is not None
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    translated.save(path, external_data=size > ONE_FILE)
    run = session(path)
    assert [each.name for each in run.get_inputs()] == names
    return lambda given: torch.from_numpy(run.run(None, {name: each.numpy() for name, each in given.items()})[0])


def session(path: Path) -> Any:
    """An ONNX file in onnxruntime, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def checked(model: Any, net: Pass, run: Run, limits: Shape) -> tuple[float, list[tuple[int, ...]]]:
    """How far a graph is from the model at most, at real positions, and for which shapes that was asked."""
    generator = torch.Generator().manual_seed(0)
    length, target = min(limits.length, LONGEST), min(limits.target, LONGEST)

    def some(most: int) -> int:
        return int(torch.randint(1, most + 1, (), generator=generator))

    shapes = [Shape(1, 1, target), Shape(3, length, 1), Shape(1, length, target), Shape(3, min(2, length), 1)]
    shapes += [Shape(some(6), some(length), some(target)) for _ in range(4)]
    worst, compared = 0.0, []
    for seed, shape in enumerate(shapes):
        given = inputs(model, shape, padding=True, seed=seed)
        expected, found = net(**given), run(given)
        mask = given.get("decoder_attention_mask", given.get("attention_mask"))
        if mask is not None and expected.dim() == 3 and expected.shape[:2] == mask.shape:
            expected, found = expected[mask.bool()], found[mask.bool()]
        apart = (found - expected).abs().max() / expected.abs().max()
        worst = max(worst, float(apart.nan_to_num(torch.inf)))
        sizes = [tuple(each.shape) for name, each in given.items() if "mask" not in name]
        compared.append((*sizes[0], *(size for each in sizes[1:] for size in each[1:])))
    return worst, compared


def refused_where(model: Any, make: Callable[[], Any], advice: str = "") -> Any:
    """What `make` makes; where it cannot, an `InputError` that names the mixer, or those that it may have been."""
    try:
        return make()
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:
        callers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        involved = [each.name for each in callers if isinstance(each, TokenMixer)]
        there = dict.fromkeys(module.name for module in model.modules() if isinstance(module, TokenMixer))
        names = involved[-1:] or list(there)
        said = f" with {', '.join(names)}" if names else ""
        raise InputError(f"{type(model).__name__}{said} cannot be exported: {reason(error)}{advice}") from error


def reason(error: BaseException) -> str:
    """What an error says first; of those that a library wraps, the innermost."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]


@contextmanager
def hushed() -> Iterator[None]:
    """What is traced and translated says nothing of its own."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def report(found: Exported) -> dict[str, Any]:
    """What stands in the file beside the graph."""
    packages = PACKAGES if found.format == "onnx" else ()
    return {
        **{key: value for key, value in asdict(found).items() if key != "path"},
        "unit": "ms",
        "tolerance": TOLERANCE,
        "versions": {name: version(name) for name in packages},
        "machine": {**environment.describe("fp32"), "device": "cpu"},
    }
