"""What a step of a distillation costs beyond what it cannot do without.

    python benchmarks/distillation.py

Teacher: an encoder-decoder of the paper's shape (6+6 layers, D=128, H=8, Pre-LN). Students stand for the mixers of all
six encoder layers at once; in the last row several learn at once, from sentences of half to all of the length.

  lessons   forward and backward pass of all students in one pass of the teacher, as training makes it
  teacher   the forward pass of the teacher's encoder alone
  students  forward and backward passes of the same students alone, on inputs and targets that lie ready

All take turns; figures are medians. Where the ratio, of the first to the sum of the others, is above 1.5, the exit code
is 1. Both ways end with the same gradients: where these differ by more than 2e-5 of the largest, it is 1 too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bareformers.distillation import Part, lessons_of, read
from bareformers.measure.speed import interleaved
from bareformers.models import BareConfig, BareForSeq2SeqLM
from bareformers.training.allocator import keep_freed_memory
from bareformers.training.distill import Lesson, Lessons
from bareformers.training.objectives import Imitated

TOLERANCE = 2e-5  # of the largest entry
LIMIT = 1.5
STUDENTS: dict[str, dict[str, Any]] = {
    "alr M": {"name": "alr", "size": "M"},
    "alr S": {"name": "alr", "size": "S"},
    "gaussian": {"name": "gaussian"},
    "random": {"name": "random"},
}
TOGETHER = "all of these, padded"


def ways(
    specs: list[dict[str, Any]], rows: int, length: int, padded: bool
) -> tuple[Lessons, dict[str, Callable[[], None]]]:
    """The students, and what is timed of them."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(hidden_size=128, num_hidden_layers=6, num_attention_heads=8, intermediate_size=512)
    config = BareConfig(**sizes, max_position_embeddings=50, is_encoder_decoder=True)
    teacher = BareForSeq2SeqLM(config).eval().requires_grad_(False)
    ids = torch.randint(3, config.vocab_size, (rows, length))
    lengths = torch.linspace(length // 2, length, rows).long() if padded else torch.full((rows,), length)
    keep = torch.arange(length) < lengths[:, None]
    batch = {"input_ids": ids, "attention_mask": keep.long(), "labels": ids}
    parts = [Part("encoder", layer, json.dumps(spec)) for spec in specs for layer in range(config.num_hidden_layers)]
    lessons = lessons_of(teacher, parts, match_maps=0.0, seed=0)
    run_teacher = torch.no_grad()(partial(read, teacher, {"encoder"}, batch))
    net = Lessons(lessons, partial(read, teacher, {"encoder"}))
    ready = inputs_and_targets(lessons, run_teacher)

    def learn_together() -> None:
        net.zero_grad()
        Imitated()(net, batch).backward()

    def learn_alone() -> None:
        net.zero_grad()
        for lesson, (x, mask, target) in zip(lessons, ready, strict=True):
            y, _ = lesson.student(x, mask)
            errors = (y - target).square().mean(-1)
            ((errors * keep).sum() / keep.sum()).backward()

    return net, {"lessons": learn_together, "teacher": run_teacher, "students": learn_alone}


def inputs_and_targets(lessons: list[Lesson], run_teacher: Callable[[], None]) -> list[tuple[Tensor, Any, Tensor]]:
    """What each student is given and asked for."""
    seen: dict[nn.Module, tuple[Any, ...]] = {}
    places = [module for lesson in lessons for module in (lesson.mixer, lesson.target[0]) if module is not None]
    hooks = [module.register_forward_pre_hook(seen.__setitem__) for module in dict.fromkeys(places)]
    run_teacher()
    for hook in hooks:
        hook.remove()
    mixers = [lesson.mixer for lesson in lessons if lesson.mixer is not None]
    return [(*seen[mixer], *seen[lesson.target[0]]) for mixer, lesson in zip(mixers, lessons, strict=True)]


def difference(net: Lessons, calls: dict[str, Callable[[], None]]) -> float:
    """How far the gradients of both ways are apart, as a share of the largest entry of each tensor."""
    found = []
    for name in ("lessons", "students"):
        calls[name]()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    pairs = zip(*found, strict=True)
    return max(((one - other).abs().max() / other.abs().max()).item() for one, other in pairs if other.any())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of each")
    parser.add_argument("--rows", type=int, default=64, help="sentences of a batch")
    parser.add_argument("--length", type=int, default=25, help="tokens of each")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/distillation.json"))
    options = parser.parse_args()

    keep_freed_memory()
    rows = []
    table = Table("students", "lessons ms", "teacher ms", "students ms", "ratio", box=None)
    for name, specs in {**{name: [spec] for name, spec in STUDENTS.items()}, TOGETHER: [*STUDENTS.values()]}.items():
        net, calls = ways(specs, options.rows, options.length, padded=name == TOGETHER)
        taken = interleaved(calls, options.rounds)
        ratio = taken["lessons"].seconds / (taken["teacher"].seconds + taken["students"].seconds)
        rows.append(
            {
                "students": name,
                "seconds": {
                    way: {"median": timing.seconds, "interquartile_range": timing.spread, "unit": "s"}
                    for way, timing in taken.items()
                },
                "ratio": round(ratio, 2),
                "largest_difference": difference(net, calls),
            }
        )
        table.add_row(f"6 x {name}", *(f"{1e3 * timing.seconds:,.1f}" for timing in taken.values()), f"{ratio:,.2f}x")
    Console().print(table)
    settings = {"rounds": options.rounds, "rows": options.rows, "length": options.length, "dtype": "float32"}
    save(options.out, "distillation", settings, {"timings": rows})
    print(f"Written to {options.out}")
    wrong = [row for row in rows if not row["largest_difference"] <= TOLERANCE]
    for row in wrong:
        print(f"Too far apart: {row['students']}, {row['largest_difference']:.1e}")
    slow = [row for row in rows if row["ratio"] > LIMIT]
    for row in slow:
        print(f"Too slow: {row['students']}, {row['ratio']:.2f}x")
    return 1 if wrong or slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
