"""Training with a budget: a thin subclass of `transformers.Trainer`.

`Trainer` brings the loop, mixed precision, accumulation, clipping, checkpoints and trackers. Ours adds what a fair
comparison needs: one plan of batches for all variants, schedules that end with the budget, a clock that leaves
evaluation out, and checkpoints from which a killed run reaches the same numbers.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from bareformers.data.batching import BatchPlan
from bareformers.data.examples import Examples
from bareformers.errors import Diverged, InputError, Interrupted
from bareformers.measure.environment import default_device, uses_bf16
from bareformers.measure.quality import num_predicted
from bareformers.recipe import Training
from bareformers.training import divergence, schedules
from bareformers.training.depth import depths
from bareformers.training.ledger import Ledger, saved
from bareformers.training.objectives import CrossEntropy, Objective

ENDLESS = 10**9  # steps of a budget in minutes, which the clock ends


class BareTrainer(Trainer):
    """Trains one model on one plan of batches.

    Args:
        model: what `objective` is of; a plain module is saved as its tensors.
        settings: the training section of a recipe.
        examples: the training side.
        collate: makes a list of examples a batch.
        is_causal: whether the model shifts its labels, so that the first of each row is not predicted.
        validate: the validation loss of the model, in nats per token where `objective` is of labels.
        folder: of the run; holds `metrics.jsonl`, and `checkpoints/` while training lasts.
        seed: of the order of the batches and of dropout.
        label: what the progress line calls this run.
        callbacks: more of `transformers`' callbacks.
        objective: what is minimised; the cross-entropy of the labels by default.
    """

    def __init__(
        self,
        model: Any,
        settings: Training,
        examples: Examples,
        collate: Callable[[Sequence[Any]], dict[str, Tensor]],
        is_causal: bool,
        validate: Callable[[nn.Module], float],
        folder: Path,
        seed: int,
        label: str = "",
        callbacks: Iterable[TrainerCallback] = (),
        objective: Objective | None = None,
    ) -> None:
        self.settings, self.validate = settings, validate
        self.objective: Objective = objective or CrossEntropy(settings.label_smoothing)
        self.is_causal = is_causal
        self.checkpoints = folder / "checkpoints"
        self.ledger = Ledger(folder / "metrics.jsonl")
        self.plan = plan_of(settings, examples, seed)
        self.is_timed = settings.budget.minutes is not None
        num_steps = ENDLESS if self.is_timed else math.ceil(len(self.plan) / settings.accumulate)
        device = default_device()
        arguments = TrainingArguments(
            output_dir=str(self.checkpoints),
            max_steps=num_steps,
            gradient_accumulation_steps=settings.accumulate,
            learning_rate=settings.learning_rate,
            adam_beta1=settings.betas[0],
            adam_beta2=settings.betas[1],
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            bf16=uses_bf16(settings.precision, device),
            use_cpu=device.type == "cpu",
            # What `Trainer` writes into the config, so that the models made of it later would decode without a state.
            use_cache=getattr(getattr(model, "config", None), "use_cache", False),
            seed=seed,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            save_strategy="no",
            eval_strategy="no",
            report_to=settings.report_to or "none",
            run_name=label or None,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable()
            if settings.unfreezing == "gradual":
                model.disable_input_require_grads()  # with which all that is frozen would have a graph
        self.watch = Watch(self, label)
        staged = [Unfreezing(self)] if settings.unfreezing == "gradual" else []
        try:
            super().__init__(
                model=model,
                args=arguments,
                train_dataset=examples,
                data_collator=collate,
                callbacks=[self.watch, *staged, *callbacks],
            )
        except (ValueError, RuntimeError) as error:
            if not settings.report_to:
                raise
            raise InputError(f"training.report_to: {' '.join(str(error).split())}") from error
        self.remove_callback(PrinterCallback)
        if self.args.world_size > 1 or self.args.n_gpu > 1:
            raise InputError("training runs on one device for now; write CUDA_VISIBLE_DEVICES=0 before the command")

    @property
    def progress(self) -> float:
        """The share of the budget that is spent, 0 to 1."""
        if self.is_timed:
            assert self.settings.budget.minutes is not None
            return min(1.0, self.ledger.spent.seconds / (60 * self.settings.budget.minutes))
        return self.ledger.spent.steps / self.args.max_steps

    def fit(self) -> None:
        """Train to the end of the budget, from the last whole checkpoint if there is one.

        Raises:
            Interrupted: a signal came; the checkpoint is written.
            Diverged: loss or gradient are no numbers any more; the last checkpoint stays.
        """
        resume = self._last_whole_checkpoint()
        if resume is None:
            self.ledger.restart()
        else:
            self.ledger.load(Path(resume))
        if resume is not None and (self.progress >= 1 or self.is_out_of_patience):
            self._load_from_checkpoint(resume)
        else:
            try:
                with self.watch.signals():
                    self.train(resume_from_checkpoint=resume)
            finally:
                self.watch.end_line()
        if self.watch.is_interrupted:
            raise Interrupted(f"stopped at {self.progress:.0%} of the budget of {self.watch.label}, with a checkpoint")
        self._final_weights()

    @property
    def num_frozen(self) -> int:
        """How many depths gradual unfreezing has not come to in what is spent."""
        if self.settings.unfreezing == "none":
            return 0
        depth = depths(name for name, p in self.model.named_parameters() if p.requires_grad)
        return num_frozen(self.plan, depth, self.ledger.spent.steps - 1, self.settings.accumulate)

    @property
    def is_out_of_patience(self) -> bool:
        """Whether early stopping has seen enough evaluations without a better loss."""
        patience = self.settings.early_stopping
        return patience is not None and self.ledger.spent.evaluations_since_best >= patience

    def _last_whole_checkpoint(self) -> str | None:
        while self.checkpoints.is_dir() and (last := get_last_checkpoint(str(self.checkpoints))):
            if is_whole(Path(last)):
                return last
            shutil.rmtree(last)  # the run was killed while it was writing
        return None

    def _final_weights(self) -> None:
        """The best weights under early stopping, the mean of the last checkpoints where the recipe wants it."""
        best = self.checkpoints / "best.safetensors"
        if self.settings.early_stopping and best.exists():
            self.model.load_state_dict(load_file(best), strict=False)
        elif self.settings.average_checkpoints > 1:
            last = self._scheduled_checkpoints()[-self.settings.average_checkpoints :]
            average_weights(self.model, [path / "model.safetensors" for path in last])

    def _scheduled_checkpoints(self) -> list[Path]:
        """Checkpoints at the recipe's marks, the oldest first."""
        folders = sorted(self.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        return [path for path in folders if is_whole(path) and saved(path).is_scheduled]

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(self.train_dataset, batch_sampler=self.plan, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """That of `Trainer`; with `layer_decay`, each of its groups is parted by depth, and lower ones learn slower."""
        created = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        decay = self.settings.layer_decay
        if created and decay != 1:
            learning = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
            depth = depths(learning)
            depth_of = {id(p): depth[name] for name, p in learning.items()}
            top, whole = max(depth.values()), optimizer.param_groups
            optimizer.param_groups = []
            for group in whole:
                for level in reversed(range(top + 1)):  # the rate that is recorded is that of the head
                    if params := [p for p in group["params"] if depth_of[id(p)] == level]:
                        rate = self.settings.learning_rate / decay ** (top - level)
                        optimizer.add_param_group({**group, "params": params, "lr": rate})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        if self.lr_scheduler is None:
            settings = self.settings

            def multiple(step: int) -> float:
                progress = self.progress if self.is_timed else step / num_training_steps
                return schedules.factor(settings.schedule, step, progress, settings.warmup_steps, settings.decay)

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, multiple)
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        self.watch.tokens += num_predicted(inputs["labels"], self.is_causal)
        count = num_items_in_batch if self.settings.accumulate > 1 else None
        self.repeat_forward = partial(self.objective, model, inputs, count)
        return self.repeat_forward()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All but biases, norms and gains, which are known by their names."""
        return [name for name in super().get_decay_parameter_names(model) if "gain" not in name.rpartition(".")[2]]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of a batch; `Diverged` where a gradient is no number, before any weight has seen it."""
        loss = super().training_step(*args, **kwargs)
        if not divergence.is_finite([loss, *(p.grad for p in self.model.parameters() if p.grad is not None)]):
            found, where = divergence.fault(self.model, self.repeat_forward)
            raise Diverged(f"{self.watch.label}: the loss is {found} at step {self.ledger.spent.steps + 1}; {where}")
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # Of gradients that are not clipped, `Trainer` would find the norm for its log, and multiply them all by 1.
        return grad_norm

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The validation loss, recorded in `metrics.jsonl`."""
        loss = self.validate(self.model)
        spent = self.ledger.spent
        self.ledger.record(validation_loss=loss)
        metrics = {"eval_loss": loss}
        self.log(dict(metrics))
        if spent.best_loss is None or loss < spent.best_loss:
            spent.best_loss, spent.evaluations_since_best = loss, 0
            if self.settings.early_stopping:
                self.save_best()
        else:
            spent.evaluations_since_best += 1
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_best(self) -> None:
        """Keep the weights that early stopping comes back to."""
        from safetensors.torch import save_model

        self.checkpoints.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(self.checkpoints / "best.safetensors"))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Before the rest: what `Trainer` writes last then says that the checkpoint is whole.
        checkpoint = self.checkpoints / f"checkpoint-{self.state.global_step}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        self.ledger.save(checkpoint)
        super()._save_checkpoint(model, trial)
        kept = {checkpoint, *self._scheduled_checkpoints()[-max(self.settings.average_checkpoints, 1) :]}
        for path in set(self.checkpoints.glob("checkpoint-*")) - kept:
            (path / Ledger.FILE).unlink(missing_ok=True)  # so that a kill in between leaves nothing that looks whole
            shutil.rmtree(path)

    def remove_checkpoints(self) -> None:
        """Once the model is saved elsewhere; logs of trackers stay."""
        for path in self.checkpoints.glob("checkpoint-*"):
            shutil.rmtree(path)
        (self.checkpoints / "best.safetensors").unlink(missing_ok=True)
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (checkpoint / Ledger.FILE).exists()


def average_weights(model: nn.Module, files: Sequence[Path]) -> None:
    """Set the weights of `model` to the mean over checkpoints, in float64."""
    sums: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in load_file(file).items():
            sums[name] = tensor.double() + sums[name] if name in sums else tensor.double()
    mean = {name: (total / len(files)).to(model.state_dict()[name].dtype) for name, total in sums.items()}
    model.load_state_dict(mean, strict=False)  # tied weights are stored once


class Watch(TrainerCallback):
    """Counts what is spent, says when to log, evaluate, save and stop, and shows a line of progress."""

    LOGS = 100  # over the budget

    def __init__(self, trainer: BareTrainer, label: str) -> None:
        self.trainer, self.label = trainer, label
        self.tokens = 0
        self.is_interrupted = False
        self._since_log = (0, 0.0)
        self._last_printed = -1.0
        self._loss: float | None = None
        self._is_line_open = False

    def signals(self) -> _Signals:
        return _Signals(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        spent = self.trainer.ledger.spent
        self._since_log = (spent.tokens, spent.seconds)
        self.trainer.ledger.start_clock()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        before = self.trainer.progress
        self.trainer.ledger.count(self.tokens)
        self.tokens = 0
        after = self.trainer.progress
        settings = self.trainer.settings

        def reached(times: int) -> bool:
            """Whether this step crossed one of the marks that divide the budget into so many parts."""
            return math.floor(after * times + 1e-9) > math.floor(before * times + 1e-9)

        control.should_evaluate = reached(settings.evaluations)
        self.trainer.ledger.spent.is_scheduled = reached(settings.checkpoints)
        control.should_save = self.trainer.ledger.spent.is_scheduled or self.is_interrupted
        control.should_log = reached(self.LOGS) or control.should_save  # what a checkpoint forgets is on record
        control.should_training_stop = after >= 1 or self.is_interrupted
        self._show(after)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        ledger = self.trainer.ledger
        tokens, seconds = self._since_log
        speed = (ledger.spent.tokens - tokens) / max(ledger.spent.seconds - seconds, 1e-9)
        self._since_log = (ledger.spent.tokens, ledger.spent.seconds)
        ledger.record(loss=logs["loss"], learning_rate=logs["learning_rate"], tokens_per_second=round(speed, 1))
        self._loss = logs["loss"]

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.is_out_of_patience:
            control.should_training_stop = True
        self.trainer.ledger.start_clock()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.ledger.start_clock()

    def _show(self, progress: float) -> None:
        """One line that is rewritten on a terminal; elsewhere a line for every tenth of the budget."""
        terminal = sys.stderr.isatty()
        if progress - self._last_printed < (0.005 if terminal else 0.1) and progress < 1:
            return
        self._last_printed = progress
        spent = self.trainer.ledger.spent
        speed = spent.tokens / max(spent.seconds, 1e-9)
        left = spent.seconds * (1 - progress) / max(progress, 1e-9)
        loss = "" if self._loss is None else f", loss {self._loss:.3f}"
        line = (
            f"{self.label}  {progress:4.0%}  step {spent.steps:,}, {spent.tokens:,} tokens{loss}, "
            f"{speed:,.0f} tokens/s, {int(left) // 60}:{int(left) % 60:02d} left"
        )
        print(f"\r\033[K{line}" if terminal else line, file=sys.stderr, end="" if terminal else "\n", flush=True)
        self._is_line_open = terminal

    def end_line(self) -> None:
        """Leave the line of progress, so that what follows starts on one of its own."""
        if self._is_line_open:
            print(file=sys.stderr, flush=True)
            self._is_line_open = False


def plan_of(settings: Training, examples: Examples, seed: int) -> BatchPlan:
    """The batches that a budget buys; without an end where it is in minutes."""
    budget = settings.budget
    return BatchPlan(
        examples.lengths,
        examples.label_tokens,
        settings.batch_tokens,
        seed,
        steps=None if budget.steps is None else budget.steps * settings.accumulate,
        tokens=budget.tokens,
        epochs=budget.epochs,
        sampling=examples.sampling,
    )


def num_frozen(plan: BatchPlan, depth: Mapping[str, int], step: int, accumulate: int) -> int:
    """How many of the lowest depths do not learn at a step under gradual unfreezing.

    Args:
        depth: of each parameter that is to learn, as `depths` gives it.
        step: counted from 0.
        accumulate: batches of a step, the first of which decides.
    """
    return max(0, max(depth.values()) - max(step, 0) * accumulate // plan.batches_per_epoch)


class Unfreezing(TrainerCallback):
    """Lets the head learn in the first epoch, and in each that follows one layer more (arXiv:1801.06146, section 3.3).

    What is frozen below the lowest layer that learns is computed without gradients. What learns follows from the number
    of the step alone, so that a resumed run goes on as it would have; a step that ends one epoch and begins the next
    counts as of the first.
    """

    def __init__(self, trainer: BareTrainer) -> None:
        self.trainer = trainer
        self.depth: dict[str, int] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.depth = depths(name for name, p in self.trainer.model.named_parameters() if p.requires_grad)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.freeze(state.global_step)

    def freeze(self, step: int) -> None:
        """Leave to gradients what learns at `step`."""
        trainer = self.trainer
        lowest = num_frozen(trainer.plan, self.depth, step, trainer.settings.accumulate)
        for name, parameter in self.trainer.model.named_parameters():
            if name in self.depth:
                parameter.requires_grad_(self.depth[name] >= lowest)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, parameter in self.trainer.model.named_parameters():
            if name in self.depth:
                parameter.requires_grad_(True)


class _Signals:
    """While active, Ctrl-C and SIGTERM end training after the step at hand; a second Ctrl-C ends it at once."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)
        except ValueError:  # not the main thread, which alone may catch signals
            self._before = {}

    def _stop(self, number: int, frame: Any) -> None:
        if self._watch.is_interrupted:
            raise KeyboardInterrupt
        self._watch.is_interrupted = True
        self._watch.end_line()
        print("stopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
