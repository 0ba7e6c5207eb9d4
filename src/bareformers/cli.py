"""The command line: one verb for each thing a person comes for.

torch is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import ast
import dataclasses
import errno
import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bareformers.errors import InputError, Interrupted, unknown
from bareformers.registry import ROLES

if TYPE_CHECKING:
    from rich.table import Table

    from bareformers.report.result import Document

app = typer.Typer(
    help="Find out which parts of a Transformer you can do without, and what you save.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Decorates a verb: what the user got wrong is one sentence and exit code 2, never a traceback."""
    try:
        yield
    except (InputError, Interrupted) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("stopped")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if is_disk_full(error):
            fail("no space left on the device; free some, and the same command goes on from the last checkpoint")
        if isinstance(error, OSError) and error.filename:
            fail(f"{error.filename}: {error.strerror}")
        raise


def is_disk_full(error: Exception) -> bool:
    """Whether a write failed for want of space; torch says so only in its own words."""
    said = ("No space left", "PytorchStreamWriter failed", "unexpected pos")
    return isinstance(error, OSError) and error.errno == errno.ENOSPC or any(words in str(error) for words in said)


CARRIED_OUT = {
    "comparison": "bareformers.run",
    "sweep": "bareformers.sweep",
    "transfer": "bareformers.transfer",
    "scan_and_snap": "bareformers.scan_and_snap",
    "matrix": "bareformers.matrix",
}
"""The module whose `run` carries out a kind of recipe."""
SPREAD = ("comparison", "sweep")
"""The kinds of recipe whose runs do not wait for each other."""

Folder = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart/gaussian/seed0.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe, as key.sub=value.")]


@app.command()
@plain_errors()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML); see the folder recipes/.")],
    overrides: Overrides = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="Where runs are carried out, several at once: ray for this machine, or the address of a ray cluster, "
            "as in head:6379. By default here, one by one."
        ),
    ] = None,
) -> None:
    """Train the variants of a recipe, measure them, and write the report. Given again, it goes on where it stopped."""
    from bareformers.recipe import load

    loaded = load(recipe, overrides)
    if on is not None and loaded.kind not in SPREAD:
        raise InputError(f"--on is for recipes of kind {' or '.join(SPREAD)}, not {loaded.kind}; leave it out")
    prepare()
    where: dict[str, Any] = {}
    if on is not None:
        from bareformers import distribution

        where["carry"] = distribution.carrier(on)
    options = [] if on is None else ["--on", on]
    carried_out = importlib.import_module(CARRIED_OUT[loaded.kind]).run(
        loaded, written("run", recipe, overrides, options), log=say, **where
    )
    show(carried_out, loaded.folder)


@app.command()
@plain_errors()
def distill(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML) with a teacher; see recipes/attentionless.")],
    overrides: Overrides = None,
) -> None:
    """Hand parts of a trained model to students, and measure what is left. Given again, it goes on where it stopped."""
    from bareformers.recipe import load_distillation

    loaded = load_distillation(recipe, overrides)
    prepare()
    from bareformers import distillation as distilling

    show(distilling.distill(loaded, written("distill", recipe, overrides), log=say), loaded.folder)


@app.command()
@plain_errors()
def pare(
    model: Annotated[
        str, typer.Argument(help="A run folder, a folder or name of a model of transformers, or a recipe (YAML).")
    ],
    overrides: Overrides = None,
    data: Annotated[
        str | None,
        typer.Option(help="A folder with train.txt, validation.txt and test.txt (or .tsv, .csv), or a data section."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="A score of the task, such as accuracy, f1, pearson, bleu, rouge_l or perplexity."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0.0, help="The most it may lose: points, or percent where less is better. [1.0]"),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--for", help="What is to be saved: latency, parameters or state. [latency]")
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(help="What may stand for attention, as in gaussian,average,{name: alr, size: XS}.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder; runs/pare-<model> by default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of students and of the order of batches. [0]")] = None,
) -> None:
    """Replace attention wherever that costs little, within a budget of quality. Given again, it goes on."""
    prepare()
    from bareformers import bench as benching
    from bareformers import reduction

    given = {
        "metric": metric,
        "max_drop": max_drop,
        "target": target,
        "candidates": None if candidates is None else benching.spec_list(candidates, "--candidates"),
        "output": output,
        "seed": seed,
    }
    typed = {
        "--data": data,
        "--metric": metric,
        "--max-drop": max_drop,
        "--for": target,
        "--candidates": candidates,
        "--output": output,
        "--seed": seed,
    }
    options = [word for name, value in typed.items() if value is not None for word in (name, str(value))]
    command = shlex.join(["bareformers", "pare", model, *options, *(overrides or [])])
    said = {key: value for key, value in given.items() if value is not None}
    recipe = reduction.recipe_of(model, data, said, overrides or [])
    found = reduction.carry_out(recipe, command, log=say)
    show(found.comparison, found.folder, found.study.remark)
    print(f"Model:  {found.folder / 'model'}")


@app.command()
@plain_errors()
def export(
    folder: Annotated[Path, typer.Argument(help="A run folder, that of a paring, or of a model of transformers.")],
    format: Annotated[str, typer.Option(help="onnx, or torch (torch.export).")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(help="File; model.onnx or model.pt2 in the folder by default. One there is replaced.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=0, help="Timings of the graph and of the model, in turns; the median counts. 0: none.")
    ] = 5,
) -> None:
    """Write a model as one graph for any batch and length, once it gives what the model gives.

    It is one forward pass: decoding with a state is not exported.
    """
    prepare()
    from rich.console import Console
    from rich.table import Table

    from bareformers import export as exporting

    found = exporting.export(folder, output, format, rounds, log=say)
    if found.latencies:
        table = Table(f"{found.tokens} tokens", *found.latencies, box=None, header_style="dim")
        for rows in next(iter(found.latencies.values())):
            times = (f"{by_rows[rows]:.2f} ms" for by_rows in found.latencies.values())
            table.add_row(f"batch {rows}", *times)
        Console().print(table)
    print(f"Differs from the model by {found.difference:.1e} of the largest output at most")
    print(f"Graph: {found.path}")


def prepare() -> None:
    """What comes before training."""
    quiet()
    from bareformers.training.allocator import keep_freed_memory

    keep_freed_memory()


def written(verb: str, recipe: Path, overrides: list[str] | None, options: Sequence[str] = ()) -> str:
    """The command that the user gave."""
    return shlex.join(["bareformers", verb, str(recipe), *(overrides or []), *options])


def say(sentence: str) -> None:
    """What is going on, beside what is asked for."""
    print(sentence, file=sys.stderr, flush=True)


def show(found: Document, folder: Path, said: str = "") -> None:
    """What was found as tables, what these say (or what was said of them), and where the report is."""
    from rich.console import Console

    from bareformers.report.kinds import shown

    console = Console()
    how = shown(found)
    for table in how.tables(found):
        console.print(table)
    if sentence := said or how.said(found):
        console.print(sentence)
    print(f"\nReport: {folder / 'report.html'}")


@app.command()
@plain_errors()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a comparison or benchmark, such as runs/quickstart.")],
) -> None:
    """Build report.html again from the files of whatever has one (no torch needed)."""
    from bareformers.report.kinds import SHOWN
    from bareformers.report.result import kind_of

    if (folder / "metrics.jsonl").exists():
        raise InputError(f"{folder} is one run; give the folder of the comparison, {folder.parent.parent}")
    how = SHOWN.get(kind_of(folder / "result.json"), SHOWN[""])
    print(f"Report: {how.build(folder)}")


@app.command()
@plain_errors()
def evaluate(
    folder: Folder,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to data and evaluation: data.test=test_2017, evaluation.beams=1."),
    ] = None,
) -> None:
    """Score a trained run again, on its own test side or on another."""
    quiet()
    from bareformers import assessment, run_folder

    model, data, settings = run_folder.reload(folder, overrides or [])
    for note in data.notes:
        print(note, file=sys.stderr)
    scores, signature, _, remarks = assessment.evaluate(model, data, settings)
    for remark in remarks:
        print(remark, file=sys.stderr)
    width = max(14, *map(len, scores))
    for name, measure in scores.items():
        print(f"{name:{width}s} {measure.value:10.4f} {measure.unit}")
    if signature:
        print(f"{'signature':{width}s} {signature}")


@app.command()
@plain_errors()
def translate(
    folder: Folder,
    beams: Annotated[
        int | None,
        typer.Option(min=1, help="Width of beam search, 1 is greedy; by default what the run was scored with."),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Take all of standard input as one text.")] = False,
) -> None:
    """Translate, summarise or answer standard input, line by line."""
    quiet()
    from bareformers import decoding, run_folder

    model, tokenizer = run_folder.load_model(folder)
    if not run_folder.reads_sources(folder, model):
        what = ("a language model", "generate") if model.can_generate() else ("a model that reads only", "evaluate")
        raise InputError(f"{folder} holds {what[0]}, which does not translate; use `bareformers {what[1]}`")
    settings = run_folder.settings_of(folder)
    texts = ["\n".join(read_lines())] if whole else read_lines()
    for line in decoding.translate(model, tokenizer, texts, beams or settings["beams"], settings["length_penalty"]):
        print(line, flush=True)


@app.command()
@plain_errors()
def generate(
    folder: Folder,
    prompt: Annotated[str | None, typer.Option(help="What to continue; standard input where not given.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="The most tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
) -> None:
    """Continue a prompt with a language model."""
    quiet()
    from bareformers import decoding, run_folder

    model, tokenizer = run_folder.load_model(folder)
    if run_folder.reads_sources(folder, model):
        raise InputError(f"{folder} holds a model that writes targets for sources; use `bareformers translate`")
    text = prompt if prompt is not None else "\n".join(read_lines())
    print(decoding.generate(model, tokenizer, text, tokens, temperature, seed))


@app.command()
@plain_errors()
def inspect(
    target: Annotated[str, typer.Argument(help="A run folder, or a Hugging Face model: its folder or its name.")],
    text: Annotated[
        Path | None,
        typer.Option(
            help="What a Hugging Face model is to read; for an encoder-decoder, source, tab and target a line."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for inspect.html; by default that of the run, or runs/inspect/<model>.")
    ] = None,
) -> None:
    """Show the signal layer by layer and who reads whom, of a run also at its initialisation."""
    quiet()
    from rich.console import Console

    from bareformers import inspection as inspecting
    from bareformers.report.inspection import tables, write

    found = inspecting.inspect(target, text)
    console = Console()
    for table in tables(found):
        console.print(table)
    for note in found.notes:
        print(note, file=sys.stderr)
    print(f"\nReport: {write(found, output or inspecting.default_folder(target))}")


@app.command()
@plain_errors()
def bench(
    mixers: Annotated[
        str | None,
        typer.Option(
            help="What a recipe may name, as in gaussian,{name: gaussian, std: 2},random+dot_product; by default all."
        ),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Measure whole layers: all, or as in sas,{name: sas_p, norm: none}. "
            "--mixers then names the one mixer that each holds, by default dot_product."
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Of blocks: layer, rms or none; by default layer.")] = None,
    intermediate_size: Annotated[
        int | None,
        typer.Option(min=1, help="Of blocks: width of the feed-forward network; by default four times --hidden-size."),
    ] = None,
    lengths: Annotated[str, typer.Option(help="In tokens.")] = "64,128,256,512,1024,2048,4096,8192",
    role: Annotated[
        str, typer.Option(help="decoder, encoder or cross (with a context of the same length).")
    ] = "decoder",
    hidden_size: Annotated[int, typer.Option(min=1, help="Width of mixers and layers.")] = 512,
    heads: Annotated[int, typer.Option(min=1)] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each call, in turns; the median counts.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="The most that the timings of one call may take; slow ones get fewer rounds.")
    ] = 10.0,
    memory_limit: Annotated[
        float | None, typer.Option(min=0.0, help="GB; what may take more is left out. By default half of what is free.")
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="A module to import that registers mixers or blocks of your own; may be repeated."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder; an earlier benchmark there is replaced.")] = Path("runs/bench"),
) -> None:
    """Measure what mixers, or blocks, cost against length: time, memory and decoding state, beside the usual one."""
    prepare()
    from bareformers import bench as benching

    if plugin:
        from bareformers import run_folder

        run_folder.import_plugins(plugin)
    if mixers is None:
        mixers = benching.ALL if blocks is None else benching.BASELINES["mixer"]
    given = {
        "mixers": mixers,
        "blocks": blocks,
        "norm": norm,
        "intermediate-size": intermediate_size,
        "lengths": lengths,
        "role": role,
        "hidden-size": hidden_size,
        "heads": heads,
        "batch": batch,
        "rounds": rounds,
        "seconds": seconds,
        "memory-limit": memory_limit,
        "output": output,
    }
    options = [(name, value) for name, value in given.items() if value is not None]
    options += [("plugin", module) for module in plugin or []]
    command = shlex.join(
        ["bareformers", "bench", *(word for name, value in options for word in (f"--{name}", str(value)))]
    )
    settings = benching.Settings(
        benching.spec_list(mixers, "--mixers"),
        benching.length_list(lengths),
        role=role,
        hidden_size=hidden_size,
        heads=heads,
        batch=batch,
        rounds=rounds,
        seconds=seconds,
        memory_limit=None if memory_limit is None else int(memory_limit * 1e9),
        blocks=() if blocks is None else benching.spec_list(blocks, "--blocks"),
        norm=norm,
        intermediate_size=intermediate_size,
    )
    show(benching.bench(settings, command, output, log=say), output)


@app.command(name="list")
@plain_errors()
def list_names(
    kind: Annotated[str, typer.Argument(help="mixers, blocks or sources; all by default.")] = "",
) -> None:
    """Show what a recipe may name: mixers, blocks and data sources."""
    kinds = {"mixers": mixer_table, "blocks": block_table, "sources": source_table}
    if kind and kind not in kinds:
        raise unknown("kind of name", kind, kinds)
    quiet()
    from rich.console import Console

    for name in [kind] if kind else kinds:
        table = kinds[name]()
        table.title, table.title_justify, table.title_style = name, "left", "bold"
        table.columns[0].no_wrap = True
        Console().print(table)


LEGEND = (
    "d: width, h: heads, n: maximum length, m: that of the context, t: positions so far; other names are options, or "
    "follow from them; parameters without biases"
)


def mixer_table() -> Table:
    """A paragraph for each mixer: what it does, where it sits and what it costs, its options, its paper."""
    from rich.table import Table
    from rich.text import Text

    from bareformers.registry import mixers

    table = Table(box=None, show_header=False, padding=(0, 2, 1, 0), caption=LEGEND, caption_justify="left")
    for name, cls in mixers:
        roles = ", ".join(role for role in ROLES if role in cls.roles)
        facts = {
            "roles": roles,
            "parameters": cls.parameters_formula,
            "state": f"{state_growth(cls)}: {cls.state_formula}",
            "options": written_options(cls.Options),
            "paper": cls.paper,
        }
        text = Text(first_line(cls))
        for key, fact in facts.items():
            text.append(f"\n{key} ", style="dim")
            text.append(fact)
        table.add_row(Text(name, style="bold"), text)
    return table


def state_growth(cls: Any) -> str:
    """How the decoding state grows, in words: `constant`, or `constant (cross: linear in t)` where the roles differ."""
    found = {role: growth(cls.state_formula, role) for role in ("decoder", "cross") if role in cls.roles}
    if not found:
        return "none"
    first, *others = dict.fromkeys(found.values())
    return f"{first} (cross: {others[0]})" if others else first


def growth(formula: str, role: str) -> str:
    """Whether a state formula depends on `t` in `role`: `none`, `constant` or `linear in t`."""
    if formula.strip() == "0":
        return "none"
    return "linear in t" if depends_on_t(ast.parse(formula, mode="eval").body, role) else "constant"


def depends_on_t(node: ast.AST, role: str) -> bool:
    """Whether `t` stands in an expression, outside of what is said for other roles or for few positions only."""
    if isinstance(node, ast.IfExp) and names_in(node.test) == {"role"}:
        test = compile(ast.Expression(node.test), "formula", "eval")
        return depends_on_t(node.body if eval(test, {"__builtins__": {}}, {"role": role}) else node.orelse, role)
    if isinstance(node, ast.IfExp) and ast.unparse(node.test).startswith("t < "):
        return depends_on_t(node.orelse, role)
    if isinstance(node, ast.Name):
        return node.id == "t"
    return any(depends_on_t(child, role) for child in ast.iter_child_nodes(node))


def names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def block_table() -> Table:
    from bareformers.registry import blocks

    rows = [(name, first_line(cls), written_options(cls.Options), cls.paper) for name, cls in blocks]
    return filled(("name", "what it does", "options", "paper"), rows)


def source_table() -> Table:
    from bareformers.registry import sources

    rows = [(name, first_line(cls), written_options(cls)) for name, cls in sources]
    return filled(("name", "what it reads", "options"), rows)


def filled(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(*heading, box=None, header_style="dim")
    for row in rows:
        table.add_row(*row)
    return table


def first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def written_options(cls: type) -> str:
    """The fields of an options dataclass with their defaults, as a user would write them."""
    parts = []
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        parts.append(f"{field.name}=..." if required else f"{field.name}={field.default}")
    return ", ".join(parts) or "-"


def quiet() -> None:
    """Keep the libraries below from talking over our own lines."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from transformers.utils import logging

    logging.disable_progress_bar()


def read_lines() -> list[str]:
    """Standard input as lines; bytes that are not UTF-8 are an `InputError` with the line."""
    lines = []
    for number, line in enumerate(sys.stdin.buffer.read().splitlines(), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of standard input is not UTF-8") from error
    return lines


def fail(sentence: Any) -> NoReturn:
    print(f"bareformers: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """The entry point."""
    app()
