"""The signal of a run while it trains, measured on one batch that stays the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bareformers.data.examples import Examples
from bareformers.measure.signal import signal
from bareformers.training.ledger import replace
from bareformers.training.trainer import BareTrainer

NUM_TOKENS, ROW_TOKENS = 512, 128  # of the batch, and the most of one row: all maps of it are made


def fixed_batch(
    examples: Examples, collate: Callable[[Sequence[Any]], dict[str, Tensor]], num_tokens: int = NUM_TOKENS
) -> dict[str, Tensor]:
    """The first examples, cut to `ROW_TOKENS`, as many as make `num_tokens` with their padding; at least one."""
    lengths = np.minimum(examples.lengths, ROW_TOKENS)
    sizes = np.maximum.accumulate(lengths) * np.arange(1, len(examples) + 1)
    batch = collate([examples[index] for index in range(max(1, int((sizes <= num_tokens).sum())))])
    most = min(num_tokens, ROW_TOKENS)
    return {name: tensor[:, :most] if tensor.dim() > 1 else tensor for name, tensor in batch.items()}


class SignalRecorder(TrainerCallback):
    """Appends a row to `signal.jsonl` at the start of training and at every evaluation.

    A row has the step, the tokens, and under `layers` what `LayerSignal.row` gives. A resumed run goes on behind the
    rows that its checkpoint knows. Measuring is no training time, and changes nothing of what is trained.

    Args:
        trainer: to which this is added, after its own callbacks, with `add_callback`.
        batch: what is measured, on the model as it then is.
        folder: of the run.
    """

    FILE = "signal.jsonl"

    def __init__(self, trainer: BareTrainer, batch: dict[str, Tensor], folder: Path) -> None:
        self.trainer, self.batch, self.file = trainer, batch, folder / self.FILE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        steps = self.trainer.ledger.spent.steps
        kept: Iterable[str] = rows_until(self.file, steps) if steps else ()
        replace(self.file, "".join(row + "\n" for row in kept))
        if not steps:
            self._record()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._record()

    def _record(self) -> None:
        model: Any = self.trainer.model
        ledger = self.trainer.ledger
        with unwrapped(model):
            layers = [layer.row() for layer in signal(model, self.batch)]
        row = {"step": ledger.spent.steps, "tokens": ledger.spent.tokens, "layers": layers}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        ledger.start_clock()


def rows_until(file: Path, step: int) -> Iterator[str]:
    """The lines of a file of JSON rows up to `step`; what a kill cut is left out."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except (json.JSONDecodeError, TypeError, KeyError):
            continue


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[None]:
    """The model with the `forward` of its class.

    In mixed precision `accelerate` puts another in its place, whose outputs are copies that no gradient reaches.
    """
    forward = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if forward is not None:
            model.__dict__["forward"] = forward
