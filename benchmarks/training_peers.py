"""Training speed against peers: real target tokens a second of bareformers, MarianMTModel in Seq2SeqTrainer, JoeyNMT.

    python benchmarks/training_peers.py --root <folder with train.de, train.en, val.de, val.en>

All train an encoder-decoder of the same size on the same pairs, cut into the same tokens by the same BPE, with batches
of about the same rows times longest sentence. Each run is a process of its own, and the peers take turns, so that a
slow minute of the machine hits all alike. The first steps of a run are not counted. A real target token is a label that
is no padding, `</s>` included; all are counted so.

Each is run as somebody would who follows its documentation, so the comparison is between ways to train, not between
kernels. What differs, beside the code:

  ours      recipes/translation/multi30k.yaml through `BareTrainer`: bf16 autocast where the processor has it; batches
            of similar length, so that little is padding (and a batch holds more real tokens); dropout masks drawn
            eight to a 64-bit number; glibc told to keep freed memory; logits at real positions only. Label smoothing
            as the recipe says. Pre-LN.
  marian    `MarianMTModel` in `Seq2SeqTrainer` with `DataCollatorForSeq2Seq` and their defaults: fp32, random batches
            of a fixed number of sentences, no label smoothing, Post-LN. The number is chosen so that rows times longest
            side is the batch size in tokens on average. Only sizes, dropout and activation are set, to be as ours.
  joeynmt   a YAML file in the manner of its own Transformer configurations: fp32 (all it has on a CPU), random batches
            by tokens, label smoothing 0.1, dropout in the attention too, Pre-LN, tied embeddings. Its numbers come from
            its own log. It looks up tokens while it trains, here after splitting at spaces.
            Left out where it is not installed (`pip install joeynmt importlib_metadata`; `--python` names the
            interpreter that has them).

`ours-fp32` and `marian-bf16` may be asked for with `--peers`: they say how much of the difference is precision.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from record import save
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import (
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

import bareformers
from bareformers import assessment, run_folder, variants
from bareformers.data.examples import IGNORED, Examples
from bareformers.data.tasks import TaskData
from bareformers.errors import InputError
from bareformers.measure.environment import default_device
from bareformers.models import BareConfig
from bareformers.recipe import Recipe, load
from bareformers.training.allocator import keep_freed_memory
from bareformers.training.trainer import BareTrainer

PEERS = ("ours", "marian", "joeynmt", "ours-fp32", "marian-bf16")
RECIPE = Path(__file__).resolve().parent.parent / "recipes/translation/multi30k.yaml"
BUDGET_MINUTES = 20.0  # of our training: as long as a user's, so that it logs as often; the clock ends it before
ENDLESS = 10**9
PATIENCE = 600  # seconds that JoeyNMT may take beyond those counted

SIZES = ("batch_tokens", "vocab_size", "hidden_size", "layers", "heads", "ffn")
SETTINGS = ("source", "target", "seconds", "warmup", *SIZES)  # what a figure depends on
PASSED_ON = (*SETTINGS, "root", "train", "validation", "python")  # to the process of a run

# A logged step of JoeyNMT: when, which, and how many tokens a second since the one before.
JOEY_STEP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}).* Step:\s*(\d+),.*Tokens per Sec:\s*(\d+)")
JOEY_SPECIALS = {"unk": "<unk>", "pad": "<pad>", "bos": "<s>", "eos": "</s>"}  # in the order of their ids
JOEY_VERSIONS = """
import json
from importlib.metadata import version
import joeynmt.training
print(json.dumps({name: version(name) for name in ("joeynmt", "torch")}))
"""


@dataclass
class Speed:
    """What one run of one peer measured.

    Attributes:
        tokens_per_second: real target tokens.
        tokens, seconds, steps: what was counted.
        dtype: that the products are calculated in.
        rows: sentences of a batch, on average, where known.
        target_padding: share of the label positions that was padding, where known.
        parameters: trained ones; tied ones once.
        versions: of the packages that did the work.
    """

    peer: str
    tokens_per_second: float
    tokens: int
    seconds: float
    steps: int
    dtype: str
    rows: float | None
    target_padding: float | None
    parameters: int
    versions: dict[str, str]


class Counted:
    """A collator that notes rows, real labels and label positions of each batch, in the order of the steps."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate
        self.batches: list[tuple[int, int, int]] = []

    def __call__(self, examples: Any) -> Any:
        batch = self.collate(examples)
        labels: Tensor = batch["labels"]
        self.batches.append((len(labels), int((labels != IGNORED).sum()), labels.numel()))
        return batch


class Clock(TrainerCallback):
    """Starts with the last step of the warm-up, and ends training at the first step after `seconds` more."""

    def __init__(self, warmup: int, seconds: float) -> None:
        self.warmup, self.limit = warmup, seconds
        self.start = self.seconds = 0.0
        self.step = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, self.step = time.perf_counter(), state.global_step
        if self.step <= self.warmup:
            self.start = now
        self.seconds = now - self.start
        if self.step > self.warmup and self.seconds >= self.limit:
            control.should_training_stop = True

    def speed(self, peer: str, counted: Counted, trainer: Trainer, package: str) -> Speed:
        steps = counted.batches[self.warmup : self.step]  # the loader may have made a batch ahead
        rows, tokens, positions = (sum(column) for column in zip(*steps, strict=True))
        return Speed(
            peer,
            round(tokens / self.seconds, 1),
            tokens,
            round(self.seconds, 2),
            len(steps),
            "bf16 autocast" if trainer.args.bf16 else "fp32",
            rows=round(rows / len(steps), 1),
            target_padding=round(1 - tokens / positions, 3),
            parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            versions={name: version(name) for name in (package, "torch")},
        )


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from the source folder
        return bareformers.__version__


# One run, in a process of its own.


def time_ours(data: TaskData, recipe: Recipe, options: argparse.Namespace) -> Speed:
    """The way `bareformers run` trains."""
    set_seed(options.seed)
    model = assessment.MODELS[data.task](variants.configure(recipe, recipe.baseline_name, data))
    counted, clock = Counted(data.collate), Clock(options.warmup, options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        trainer = BareTrainer(
            model,
            recipe.training_for(recipe.baseline_name),
            data.train,
            counted,
            is_causal=False,
            validate=lambda model: 0.0,  # not reached: the only evaluation is at the end of the budget
            folder=Path(folder),
            seed=options.seed,
            label=options.peer,
            callbacks=[clock],
        )
        trainer.fit()
    return clock.speed(options.peer, counted, trainer, "bareformers")


def time_marian(data: TaskData, recipe: Recipe, options: argparse.Namespace) -> Speed:
    """The way the documentation of `transformers` trains a translation model."""
    set_seed(options.seed)
    tokenizer, same = data.tokenizer, variants.configure(recipe, recipe.baseline_name, data)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(tokenizer),
            d_model=same.hidden_size,
            encoder_layers=same.num_layers("encoder"),
            decoder_layers=same.num_layers("decoder"),
            encoder_attention_heads=same.num_attention_heads,
            decoder_attention_heads=same.num_attention_heads,
            encoder_ffn_dim=same.intermediate_size,
            decoder_ffn_dim=same.intermediate_size,
            activation_function=same.hidden_act,
            dropout=same.dropout,
            max_position_embeddings=same.max_position_embeddings,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )
    examples = [
        {"input_ids": source, "attention_mask": [1] * len(source), "labels": target}
        for source, target in pairs(data.train)
    ]
    counted = Counted(DataCollatorForSeq2Seq(tokenizer, model=model))
    clock = Clock(options.warmup, options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=random_rows(data.train.lengths, options.batch_tokens),
            max_steps=ENDLESS,
            save_strategy="no",
            report_to="none",
            seed=options.seed,
            bf16=options.peer == "marian-bf16",
            use_cpu=default_device().type == "cpu",
        )
        trainer = Seq2SeqTrainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=counted,
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    return clock.speed(options.peer, counted, trainer, "transformers")


def random_rows(lengths: Any, batch_tokens: int) -> int:
    """The sentences of a random batch whose rows times longest side is, on average, at most `batch_tokens`."""
    most = max(1, batch_tokens // int(lengths.min()))
    draws = np.random.default_rng(0).choice(lengths, (200, most))
    sizes = np.maximum.accumulate(draws, axis=1).mean(0) * np.arange(1, most + 1)
    return max(1, int(np.searchsorted(sizes, batch_tokens, side="right")))


def pairs(examples: Examples) -> list[tuple[list[int], list[int]]]:
    """(source, target) of each example as lists of ids, `</s>` included."""
    found = (examples[index] for index in range(len(examples)))
    return [(example["input_ids"].tolist(), example["labels"].tolist()) for example in found]


def time_joeynmt(data: TaskData, recipe: Recipe, options: argparse.Namespace) -> Speed:
    """`python -m joeynmt train` on a configuration in a temporary folder, stopped when its log shows enough steps."""
    versions = joeynmt_versions(options.python)
    same = variants.configure(recipe, recipe.baseline_name, data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_words(folder, "train", data.train)
        write_words(folder, "dev", data.validation)
        words = (f"{index}\n" for index in range(len(JOEY_SPECIALS), len(data.tokenizer)))
        (folder / "vocabulary.txt").write_text("".join(words), encoding="utf-8")
        configuration = joeynmt_configuration(folder, same, recipe, options)
        (folder / "config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        log = follow_joeynmt(folder, options)
    steps = joeynmt_steps(log)[options.warmup - 1 :]
    tokens = sum(rate * (when - before) for (before, _), (when, rate) in zip(steps[:-1], steps[1:], strict=True))
    seconds = steps[-1][0] - steps[0][0]
    parameters = re.search(r"Total params: (\d+)", log)
    return Speed(
        options.peer,
        round(tokens / seconds, 1),
        round(tokens),
        round(seconds, 2),
        len(steps) - 1,
        "fp32",
        rows=None,
        target_padding=None,
        parameters=int(parameters[1]) if parameters else 0,
        versions=versions,
    )


def joeynmt_versions(python: str) -> dict[str, str]:
    found = subprocess.run([python, "-c", JOEY_VERSIONS], capture_output=True, text=True)
    if found.returncode:
        reason = (found.stderr.strip() or "it does not say why").splitlines()[-1]
        raise InputError(
            f"JoeyNMT cannot be imported ({reason}): pip install joeynmt importlib_metadata, "
            "or name by --python an interpreter that has them"
        )
    return dict(json.loads(found.stdout.splitlines()[-1]))


def write_words(folder: Path, stem: str, examples: Examples) -> None:
    """Both sides as files of token ids at spaces: words whose vocabulary is that of our tokenizer."""
    for side, sequences in zip(("source", "target"), zip(*pairs(examples), strict=True), strict=True):
        lines = (" ".join(map(str, ids[:-1])) + "\n" for ids in sequences)  # JoeyNMT adds </s> itself
        (folder / f"{stem}.{side}").write_text("".join(lines), encoding="utf-8")


def joeynmt_configuration(
    folder: Path, same: BareConfig, recipe: Recipe, options: argparse.Namespace
) -> dict[str, Any]:
    training = recipe.training_for(recipe.baseline_name)
    language = {"level": "word", "lowercase": False, "normalize": False, "voc_file": str(folder / "vocabulary.txt")}
    specials: dict[str, str | int] = {}
    for index, (name, token) in enumerate(JOEY_SPECIALS.items()):
        specials |= {f"{name}_token": token, f"{name}_id": index}
    half = {
        "type": "transformer",
        "num_heads": same.num_attention_heads,
        "hidden_size": same.hidden_size,
        "ff_size": same.intermediate_size,
        "dropout": same.dropout,
        "layer_norm": "pre",
        "activation": same.hidden_act,
        "embeddings": {"embedding_dim": same.hidden_size, "scale": True, "dropout": same.dropout},
    }
    return {
        "name": "peer",
        "model_dir": str(folder / "model"),
        "use_cuda": torch.cuda.is_available(),
        "fp16": False,
        "random_seed": options.seed,
        "data": {
            "train": str(folder / "train"),
            "dev": str(folder / "dev"),
            "dataset_type": "plain",
            "src": {"lang": "source", **language},
            "trg": {"lang": "target", **language},
            "special_symbols": specials,
        },
        "testing": {"batch_size": options.batch_tokens, "batch_type": "token", "eval_metrics": ["bleu"]},
        "training": {
            "optimizer": "adamw",
            "normalization": "tokens",
            "adam_betas": list(training.betas),
            "scheduling": "warmupinversesquareroot",
            "learning_rate": 3e-4,
            "learning_rate_warmup": max(training.warmup_steps, 1),
            "learning_rate_min": 1e-9,  # below which it stops
            "weight_decay": training.weight_decay,
            "clip_grad_norm": training.clip,
            "label_smoothing": 0.1,
            "loss": "crossentropy",
            "batch_size": options.batch_tokens,
            "batch_type": "token",
            "early_stopping_metric": "ppl",
            "epochs": ENDLESS,
            "validation_freq": ENDLESS,
            "logging_freq": 1,  # the rate it logs leaves the time of logging out
            "shuffle": True,
        },
        "model": {
            "initializer": "xavier_uniform",
            "bias_initializer": "zeros",
            "init_gain": 1.0,
            "embed_initializer": "xavier_uniform",
            "embed_init_gain": 1.0,
            "tied_embeddings": True,
            "tied_softmax": True,
            "encoder": {"num_layers": same.num_layers("encoder"), **half},
            "decoder": {"num_layers": same.num_layers("decoder"), **half},
        },
    }


def follow_joeynmt(folder: Path, options: argparse.Namespace) -> str:
    """Train until the counted steps of the log took long enough; returns the log."""
    command = [options.python, "-m", "joeynmt", "train", str(folder / "config.yaml"), "--skip-test"]
    output, log = folder / "output.txt", ""
    limit = time.monotonic() + options.seconds + PATIENCE
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and time.monotonic() < limit:
                time.sleep(0.5)
                log = output.read_text(encoding="utf-8", errors="replace")
                steps = joeynmt_steps(log)[options.warmup - 1 :]
                if len(steps) > 1 and steps[-1][0] - steps[0][0] >= options.seconds:
                    return log
        finally:
            process.kill()
            process.wait()
    raise RuntimeError("JoeyNMT ended early: " + " | ".join(log.strip().splitlines()[-5:]))


def joeynmt_steps(log: str) -> list[tuple[float, float]]:
    """(time in seconds, tokens a second since the step before) of each step in the log."""
    return [
        (datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), float(match[3]))
        for match in JOEY_STEP.finditer(log)
    ]


TIMERS = {"ours": time_ours, "marian": time_marian, "joeynmt": time_joeynmt}


def read_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe of the repository, on the data and with the sizes that were asked for."""
    changes = {
        "data.root": str(options.root),
        "data.source": options.source,
        "data.target": options.target,
        "data.train": options.train,
        "data.validation": options.validation,
        "data.test": None,
        "task.vocab_size": options.vocab_size,
        "model.hidden_size": options.hidden_size,
        "model.num_hidden_layers": options.layers,
        "model.num_attention_heads": options.heads,
        "model.intermediate_size": options.ffn,
        "training.budget.minutes": max(BUDGET_MINUTES, options.seconds / 10),
        "training.batch_tokens": options.batch_tokens,
        "training.evaluations": 1,  # at the end of the budget, which is not reached: no peer evaluates or saves
        "training.checkpoints": 1,
        "training.average_checkpoints": 0,
        "training.early_stopping": None,
        "training.precision": "fp32" if options.peer == "ours-fp32" else "auto",
    }
    return load(RECIPE, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def time_one(options: argparse.Namespace) -> int:
    """Time one peer in this process; the last line of standard output is its `Speed` as JSON."""
    if options.peer.startswith("ours"):
        keep_freed_memory()  # as the command line does, before the first tensor
    try:
        with redirect_stdout(sys.stderr):
            recipe = read_recipe(options)
            data = run_folder.load_data(recipe.data, recipe.task)
            speed = TIMERS[options.peer.partition("-")[0]](data, recipe, options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(asdict(speed)))
    return 0


# The comparison.


def compare(options: argparse.Namespace) -> int:
    """Run the peers in turns, show what they did, and write it down."""
    runs: dict[str, list[Speed]] = {peer: [] for peer in options.peers}
    left_out: dict[str, str] = {}
    for turn in range(options.rounds):
        for peer in options.peers:
            if peer in left_out:
                continue
            speed = run_one(peer, turn, options)
            if isinstance(speed, Speed):
                runs[peer].append(speed)
                rate, counted = f"{speed.tokens_per_second:,.0f} tokens/s", f"{speed.steps} steps in {speed.seconds} s"
                print(f"round {turn + 1}: {peer} {rate} ({counted})", file=sys.stderr, flush=True)
                continue
            print(f"{peer} is left out: {speed}", file=sys.stderr, flush=True)
            if peer == "ours":
                return 2
            left_out[peer] = speed
    runs = {peer: speeds for peer, speeds in runs.items() if peer not in left_out}
    peers = {peer: summary(speeds) for peer, speeds in runs.items()}
    ratios = {peer: ratio(runs["ours"], speeds) for peer, speeds in runs.items() if "ours" in runs and peer != "ours"}
    show(peers, ratios)
    settings = {
        "data": options.root.name,
        "rounds": options.rounds,
        **{name: getattr(options, name) for name in SETTINGS},
    }
    save(options.out, "training_peers", settings, {"peers": peers, "ours_over": ratios, "left_out": left_out})
    print(f"Written to {options.out}")
    return 0


def run_one(peer: str, seed: int, options: argparse.Namespace) -> Speed | str:
    """What a run in a process of its own measured, or why it did not."""
    command = [sys.executable, __file__, "--peer", peer, "--seed", str(seed)]
    for name in PASSED_ON:
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    finished = subprocess.run(command, env={**quiet, **os.environ}, capture_output=True, text=True)
    if finished.returncode:
        return (finished.stderr.strip() or f"exit code {finished.returncode}").splitlines()[-1]
    return Speed(**json.loads(finished.stdout.splitlines()[-1]))


def summary(speeds: list[Speed]) -> dict[str, Any]:
    """The median over rounds, and the rounds themselves."""
    rates = [speed.tokens_per_second for speed in speeds]
    return {
        "tokens_per_second": {
            "median": statistics.median(rates),
            "lowest": min(rates),
            "highest": max(rates),
            "unit": "real target tokens/s",
        },
        "dtype": speeds[0].dtype,
        "parameters": speeds[0].parameters,
        "versions": speeds[0].versions,
        "rounds": [
            {name: getattr(speed, name) for name in ("tokens", "seconds", "steps", "rows", "target_padding")}
            for speed in speeds
        ],
    }


def ratio(ours: list[Speed], theirs: list[Speed]) -> dict[str, float]:
    """Our speed over theirs: of the medians, and the extremes over rounds."""
    rates = [[speed.tokens_per_second for speed in speeds] for speeds in (ours, theirs)]
    by_round = [one / other for one, other in zip(*rates, strict=True)]
    return {
        "of_medians": round(statistics.median(rates[0]) / statistics.median(rates[1]), 2),
        "lowest_round": round(min(by_round), 2),
        "highest_round": round(max(by_round), 2),
    }


def show(peers: dict[str, dict[str, Any]], ratios: dict[str, dict[str, float]]) -> None:
    table = Table("peer", "dtype", "tokens/s", "lowest", "highest", "parameters", "ours is", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for peer, found in peers.items():
        rates = [f"{found['tokens_per_second'][name]:,.0f}" for name in ("median", "lowest", "highest")]
        times = f"{ratios[peer]['of_medians']:.2f}x" if peer in ratios else ""
        table.add_row(peer, found["dtype"], *rates, f"{found['parameters']:,}", times)
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/multi30k"), help="folder of line-aligned files")
    parser.add_argument("--source", default="de")
    parser.add_argument("--target", default="en")
    parser.add_argument("--train", default="train", help="stem of the training files")
    parser.add_argument("--validation", default="val", help="stem of the validation files")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS[:3]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, help="counted in each run")
    parser.add_argument("--warmup", type=int, default=3, help="first steps of a run that are not counted (at least 1)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="rows times longest side of a batch")
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3, help="of the encoder, and of the decoder")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--ffn", type=int, default=512)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has JoeyNMT")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/training_peers.json"))
    parser.add_argument("--peer", choices=PEERS, help="time this one here, and print one line of JSON")
    parser.add_argument("--seed", type=int, default=0, help="of a single --peer")
    options = parser.parse_args()
    if options.warmup < 1 or options.seconds <= 0 or options.rounds < 1:
        parser.error("--warmup and --rounds must be at least 1, and --seconds above 0")
    python = shutil.which(options.python)
    if python is None:
        parser.error(f"--python: there is no interpreter {options.python}")
    options.python = os.path.abspath(python)  # JoeyNMT runs in another folder
    options.root = options.root.expanduser().resolve()
    return options


def main() -> int:
    options = parse()
    return time_one(options) if options.peer else compare(options)


if __name__ == "__main__":
    raise SystemExit(main())
