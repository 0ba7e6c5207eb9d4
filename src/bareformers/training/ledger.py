"""What a run has spent so far, and the rows of `metrics.jsonl`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bareformers.errors import InputError


@dataclass
class Spent:
    """Steps, predicted tokens and seconds of training (evaluation and saving left out) so far."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    evaluations_since_best: int = 0
    is_scheduled: bool = True
    """Whether the checkpoint that this is saved with stands at one of the recipe's marks, not at an interruption."""


class Ledger:
    """Counts what is spent. It travels with the checkpoints, so that a resumed run goes on counting where it stood."""

    FILE = "ledger.json"

    def __init__(self, metrics: Path) -> None:
        self.spent = Spent()
        self._metrics = metrics
        self._since = time.perf_counter()

    def start_clock(self) -> None:
        """What follows is training again."""
        self._since = time.perf_counter()

    def count(self, tokens: int) -> None:
        """One more step, with so many predicted tokens."""
        now = time.perf_counter()
        self.spent.steps += 1
        self.spent.tokens += tokens
        self.spent.seconds += now - self._since
        self._since = now

    def record(self, **values: Any) -> None:
        """Append a row to `metrics.jsonl`."""
        row = {
            "step": self.spent.steps,
            "tokens": self.spent.tokens,
            "seconds": round(self.spent.seconds, 3),
            **values,
        }
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self, checkpoint: Path) -> None:
        """Into the folder of a checkpoint."""
        save(self.spent, checkpoint)

    def load(self, checkpoint: Path) -> None:
        """Go back to a checkpoint; rows of `metrics.jsonl` from after it are forgotten."""
        self.spent = saved(checkpoint)
        rows = self._metrics.read_text(encoding="utf-8").splitlines() if self._metrics.exists() else []
        kept = [row for row in rows if _whole(row) and json.loads(row)["step"] <= self.spent.steps]
        replace(self._metrics, "".join(row + "\n" for row in kept))

    def restart(self) -> None:
        """Forget everything."""
        self.spent = Spent()
        self._metrics.write_text("", encoding="utf-8")


def save(spent: Spent, folder: Path) -> None:
    """Into the folder of a checkpoint or of a finished model, of which this is the last file to be written."""
    replace(folder / Ledger.FILE, json.dumps(asdict(spent)))


def saved(folder: Path) -> Spent:
    """What `save` wrote into the folder of a checkpoint or of a finished model; a damaged file is an `InputError`."""
    path = folder / Ledger.FILE
    try:
        return Spent(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _whole(row: str) -> bool:
    """Whether a killed run wrote this row to its end."""
    try:
        return isinstance(json.loads(row), dict)
    except json.JSONDecodeError:
        return False
