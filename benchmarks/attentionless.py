"""What the forms of attentionless mixers gain over the calls that they stand for: ratios within one run.

    python benchmarks/attentionless.py

  decoder   a causal network that sums the positions once, against one call of the network for each prefix, as the
            authors' code makes them
  encoder   sentences of 20 tokens, and of 50, the longest: against the plain network, which pads them to 50, and those
            of 20 against those of 50

Both are ALR with D = 128 and the widths of the sizes S and M, without the output projection. Forms take turns; figures
are medians of a forward and a backward pass, and for the encoder of a forward pass too. Outputs and gradients of ours
are compared with those of the calls; if one differs by more than 1e-4 of the largest entry, the exit code is 1.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from fast_forms import Case, Form, figures
from record import save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bareformers import registry
from bareformers.mixers.base import Slot, TokenMixer
from bareformers.mixers.masks import Mask
from bareformers.training.allocator import keep_freed_memory

TOLERANCE = 1e-4  # of the largest entry
BATCH, LENGTH, CHANNELS = 64, 50, 128
WIDTHS = (50, 800)


def alr(role: str, width: int) -> TokenMixer:
    """A network as a model would start it, with an output projection that does nothing."""
    torch.manual_seed(0)
    cls = registry.mixers.get("alr")
    slot = Slot(role, 0, hidden_size=CHANNELS, num_heads=8, max_length=LENGTH, max_context_length=LENGTH)
    mixer = cls(slot, cls.Options(width=width))
    for part in (mixer.input_norm, mixer.hidden_norm, mixer.first, mixer.second, mixer):
        part.init_weights(CHANNELS**-0.5)
    mixer.output = nn.Identity()
    return mixer


def call(mixer: TokenMixer, sentences: Tensor) -> Tensor:
    """The network as the paper draws it: [B, L, D] with zeros behind the tokens -> [B, positions, D]."""
    norm, hidden_norm, first, second = mixer.input_norm, mixer.hidden_norm, mixer.first.weight, mixer.second.weight
    x = F.layer_norm(sentences, sentences.shape[1:], norm.weight.squeeze(0), norm.bias.squeeze(0)).flatten(1)
    hidden = F.leaky_relu(x @ first.flatten(0, 2) + mixer.first_bias.flatten())
    hidden = F.layer_norm(hidden, hidden.shape[1:], hidden_norm.weight.flatten(), hidden_norm.bias.flatten())
    return (hidden @ second.flatten(0, 2).T).unflatten(1, second.shape[1:3]) + mixer.second_bias.squeeze(0)


def decoder(width: int) -> Case:
    """All positions of full sentences."""
    mixer = alr("decoder", width)
    mask = Mask(LENGTH, LENGTH, causal=True, device=torch.device("cpu"))
    prefixes = torch.ones(LENGTH, LENGTH).tril()[..., None]

    def sums(x: Tensor) -> Tensor:
        return mixer(x, mask)[0]

    def calls(x: Tensor) -> Tensor:
        return torch.cat([call(mixer, x * prefix) for prefix in prefixes], 1)

    x = torch.randn(BATCH, LENGTH, CHANNELS)
    shape = f"B={BATCH} T={LENGTH} D={CHANNELS} width={width}"
    return Case("decoder", shape, {"sums": sums, "call a position": calls}, (x,), ["call a position"], True)


def encoder(length: int, width: int, backward: bool) -> Case:
    """Sentences of one length, each call with gradients of its own, as in training."""
    mixer = alr("encoder", width)

    def unpadded(x: Tensor) -> Tensor:
        mixer.zero_grad()
        return mixer(x, Mask(x.shape[1], x.shape[1], causal=False, device=x.device))[0]

    def padded(x: Tensor) -> Tensor:
        mixer.zero_grad()
        return call(mixer, F.pad(x, (0, 0, 0, LENGTH - length)))[:, :length]

    x, longest = (torch.randn(BATCH, size, CHANNELS) for size in (length, LENGTH))
    forms: dict[str, Form] = {"unpadded": lambda x, _: unpadded(x), "padded": lambda x, _: padded(x)}
    if length < LENGTH:
        forms[f"S={LENGTH}"] = lambda _, longest: unpadded(longest)
    shape = f"B={BATCH} S={length} D={CHANNELS} width={width}"
    return Case("encoder", shape, forms, (x, longest), ["padded"], backward)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of each form")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/attentionless.json"))
    options = parser.parse_args()

    keep_freed_memory()
    cases = [
        *(partial(decoder, width) for width in WIDTHS),
        *(
            partial(encoder, length, width, backward)
            for width in WIDTHS
            for length in (20, LENGTH)
            for backward in (False, True)
        ),
    ]
    rows = [figures(build(), options.rounds) for build in cases]
    table = Table("case", "shape", "pass", "ours ms", "against", "ms", "ratio", box=None)
    for row in rows:
        ours, *_ = row["seconds"].values()
        for name, ratio in row["ratios"].items():
            first, second = (f"{1e3 * each['median']:,.2f}" for each in (ours, row["seconds"][name]))
            table.add_row(row["case"], row["shape"], row["pass"], first, name, second, f"{ratio:,.2f}x")
    Console(width=120).print(table)
    save(options.out, "attentionless", {"rounds": options.rounds, "dtype": "float32"}, {"timings": rows})
    print(f"Written to {options.out}")
    wrong = [row for row in rows if not row["largest_difference"] <= TOLERANCE]
    for row in wrong:
        print(f"Too far apart: {row['case']} ({row['shape']}, {row['pass']}), {row['largest_difference']:.1e}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
