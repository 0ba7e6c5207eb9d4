"""What pared models gain over the originals, in torch and in onnxruntime: ratios within one run.

    python benchmarks/paring.py models/minilm_sst2 runs/pare_minilm_sst2 [another paring of the same model ...]

Both are exported to ONNX first, which compares the graphs with the models. Then the original and all pared models take
turns, in torch and in onnxruntime, with 128 tokens, one sequence and 32; figures are medians. Attention's share of the
original's forward pass, which bounds what can be gained, is in the trace.json of each paring.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import save
from rich.console import Console
from rich.table import Table

from bareformers.export import Shape, export, inputs, lengths, opened, session
from bareformers.measure import speed
from bareformers.paring.savings import BATCHES, TIMED_LENGTH
from bareformers.paring.teaching import without_cache
from bareformers.report.paring import ParingStudy


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("pared", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    folders = {"original": asked.original, **{path.name: path for path in asked.pared}}
    models = {name: opened(path).eval() for name, path in folders.items()}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, model in models.items():
            export(model, Path(folder) / f"{name}.onnx", rounds=0)
            sessions[name] = session(Path(folder) / f"{name}.onnx")
        for rows in BATCHES:
            limits = lengths(models["original"])
            tokens = min(TIMED_LENGTH, limits.length, limits.target)
            given = inputs(models["original"], Shape(rows, tokens, tokens))
            arrays = {key: tensor.numpy() for key, tensor in given.items()}
            calls: dict[str, Callable[[], Any]] = {}
            for name, model in models.items():
                calls[f"torch {name}"] = partial(model, **given)
                calls[f"onnxruntime {name}"] = partial(sessions[name].run, None, arrays)
            with without_cache(*models.values()):
                taken = speed.timed(calls, asked.rounds, seconds=120)
            for program in ("torch", "onnxruntime"):
                before = taken[f"{program} original"].seconds
                for name in models:
                    timing = taken[f"{program} {name}"]
                    results.append(
                        {
                            "program": program,
                            "model": name,
                            "sequences": rows,
                            "tokens": tokens,
                            "ms": 1000 * timing.seconds,
                            "spread_ms": 1000 * timing.spread,
                            "times_as_fast": before / timing.seconds,
                        }
                    )
    shares = {path.name: ParingStudy.load(path / "trace.json").attention for path in asked.pared}
    table = Table("program", "model", "sequences", "ms", "spread", "times as fast")
    for row in results:
        figures = (f"{row['ms']:.1f}", f"{row['spread_ms']:.1f}", f"{row['times_as_fast']:.3f}")
        table.add_row(row["program"], row["model"], str(row["sequences"]), *figures)
    Console().print(table)
    if asked.output:
        save(asked.output, "paring", {"rounds": asked.rounds}, {"attention_share": shares, "passes": results})


if __name__ == "__main__":
    main()
