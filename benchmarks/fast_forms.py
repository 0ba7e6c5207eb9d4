"""What the fast forms of mixers gain over the equations that they stand for: ratios within one run.

    python benchmarks/fast_forms.py

  linear    the causal sum in chunks, against the masked T x T product that it equals, and against softmax attention by
            the fused kernel of torch (which computes something else: it is what one would run instead)
  delta     the delta rule in chunks against a loop over positions
  random    the map of a random Synthesizer in evaluation, one softmax in blocks for the whole batch, against a softmax
            and a product for each row, and for the batch
  training  a whole training step of a six-layer encoder-decoder with random maps, against dot products

Only the mixing is timed, without the projections around it; `training` times all. Forms take turns; figures are
medians. Outputs (and gradients, where there are any) of a fast form are compared with those of its equation at the same
shapes; if one differs by more than 2e-5 of the largest entry, the exit code is 1. The Gaussian has a benchmark of its
own, `gaussian.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bareformers import registry
from bareformers.measure.speed import interleaved
from bareformers.mixers.base import Slot, apply_map
from bareformers.mixers.delta import delta_in_chunks
from bareformers.mixers.linear import sum_in_chunks
from bareformers.mixers.masks import Mask
from bareformers.models import BareConfig, BareForSeq2SeqLM
from bareformers.training.allocator import keep_freed_memory

TOLERANCE = 2e-5  # of the largest entry

Form = Callable[..., Tensor]


@dataclass
class Case:
    """Forms of one computation on the same inputs.

    Attributes:
        shape: as the table shows it.
        forms: by name; the first is ours.
        equal: which of the others compute the same as ours.
        inputs: what every form takes.
        backward: whether the backward pass is timed too.
    """

    name: str
    shape: str
    forms: dict[str, Form]
    inputs: tuple[Tensor, ...]
    equal: list[str] = field(default_factory=list)
    backward: bool = False

    @property
    def passes(self) -> str:
        return "fwd+bwd" if self.backward else "fwd"

    def results(self, form: Form) -> list[Tensor]:
        """The output, and the gradients where the backward pass counts."""
        if not self.backward:
            with torch.no_grad():
                return [form(*self.inputs)]
        leaves = [each.detach().requires_grad_() for each in self.inputs]
        y = form(*leaves)
        y.backward(torch.ones_like(y))
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    def difference(self) -> float:
        """How far ours is from the forms that it equals, as a share of the largest entry."""
        ours, *_ = self.forms.values()
        found = self.results(ours)
        return max(
            (
                ((one - other).abs().max() / other.abs().max()).item()
                for name in self.equal
                for one, other in zip(found, self.results(self.forms[name]), strict=True)
            ),
            default=0.0,
        )


def linear(length: int, backward: bool) -> Case:
    """Eight heads of 64; keys and queries are positive features, values carry the column of ones."""
    torch.manual_seed(0)
    shape = (1, 8, length, 64)
    queries, keys = (F.elu(torch.randn(shape)) + 1 for _ in range(2))
    values = torch.randn(shape)

    def chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, _ = sum_in_chunks(q, k, F.pad(v, (0, 1), value=1.0), None)
        return y[..., :-1] / y[..., -1:]

    def quadratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.transpose(-1, -2)).tril()
        return weights / weights.sum(-1, keepdim=True) @ v

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    forms = {"chunks": chunks, "T x T": quadratic, "fused softmax": fused}
    return Case("linear", f"H=8 T={length} d=64", forms, (queries, keys, values), ["T x T"], backward)


def delta(length: int, backward: bool) -> Case:
    """Two rows of four heads of 64, unit keys."""
    torch.manual_seed(0)
    shape = (2, 4, length, 64)
    queries, keys = (F.normalize(torch.randn(shape), dim=-1) for _ in range(2))
    values, rates = torch.randn(shape), torch.rand(*shape[:3], 1)

    def chunks(q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> Tensor:
        y, _ = delta_in_chunks(q, k, v, rate, None)
        assert y is not None
        return y

    def loop(q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> Tensor:
        memory = q.new_zeros(2, 4, 64, 64)
        outputs = []
        for query, key, value, beta in zip(*(each.unbind(2) for each in (q, k, v, rate)), strict=True):
            recalled = torch.einsum("bhf,bhfd->bhd", key, memory)
            memory = memory + torch.einsum("bhf,bhd->bhfd", key, beta * (value - recalled))
            outputs.append(torch.einsum("bhf,bhfd->bhd", query, memory))
        return torch.stack(outputs, 2)

    inputs = (queries, keys, values, rates)
    return Case("delta", f"B=2 H=4 T={length} d=64", {"chunks": chunks, "loop": loop}, inputs, ["loop"], backward)


def random(length: int) -> Case:
    """The causal map of the decoder on four rows, eight heads of 64, in evaluation."""
    torch.manual_seed(0)
    cls = registry.mixers.get("random")
    slot = Slot(role="decoder", layer=0, hidden_size=512, num_heads=8, max_length=length, max_context_length=length)
    mixer = cls(slot, cls.Options())
    mixer.init_weights(1.0)
    mixer.value = mixer.output = nn.Identity()
    mixer.eval()
    mask = Mask(length, length, causal=True, device=torch.device("cpu"))
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)

    def blocks(x: Tensor) -> Tensor:
        return mixer(x, mask)[0]

    def each_row(x: Tensor) -> Tensor:
        logits = mixer.logits.expand(len(x), -1, -1, -1).masked_fill(hidden, -torch.inf)
        return (logits.softmax(-1) @ mixer.heads(x)).transpose(1, 2).flatten(2)

    def shared(x: Tensor) -> Tensor:
        weights = mixer.logits[None].masked_fill(hidden, -torch.inf).softmax(-1)
        return apply_map(weights, mixer.heads(x)).transpose(1, 2).flatten(2)

    forms = {"blocks": blocks, "softmax a row": each_row, "one softmax": shared}
    equal = ["softmax a row", "one softmax"]
    return Case("random", f"B=4 H=8 T={length} d=64", forms, (torch.randn(4, length, 512),), equal)


def training() -> Case:
    """A step of a six-layer encoder-decoder of width 256 on 32 pairs of 32 tokens; nothing here is equal."""
    torch.manual_seed(0)
    models = {}
    for name in ("random", "dot_product"):
        sizes = dict(vocab_size=8000, hidden_size=256, num_hidden_layers=6, num_attention_heads=4)
        mixers = dict(mixer=name, cross_mixer="dot_product", max_position_embeddings=128)
        models[name] = BareForSeq2SeqLM(BareConfig(**sizes, **mixers, is_encoder_decoder=True)).train()
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-6) for name, model in models.items()}

    def step(name: str, ids: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = models[name](input_ids=ids, labels=ids, loss_only=True).loss
            loss.backward()
        optimizers[name].step()
        optimizers[name].zero_grad()
        return loss.detach()

    ids = torch.randint(3, 8000, (32, 32))
    return Case("training", "6+6 layers, D=256, B=32 T=32", {name: partial(step, name) for name in models}, (ids,))


def figures(case: Case, rounds: int) -> dict[str, Any]:
    """A row of the JSON file."""
    calls = {name: partial(case.results, form) for name, form in case.forms.items()}
    taken = interleaved(calls, rounds)
    ours, *others = taken
    return {
        "case": case.name,
        "shape": case.shape,
        "pass": "step" if case.name == "training" else case.passes,
        "seconds": {
            name: {"median": timing.seconds, "interquartile_range": timing.spread, "unit": "s"}
            for name, timing in taken.items()
        },
        "ratios": {name: round(taken[name].seconds / taken[ours].seconds, 2) for name in others},
        "largest_difference": case.difference() if case.equal else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of each form")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/fast_forms.json"))
    options = parser.parse_args()

    keep_freed_memory()
    cases = [
        *(partial(linear, length, backward) for length in (1024, 4096) for backward in (False, True)),
        *(partial(delta, length, backward) for length in (1024, 4096) for backward in (False, True)),
        partial(random, 512),
        training,
    ]
    rows = [figures(build(), options.rounds) for build in cases]
    table = Table("case", "shape", "pass", "ours ms", "against", "ms", "ratio", box=None)
    for row in rows:
        (_, ours), *others = row["seconds"].items()
        for name, timing in others:
            milliseconds = (f"{1e3 * each['median']:,.2f}" for each in (ours, timing))
            first, second = milliseconds
            table.add_row(row["case"], row["shape"], row["pass"], first, name, second, f"{row['ratios'][name]:,.2f}x")
    Console().print(table)
    save(options.out, "fast_forms", {"rounds": options.rounds, "dtype": "float32"}, {"timings": rows})
    print(f"Written to {options.out}")
    wrong = [row for row in rows if not (row["largest_difference"] or 0) <= TOLERANCE]
    for row in wrong:
        print(f"Too far apart: {row['case']} ({row['shape']}, {row['pass']}), {row['largest_difference']:.1e}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
