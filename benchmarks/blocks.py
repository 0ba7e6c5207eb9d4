"""What simplified blocks gain in training: throughput and memory beside Pre-LN, and the fast form beside the matrices.

    python benchmarks/blocks.py

  layers    a stack of decoder layers, forward, backward and a step of AdamW, without vocabulary; every block has the
            dot product in the same fast form
  shaped    (alpha I + beta A - gamma C) X without the projections around it: ours, which makes none of these matrices
            but A, and that only where it is faster; against all of them [B, H, T, T], as the authors compute it
  memory    what a training step of the stack allocates at most, weights and their gradients left out

Blocks and forms take turns; figures are medians. Outputs and gradients of the two forms of `shaped` are compared at the
same shapes; if one differs by more than 2e-5 of the largest entry, the exit code is 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bareformers.measure import cost
from bareformers.measure.speed import interleaved
from bareformers.mixers.base import Slot, build, merge_heads
from bareformers.mixers.dot_product import DotProduct
from bareformers.mixers.masks import Mask
from bareformers.models import BareConfig, BareForCausalLM
from bareformers.training.allocator import keep_freed_memory

TOLERANCE = 2e-5  # of the largest entry
LAYOUTS: dict[str, dict[str, Any]] = {
    "pre_ln": {"block": "pre_ln"},
    "parallel": {"block": "parallel"},
    "v_skipinit": {"block": "v_skipinit"},
    "sas": {"block": "sas"},
    "sas_p": {"block": "sas_p"},
    "sas_p norm: none": {"block": "sas_p", "norm": "none"},
}


class Layers:
    """A stack of one block and what a step of its training needs."""

    def __init__(self, layout: dict[str, Any], x: Tensor, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        config = BareConfig(
            vocab_size=16,
            hidden_size=options.hidden_size,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=4 * options.hidden_size,
            max_position_embeddings=x.shape[1],
            position_embedding="none",
            use_bias=False,
            dropout=0.0,
            is_encoder_decoder=False,
            **{"norm": "rms", **layout},
        )
        self.stack = BareForCausalLM(config).decoder.train()
        self.x, self.gradient = x, torch.randn_like(x)
        self.stack.embeddings.tokens.requires_grad_(False)
        self.optimizer = torch.optim.AdamW((p for p in self.stack.parameters() if p.requires_grad), 1e-5, fused=True)

    def backward(self) -> None:
        """Forward and backward; gradients stay."""
        self.stack(inputs_embeds=self.x).last_hidden_state.backward(self.gradient)

    def step(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def passes(self) -> None:
        self.backward()
        self.optimizer.zero_grad()

    def peak_bytes(self) -> int:
        self.passes()
        peak = cost.peak_bytes(self.backward, self.x.device)
        self.optimizer.zero_grad()
        return peak


def shaped_mixer(length: int, options: argparse.Namespace) -> DotProduct:
    """Dot product as in a layer of sas, with gains and maps as if it had learned."""
    slot = Slot("decoder", 1, options.hidden_size, options.heads, length, length, use_bias=False)
    mixer = build("dot_product", slot)
    assert isinstance(mixer, DotProduct)
    mixer.shape(identity=True)
    mixer.query = mixer.key = nn.Identity()  # the map alone, without what is the same in both forms
    assert mixer.shaping is not None
    torch.manual_seed(0)
    with torch.no_grad():
        mixer.shaping.gains.normal_(1.0, 0.1)
        mixer.shaping.gain.fill_(1.0)
    return mixer


def matrices(mixer: DotProduct, x: Tensor) -> Tensor:
    """Equation 5 as it is written: every matrix is made, for every head and row of the batch."""
    length = x.shape[1]
    assert mixer.shaping is not None
    alpha, beta, gamma = (mixer.shaping.gain * mixer.shaping.gains).unbind()
    queries, keys, values = mixer.heads(mixer.query(x)), mixer.heads(mixer.key(x)), mixer.heads(x)
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(mixer.slot.head_size)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    attention = scores.masked_fill(future, torch.finfo(scores.dtype).min).softmax(-1)
    uniform = torch.ones(length, length).tril()
    uniform = uniform / uniform.sum(-1, keepdim=True)
    return merge_heads((alpha * torch.eye(length) + beta * attention - gamma * uniform) @ values)


def fast(mixer: DotProduct, x: Tensor) -> Tensor:
    return mixer(x, Mask(x.shape[1], x.shape[1], causal=True, device=x.device))[0]


def gradients(form: Callable[[DotProduct, Tensor], Tensor], mixer: DotProduct, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of x and of each parameter."""
    mixer.zero_grad()
    leaf = x.detach().requires_grad_()
    y = form(mixer, leaf)
    y.backward(torch.ones_like(y) + torch.arange(y.shape[1])[:, None] / y.shape[1])
    assert leaf.grad is not None
    return [y.detach(), leaf.grad, *(parameter.grad for parameter in mixer.parameters() if parameter.grad is not None)]


def difference(mixer: DotProduct, x: Tensor) -> float:
    """The largest difference between the forms, as a share of the largest entry."""
    pairs = zip(gradients(fast, mixer, x), gradients(matrices, mixer, x), strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


@torch.no_grad()
def forward(form: Callable[[DotProduct, Tensor], Tensor], mixer: DotProduct, x: Tensor) -> None:
    form(mixer, x)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["8x128", "2x512"], help="batch x length, of the layers")
    parser.add_argument("--shaped", nargs="+", default=["32x128", "8x512", "4x1024"], help="the same, of one map")
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of each")
    parser.add_argument(
        "--default-allocator",
        action="store_true",
        help="give freed memory back, as PyTorch by itself does",
    )
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/blocks.json"))
    options = parser.parse_args()

    if not options.default_allocator:
        keep_freed_memory()
    torch.manual_seed(0)
    console, rows, shaped, worst = Console(), [], [], 0.0
    table = Table("block", "B x T", "parameters", "fwd+bwd ms", "step ms", "x pre_ln", "peak MB", "x pre_ln", box=None)
    for shape in options.shapes:
        batch, length = map(int, shape.split("x"))
        x = torch.randn(batch, length, options.hidden_size)
        layers = {name: Layers(layout, x, options) for name, layout in LAYOUTS.items()}
        peaks = {name: each.peak_bytes() for name, each in layers.items()}
        passes = interleaved({name: each.passes for name, each in layers.items()}, options.rounds)
        steps = interleaved({name: each.step for name, each in layers.items()}, options.rounds)
        for name, each in layers.items():
            row = {
                "block": name,
                "batch": batch,
                "length": length,
                "parameters": sum(p.numel() for p in each.stack.blocks.parameters()),
                "forward_backward_ms": round(1e3 * passes[name].seconds, 2),
                "forward_backward_over_pre_ln": round(passes["pre_ln"].seconds / passes[name].seconds, 3),
                "step_ms": round(1e3 * steps[name].seconds, 2),
                "step_ms_interquartile_range": round(1e3 * steps[name].spread, 2),
                "step_over_pre_ln": round(steps["pre_ln"].seconds / steps[name].seconds, 3),
                "peak_activation_bytes": peaks[name],
                "peak_over_pre_ln": round(peaks[name] / peaks["pre_ln"], 3),
            }
            rows.append(row)
            table.add_row(
                name,
                shape,
                f"{row['parameters'] / 1e6:.1f} M",
                f"{row['forward_backward_ms']:,.0f}",
                f"{row['step_ms']:,.0f}",
                f"{row['step_over_pre_ln']:.2f}",
                f"{peaks[name] / 1e6:,.0f}",
                f"{row['peak_over_pre_ln']:.2f}",
            )
        del layers
    if rows:
        console.print(table)
    table = Table("shaped map", "pass", "matrices ms", "ours ms", "ratio", box=None)
    for shape in options.shaped:
        batch, length = map(int, shape.split("x"))
        x, mixer = torch.randn(batch, length, options.hidden_size), shaped_mixer(length, options)
        worst = max(worst, difference(mixer, x))
        for name, call in (("forward", forward), ("forward and backward", gradients)):
            forms = {"ours": partial(call, fast, mixer, x), "matrices": partial(call, matrices, mixer, x)}
            taken = interleaved(forms, options.rounds)
            ratio = round(taken["matrices"].seconds / taken["ours"].seconds, 2)
            milliseconds = {form: round(1e3 * timing.seconds, 2) for form, timing in taken.items()}
            shaped.append({"batch": batch, "length": length, "pass": name, "ms": milliseconds, "ratio": ratio})
            table.add_row(shape, name, f"{milliseconds['matrices']:,.0f}", f"{milliseconds['ours']:,.0f}", f"{ratio}")
    console.print(table)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    save(options.out, "blocks", settings, {"layers": rows, "shaped": shaped, "largest_relative_difference": worst})
    print(f"\nlargest difference between the forms {worst:.1e} of the largest entry; figures in {options.out}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
