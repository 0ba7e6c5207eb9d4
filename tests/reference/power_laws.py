"""The laws of loss against size and data, as they are written in the papers."""

from __future__ import annotations


def kaplan(x: float, scale: float, exponent: float) -> float:
    """Kaplan et al. 2020 (arXiv:2001.08361), 1.1 and 1.2: L(N) = (N_c / N)^alpha_N, L(D) = (D_c / D)^alpha_D."""
    return (scale / x) ** exponent


def hoffmann(parameters: float, tokens: float, *, E: float, A: float, alpha: float, B: float, beta: float) -> float:
    """Hoffmann et al. 2022 (arXiv:2203.15556), 2: L(N, D) = E + A / N^alpha + B / D^beta."""
    return E + A / parameters**alpha + B / tokens**beta
