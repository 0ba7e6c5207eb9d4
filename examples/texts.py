"""What the examples of text models share: arguments, batches of a user's text or of made-up tokens, comparisons."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

ROWS, LENGTH = 16, 128  # of a batch of the user's text, at most


def arguments(said: str) -> argparse.ArgumentParser:
    """The arguments that every example of a text model has; `said` is its docstring."""
    parser = argparse.ArgumentParser(description=said, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub name; by default a tiny random model")
    parser.add_argument("--text", help="a file with a text in each line, for --model")
    parser.add_argument("--steps", type=int, default=100, help="of distillation, a batch each")
    parser.add_argument("--output", help="folder for the distilled model; by default it is thrown away")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments as given; a model goes with text, for made-up tokens would teach nothing about it."""
    asked = parser.parse_args()
    if (asked.model is None) != (asked.text is None):
        parser.error("--model reads the text of --text: give both, or none for a tiny model and made-up tokens")
    return asked


def mixer(said: str) -> Any:
    """A mixer as the command line has it: `gaussian`, or `{name: alr, width: 32}`."""
    return yaml.safe_load(said)


def batches(asked: argparse.Namespace, model: Any) -> tuple[list[dict[str, Tensor]], Any]:
    """What the model is called with, and its tokenizer, if it has one; two batches at least."""
    if asked.model is None:
        return made_up(model.config.vocab_size), None
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    lines = [line for line in Path(asked.text).read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) < 2:
        raise SystemExit(f"{asked.text} has {len(lines)} lines with text; give one to learn from and one to compare")
    rows = max(1, min(ROWS, len(lines) // 2))
    length = min(LENGTH, tokenizer.model_max_length, model.config.max_position_embeddings)
    found = [
        tokenizer(lines[start : start + rows], padding=True, truncation=True, max_length=length, return_tensors="pt")
        for start in range(0, len(lines), rows)
    ]
    return [dict(batch) for batch in found], tokenizer


def made_up(vocab_size: int, count: int = 9, rows: int = 8, length: int = 24) -> list[dict[str, Tensor]]:
    """Tokens that mean nothing, and rows of several lengths."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocab_size, (count, rows, length), generator=random)
    ends = torch.randint(length // 2, length + 1, (count, rows, 1), generator=random)
    keep = (torch.arange(length) < ends).long()
    return [{"input_ids": each * real, "attention_mask": real} for each, real in zip(ids, keep, strict=True)]


@torch.no_grad()
def answers(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """[N, ..]: what the model says of each text, or else of each real position."""
    found = model(**batch)
    said: Tensor = found.logits if "logits" in found else found.last_hidden_state
    return said if said.dim() == 2 else said[batch["attention_mask"].bool()]


@torch.no_grad()
def perplexity(model: Any, batch: dict[str, Tensor]) -> float:
    """Of a language model, on real positions."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return float(cross_entropy(model(**batch).logits[:, :-1].mT, labels[:, 1:]).exp())


def off(said: Tensor, expected: Tensor) -> float:
    """How far off something is, as a share of the size of what is expected."""
    return float((said - expected).norm() / expected.norm())
