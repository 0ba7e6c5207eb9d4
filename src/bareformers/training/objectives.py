"""What a model is trained for: from a batch to the loss that is minimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Objective = Callable[..., Tensor]
"""Of a model, a batch and, where a step takes several batches, the number of labels in all of them."""


class CrossEntropy:
    """Cross-entropy of the labels, smoothed; asks our models for the loss alone, so that no logit is made in vain."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_labels: Tensor | int | None = None) -> Tensor:
        """The mean over the labels of `batch`; with `num_labels` (of a whole step) the sum divided by it."""
        return model(**batch, loss_only=True, smoothing=self.label_smoothing, num_items_in_batch=num_labels).loss


class Imitation:
    """A share of a teacher's predictions (Hinton, Vinyals & Dean, arXiv:1503.02531), the rest cross-entropy.

    Args:
        teacher: predicts what the model does, from the same batches.
        is_causal: whether both shift their labels, so that the last prediction of each row has none.
        share: of the teacher in the loss, 0 to 1.
        temperature: divides the logits of both; the divergence is multiplied by its square, as there.
        label_smoothing: of the cross-entropy.
    """

    def __init__(
        self, teacher: nn.Module, is_causal: bool, share: float, temperature: float, label_smoothing: float
    ) -> None:
        self.teacher, self.is_causal = teacher, is_causal
        self.share, self.temperature, self.label_smoothing = share, temperature, label_smoothing

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_labels: Tensor | int | None = None) -> Tensor:
        """As of `CrossEntropy`, the mean over labels."""
        out = model(**batch, smoothing=self.label_smoothing, num_items_in_batch=num_labels)
        std = getattr(getattr(model, "config", None), "score_std", None) or 1.0
        divergence, count = self._divergence(out.logits, batch)
        return torch.lerp(out.loss, divergence / std**2 / (count if num_labels is None else num_labels), self.share)

    def _divergence(self, logits: Tensor, batch: dict[str, Any]) -> tuple[Tensor, int]:
        """How far the model's predictions are from the teacher's, summed, and over how many; of scores, squared."""
        labels = batch["labels"]
        with torch.no_grad():
            taught = self.teacher(**batch).logits
        if labels.is_floating_point():
            return F.mse_loss(logits.float(), taught.float(), reduction="sum"), len(labels)
        found, aims = self._predicted(logits, labels), self._predicted(taught, labels)
        return F.kl_div(found, aims, log_target=True, reduction="sum") * self.temperature**2, len(found)

    def _predicted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Log-probabilities [N, V] where there is something to predict."""
        if self.is_causal:
            logits, labels = logits[:, :-1], labels[:, 1:]
        return (logits[labels != -100].float() / self.temperature).log_softmax(-1)


class OpenImitation(Imitation):
    """The same of any model of `transformers`: all is made of its logits, since it smooths no labels itself.

    Where no share is the teacher's, it is not asked.
    """

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_labels: Tensor | int | None = None) -> Tensor:
        """As of `CrossEntropy`, the mean over labels; the squared error where these are scores."""
        labels = batch["labels"]
        logits = model(**batch).logits
        true = labels[:, 1:] if self.is_causal else labels
        told = (logits[:, :-1] if self.is_causal else logits)[true != -100].float()
        if labels.is_floating_point():
            loss = F.mse_loss(told.squeeze(-1), true, reduction="sum")
        else:
            loss = F.cross_entropy(told, true[true != -100], label_smoothing=self.label_smoothing, reduction="sum")
        if self.share:
            loss = torch.lerp(loss, self._divergence(logits, batch)[0], self.share)
        return loss / (len(told) if num_labels is None else num_labels)


class Imitated:
    """The mean squared error of every student of `Lessons`, that of maps added, summed: each learns as if alone."""

    def __call__(self, lessons: nn.Module, batch: dict[str, Any], num_labels: Tensor | int | None = None) -> Tensor:
        """Over `batch`; with `num_labels` (of a whole step) times the share of its labels that are in this batch."""
        errors, maps, _, counts = lessons(**batch).unbind(-1)
        loss = ((errors + maps) / counts).sum()
        return loss if num_labels is None else loss * ((batch["labels"] != -100).sum() / num_labels)
