"""How alike positions become with depth before any training, block by block: the mean cosine between two positions.

    python benchmarks/mean_cosine.py

Decoder stacks with the dot product, all weights of variance 1 / D, inputs from a normal distribution, one sequence a
seed. Figures are means over the seeds, with their standard deviation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from record import save
from rich.console import Console
from rich.table import Table

from bareformers.measure.signal import mean_cosine
from bareformers.models import BareConfig, BareForCausalLM

LAYOUTS: dict[str, dict[str, Any]] = {
    "pre_ln": {"block": "pre_ln"},
    "post_ln": {"block": "post_ln"},
    "resi_dual": {"block": "resi_dual"},
    "parallel": {"block": "parallel"},
    "v_skipinit": {"block": "v_skipinit"},
    "sas": {"block": "sas"},
    "sas_p": {"block": "sas_p"},
    "sas_p, ffn_gain: 1": {"block": {"name": "sas_p", "ffn_gain": 1.0}},
    "sas_p, norm: none": {"block": "sas_p", "norm": "none"},
}


@torch.no_grad()
def cosines(layout: dict[str, Any], seed: int, options: argparse.Namespace) -> list[float]:
    """After each of the depths that were asked for."""
    torch.manual_seed(seed)
    config = BareConfig(
        vocab_size=16,
        hidden_size=options.hidden_size,
        num_hidden_layers=max(options.depths),
        num_attention_heads=options.heads,
        intermediate_size=4 * options.hidden_size,
        max_position_embeddings=options.length,
        position_embedding="none",
        scale_embedding=False,
        use_bias=False,
        initializer_range=options.hidden_size**-0.5,
        is_encoder_decoder=False,
        **{"norm": "rms", **layout},
    )
    x = torch.randn(1, options.length, options.hidden_size)
    states = BareForCausalLM(config).eval()(inputs_embeds=x, output_hidden_states=True).hidden_states
    found = [mean_cosine(states[depth][0].double()) for depth in options.depths]
    return [cosine for cosine in found if cosine is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 8, 18])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/mean_cosine.json"))
    options = parser.parse_args()

    table, rows = Table("block", *(f"after layer {depth}" for depth in options.depths), box=None), []
    for name, layout in LAYOUTS.items():
        by_depth = list(zip(*(cosines(layout, seed, options) for seed in range(options.seeds)), strict=True))
        cells = []
        for depth, found in zip(options.depths, by_depth, strict=True):
            average, spread = mean(found), stdev(found) if len(found) > 1 else None
            rows.append({"block": name, "depth": depth, "mean_cosine": average, "standard_deviation": spread})
            cells.append(f"{average:.3f}")
        table.add_row(name, *cells)
    Console().print(table)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    save(options.out, "mean_cosine", settings, {"rows": rows})


if __name__ == "__main__":
    main()
