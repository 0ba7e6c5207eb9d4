"""Learning-rate schedules as multiples of the peak; those that end know how much of the budget is spent."""

from __future__ import annotations

import math

CUT = 0.1  # of slanted_triangular: the share of the budget in which it rises
RATIO = 32  # and the peak over what it begins and ends with


def warmup_stable_decay(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """Constant after the warm-up, then linear to 0 over the last share `decay` of the budget."""
    return _warmup(step, warmup_steps) * (1.0 if progress < 1 - decay else (1 - progress) / max(decay, 1e-9))


def cosine(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """Half a cosine from the peak to 0 over the whole budget (Loshchilov & Hutter, arXiv:1608.03983)."""
    return _warmup(step, warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))


def inverse_sqrt(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """1/sqrt(step) after the warm-up (Vaswani et al. 2017, equation 3); does not look at the budget."""
    return _warmup(step, warmup_steps) * max(1.0, (step + 1) / max(warmup_steps, 1)) ** -0.5


def slanted_triangular(step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """Linear from 1/32 to the peak over a tenth of the budget, and back (Howard & Ruder, ACL 2018, arXiv:1801.06146).

    Equation 3 with the budget in the place of rounded numbers of steps: as printed it divides by zero below ten steps,
    and ends below zero where ten does not divide their number.
    """
    share = progress / CUT if progress < CUT else (1 - progress) / (1 - CUT)
    return (1 + share * (RATIO - 1)) / RATIO


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / max(warmup_steps, 1))


SCHEDULES = {
    "warmup_stable_decay": warmup_stable_decay,
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
    "slanted_triangular": slanted_triangular,
}


def factor(schedule: str, step: int, progress: float, warmup_steps: int, decay: float) -> float:
    """The multiple of the peak learning rate at `step`, with the share `progress` of the budget spent."""
    return max(0.0, SCHEDULES[schedule](step, min(max(progress, 0.0), 1.0), warmup_steps, decay))
