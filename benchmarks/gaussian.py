"""The fast form of the Gaussian mixer against the paper's full matrix: the same numbers, at what cost?

    python benchmarks/gaussian.py

Three forms of one module, which share its two projections (unless `--no-projections`):

  fast   what the models run: a short convolution, and up to 64 positions a product with one small matrix
  full   You, Sun & Iyyer's equation: a [T, T] matrix for each head, made anew in each call, times the values
  kept   the same product with a matrix made beforehand: what is left for somebody who remembers it between calls

The matrix is the same for all sentences, and `full` and `kept` make use of that (one product for the whole batch, no
copy of the matrix for each sentence), which the paper's code does not. All three get memory from the same allocator
settings that training uses. Outputs and gradients of `fast` are compared with those of `full` at every length; if one
differs by more than 1e-5 of the largest entry, the exit code is 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bareformers import registry
from bareformers.measure.environment import default_device
from bareformers.measure.speed import Timing, interleaved
from bareformers.mixers.base import Slot, TokenMixer, merge_heads
from bareformers.mixers.masks import Mask
from bareformers.training.allocator import keep_freed_memory

TOLERANCE = 1e-5  # of the largest entry
ROLES = ("encoder", "decoder")
SHORT = {"forward": "fwd", "forward and backward": "fwd+bwd"}


@dataclass(frozen=True)
class Case:
    """The mixer in a role, and what it reads: x [B, T, D] with the gradient [B, T, D] that comes back to its output."""

    mixer: Any
    x: Tensor
    gradient: Tensor

    @classmethod
    def build(cls, role: str, length: int, options: argparse.Namespace) -> Case:
        torch.manual_seed(0)
        mixer = gaussian(role, length, options.hidden_size, options.heads)
        if not options.projections:
            mixer.value, mixer.output = nn.Identity(), nn.Identity()
        device = default_device()
        x = torch.randn(max(1, options.tokens // length), length, options.hidden_size, device=device)
        return cls(mixer.to(device), x.requires_grad_(), torch.randn_like(x))

    @property
    def length(self) -> int:
        return self.x.shape[1]

    @property
    def is_causal(self) -> bool:
        return self.mixer.slot.role == "decoder"

    def matrix(self) -> Tensor:
        """[H, T, T]: w_ij = N(j; i + offset of the head, std^2), and 0 where the decoder may not look."""
        std = self.mixer.options.std
        positions = torch.arange(self.length, dtype=torch.float32, device=self.x.device)
        offsets = torch.tensor(self.mixer.offsets, dtype=torch.float32, device=self.x.device)
        distance = positions - (positions[:, None] + offsets[:, None, None])
        weights = torch.exp(-(distance**2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
        return weights.tril() if self.is_causal else weights

    def fast(self) -> Tensor:
        mask = Mask(self.length, self.length, causal=self.is_causal, device=self.x.device)
        return self.mixer(self.x, mask)[0]

    def full(self, weights: Tensor | None = None) -> Tensor:
        weights = self.matrix() if weights is None else weights
        values = self.mixer.heads(self.mixer.value(self.x))
        return self.mixer.output(merge_heads(torch.einsum("hts,bhsd->bhtd", weights, values)))

    def kept(self) -> Callable[[], Tensor]:
        """`full` with a matrix made now."""
        weights = self.matrix()
        return lambda: self.full(weights)

    def forward(self, form: Callable[[], Tensor]) -> Callable[[], None]:
        @torch.no_grad()
        def call() -> None:
            form()

        return call

    def forward_backward(self, form: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            self.forget()
            form().backward(self.gradient)

        return call

    def forget(self) -> None:
        """Drop all gradients."""
        self.x.grad = None
        self.mixer.zero_grad()

    def results(self, form: Callable[[], Tensor]) -> dict[str, Tensor]:
        """The output of `form`, and the gradients of x and of each parameter."""
        self.forget()
        y = form()
        y.backward(self.gradient)
        gradients = {f"gradient of {name}": parameter.grad for name, parameter in self.mixer.named_parameters()}
        return {"output": y.detach(), "gradient of x": self.x.grad, **gradients}


def gaussian(role: str, length: int, hidden_size: int, heads: int) -> TokenMixer:
    """The registered mixer with its default offsets."""
    cls = registry.mixers.get("gaussian")
    slot = Slot(
        role=role, layer=0, hidden_size=hidden_size, num_heads=heads, max_length=length, max_context_length=length
    )
    return cls(slot, cls.Options())


def differences(case: Case) -> dict[str, dict[str, float]]:
    """How far `fast` is from `full`: the largest absolute difference, and that as a share of the largest entry."""
    found, expected = case.results(case.fast), case.results(case.full)
    case.forget()
    rows = {}
    for name, tensor in expected.items():
        absolute = (found[name] - tensor).abs().max().item()
        rows[name] = {"absolute": absolute, "relative": absolute / max(tensor.abs().max().item(), 1e-30)}
    return rows


def timings(case: Case, rounds: int) -> dict[str, dict[str, Timing]]:
    """Of each pass, of each form; the forms take turns."""
    forms = {"fast": case.fast, "full": case.full, "kept": case.kept()}
    passes = {"forward": case.forward, "forward and backward": case.forward_backward}
    return {
        name: interleaved({form: wrap(call) for form, call in forms.items()}, rounds) for name, wrap in passes.items()
    }


def figures(case: Case, role: str, pass_name: str, taken: dict[str, Timing]) -> dict[str, Any]:
    """A row of the JSON file."""
    batch, length, _ = case.x.shape
    return {
        "role": role,
        "length": length,
        "batch": batch,
        "pass": pass_name,
        "seconds": {
            form: {"median": timing.seconds, "interquartile_range": timing.spread, "unit": "s"}
            for form, timing in taken.items()
        },
        "full_over_fast": round(taken["full"].seconds / taken["fast"].seconds, 2),
        "kept_over_fast": round(taken["kept"].seconds / taken["fast"].seconds, 2),
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("role", "T", "batch", "pass", "fast ms", "full ms", "kept ms", "full/fast", "kept/fast", box=None)
    for column in table.columns[1:3] + table.columns[4:]:
        column.justify = "right"
    for row in rows:
        milliseconds = [f"{1e3 * row['seconds'][form]['median']:,.1f}" for form in ("fast", "full", "kept")]
        ratios = [f"{row[name]:,.1f}x" for name in ("full_over_fast", "kept_over_fast")]
        table.add_row(row["role"], str(row["length"]), str(row["batch"]), SHORT[row["pass"]], *milliseconds, *ratios)
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=list(ROLES))
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each form")
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch: rows times length")
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument(
        "--no-projections", dest="projections", action="store_false", help="time the mixing without the two projections"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/gaussian.json"))
    options = parser.parse_args()

    keep_freed_memory()
    rows, agreement = [], []
    for role in options.roles:
        for length in options.lengths:
            case = Case.build(role, length, options)
            for name, difference in differences(case).items():
                agreement.append({"role": role, "length": length, "of": name, **difference})
            for pass_name, taken in timings(case, options.rounds).items():
                rows.append(figures(case, role, pass_name, taken))
    show(rows)
    for kind in ("output", "gradient"):
        entries = [entry for entry in agreement if entry["of"].startswith(kind)]
        absolute, relative = (max(entry[measure] for entry in entries) for measure in ("absolute", "relative"))
        print(f"Largest difference of fast from full, {kind}s: {absolute:.1e}, or {relative:.1e} of the largest entry")
    settings = {
        "rounds": options.rounds,
        "tokens_per_batch": options.tokens,
        "hidden_size": options.hidden_size,
        "heads": options.heads,
        "projections": options.projections,
        "dtype": "float32",
    }
    save(options.out, "gaussian", settings, {"timings": rows, "differences_of_fast_from_full": agreement})
    print(f"Written to {options.out}")
    worst = max(agreement, key=lambda entry: entry["relative"])
    if worst["relative"] > TOLERANCE:
        print(f"Too far apart: {worst['of']} ({worst['role']}, T={worst['length']}), {worst['relative']:.1e}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
