"""Scores of classes and numbers, from their definitions, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    """Covariance over the product of the standard deviations."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    squares = sum((a - mean_x) ** 2 for a in x), sum((b - mean_y) ** 2 for b in y)
    return covariance / math.sqrt(squares[0] * squares[1])


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's of the ranks, equal numbers sharing the mean of theirs."""

    def ranks(numbers: Sequence[float]) -> list[float]:
        return [sum(b < a for b in numbers) + (sum(b == a for b in numbers) + 1) / 2 for a in numbers]

    return pearson(ranks(x), ranks(y))


def matthews(true: Sequence[int], guessed: Sequence[int]) -> float:
    """Of two classes (Matthews 1975), from the four counts."""
    pairs = list(zip(true, guessed, strict=True))
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (0, 1), (1, 0)))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0


def summed_losses(
    outputs: Sequence[Sequence[float]], labels: Sequence[float], members: Sequence[int], tasks: Sequence[dict]
) -> float:
    """The losses of several tasks at once, row by row: of classes minus the log-probability, of scores squared errors.

    Args:
        outputs: of the classifier, before scores are on the scale of the data.
        tasks: `labels`, or `score_mean` and `score_std`.
    """
    total = 0.0
    for row, label, member in zip(outputs, labels, members, strict=True):
        start = sum(len(task.get("labels", [0])) for task in tasks[:member])
        task = tasks[member]
        if "labels" in task:
            own = row[start : start + len(task["labels"])]
            total += math.log(sum(math.exp(each) for each in own)) - own[int(label)]
        else:
            total += (row[start] - (label - task["score_mean"]) / task["score_std"]) ** 2
    return total
