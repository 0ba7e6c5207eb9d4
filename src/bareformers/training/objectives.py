"""What a model is trained for: from a batch to the loss that is minimised."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class CrossEntropy:
    """Cross-entropy of the labels, smoothed; asks our models for the loss alone, so that no logit is made in vain."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, batch: dict[str, Any], num_labels: Tensor | int | None = None) -> Tensor:
        """The mean over the labels of `batch`; with `num_labels` (of a whole step) the sum divided by it."""
        return model(**batch, loss_only=True, smoothing=self.label_smoothing, num_items_in_batch=num_labels).loss
