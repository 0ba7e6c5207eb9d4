"""Power laws of loss against size and data, fitted with their uncertainty.

    L(N)    = (N_c / N)^alpha              Kaplan et al. 2020, arXiv:2001.08361, equation 1.1; L(D) is its equation 1.2
    L(N)    = E + (N_c / N)^alpha          the same above an irreducible loss E, where there are points enough for it
    L(N, D) = E + A / N^alpha + B / D^beta Hoffmann et al. 2022, arXiv:2203.15556, equation 2

N_c^alpha is written A here, too, and D_c^beta B. As in section 3.3 of Hoffmann et al., what is minimised is the Huber
loss of differences between logarithms, by L-BFGS from several starts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bareformers.report.result import Schema

Form = Literal["power", "floored", "joint"]
Numbers = NDArray[np.float64]

LEAST = {"power": 2, "floored": 5, "joint": 8}  # points; of a joint law three sizes and three amounts of data beside
HUBER = 1e-3  # difference between logarithms from where on it counts linearly, as in Hoffmann et al.
DRAWS = 100
FLATTEST, STEEPEST = 1e-3, 5.0  # exponents that are told, and that are looked for
EXPLAINED = 0.9  # share of the variance of log loss, below which points lie on no law


class Law(Schema):
    """A law that was fitted.

    Attributes:
        form: `power`, `floored` (above an irreducible loss) or `joint`.
        values: `A` and `alpha` of parameters, `B` and `beta` of tokens, `E`, as far as the form has them.
        intervals: of `alpha`, `beta` and `E` what 95 of 100 repetitions would give; empty where it does not hold or
            nothing tells.
        explained: share of the variance of log loss between the points.
        error: root of the mean squared difference between the logarithms of points and law.
    """

    form: Form
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    explained: float
    error: float

    def loss(self, parameters: ArrayLike = 1.0, tokens: ArrayLike = 1.0) -> Numbers:
        """What the law says of sizes and amounts of data; what it does not depend on is not read."""
        found: Any = self.values.get("E", 0.0)
        for scale, exponent, x in (("A", "alpha", parameters), ("B", "beta", tokens)):
            if scale in self.values:
                found = found + self.values[scale] / np.asarray(x, float) ** self.values[exponent]
        return np.asarray(found, float)

    def tells(self, exponent: str) -> bool:
        """Whether the range of an exponent has ends, and does not reach down to none or up to what was looked for."""
        low, high = self.intervals.get(exponent, (0.0, STEEPEST))
        return FLATTEST < low and high < 0.99 * STEEPEST

    @property
    def falls(self) -> bool:
        """Whether the loss falls with all that the law depends on."""
        return all(self.values[name] > FLATTEST for name in ("alpha", "beta") if name in self.values)

    @property
    def holds(self) -> bool:
        """Whether the points lie on it, and fall."""
        return self.falls and self.explained >= EXPLAINED


def fit(losses: Sequence[Sequence[float]], *, parameters: ArrayLike | None = None, tokens: ArrayLike | None = None,
        form: Form) -> Law:  # fmt: skip
    """The law of this form that is closest to the points.

    Args:
        losses: of each point those of its seeds, whose mean counts.
        parameters, tokens: of each point; None for what the law does not depend on.
    """
    found = {"alpha": parameters, "beta": tokens}
    x = {name: np.log(np.asarray(given, float)) for name, given in found.items() if given is not None}
    y = np.log([math.fsum(seeds) / len(seeds) for seeds in losses])
    middle = {name: float(given.mean()) for name, given in x.items()}
    centred = np.stack([given - middle[name] for name, given in x.items()])  # [terms, points]
    problem = _Problem(centred, floored=form != "power")
    best = problem.solve(y, problem.starts(y))
    predicted = problem.predict(best)
    values = _values(best, middle, floored=problem.floored)
    residuals, spread = predicted - y, y - y.mean()
    error = float(np.sqrt((residuals**2).mean()))
    total = float((spread**2).sum())
    law = Law(
        form=form,
        values=values,
        explained=max(0.0, 1 - float((residuals**2).sum()) / total) if total else 0.0,
        error=error,
    )
    noise = _noise(losses, residuals, len(best))
    if law.holds and noise is not None:
        law.intervals = _intervals(problem, best, predicted, noise, middle)
    return law


class _Problem:
    """log L = log(sum of exp(a - exponent * x) over the terms, and of exp(e) where there is an irreducible loss)."""

    def __init__(self, x: Numbers, floored: bool) -> None:
        self.x, self.floored = x, floored

    def terms(self, theta: Numbers) -> Numbers:
        """[terms, points]; theta has scales, exponents and, last, the logarithm of the irreducible loss."""
        count = len(self.x)
        found = theta[:count, None] - theta[count : 2 * count, None] * self.x
        return np.vstack([found, np.full((1, self.x.shape[1]), theta[-1])]) if self.floored else found

    def predict(self, theta: Numbers) -> Numbers:
        return np.logaddexp.reduce(self.terms(theta), axis=0)

    def slopes(self, theta: Numbers) -> Numbers:
        """Derivatives of `predict`, [points, theta]."""
        terms = self.terms(theta)
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        count = len(self.x)
        parts = [shares[:count], -shares[:count] * self.x, *([shares[count:]] if self.floored else [])]
        return np.vstack(parts).T

    def starts(self, y: Numbers) -> list[Numbers]:
        """Several, since a law with an irreducible loss has more than one valley."""
        count, least, mean = len(self.x), math.exp(y.min()), math.exp(y.mean())
        shares = (0.02, 0.3, 0.6, 0.85, 0.97) if self.floored else (0.0,)
        found = []
        for share, *exponents in itertools.product(shares, *[(0.03, 0.1, 0.3, 0.6, 1.2)] * count):
            above = (mean - share * least) / count
            scales = [math.log(above)] * count
            found.append(np.array([*scales, *exponents, *([math.log(share * least)] if self.floored else [])]))
        return sorted(found, key=lambda theta: float(np.abs(self.predict(theta) - y).sum()))[:6]

    def loss(self, theta: Numbers, y: Numbers) -> tuple[float, Numbers]:
        """The Huber loss in squares of `HUBER`, and its slope."""
        off = (self.predict(theta) - y) / HUBER
        near = np.clip(off, -1, 1)
        return float((near * (off - near / 2)).sum()), near @ self.slopes(theta) / HUBER

    def solve(self, y: Numbers, starts: Sequence[Numbers]) -> Numbers:
        """What is best from all starts."""
        from scipy.optimize import minimize

        count = len(self.x)
        bounds = [(None, None)] * count + [(0.0, STEEPEST)] * count + [(-12.0, float(y.min()))] * self.floored
        settings = {"maxiter": 300, "ftol": 1e-11, "gtol": 1e-7}
        found = [
            minimize(self.loss, start, (y,), "L-BFGS-B", True, bounds=bounds, options=settings) for start in starts
        ]
        return np.asarray(min(found, key=lambda each: float(each.fun)).x, float)


def _values(theta: Numbers, middle: dict[str, float], floored: bool) -> dict[str, float]:
    """Coefficients as they are written in the law."""
    values = {"E": math.exp(theta[-1])} if floored else {}
    for index, (name, scale) in enumerate((name, {"alpha": "A", "beta": "B"}[name]) for name in middle):
        exponent = float(theta[len(middle) + index])
        values |= {scale: math.exp(theta[index] + exponent * middle[name]), name: exponent}
    return values


def _noise(losses: Sequence[Sequence[float]], residuals: Numbers, coefficients: int) -> tuple[float, int] | None:
    """Standard deviation of a point around its law, and the degrees of freedom that tell it; None where nothing does.

    The larger one of what the fit leaves and of what seeds differ by.
    """
    found = []
    if (free := len(residuals) - coefficients) > 0:
        found.append((math.sqrt(float((residuals**2).sum()) / free), free))
    if (free := sum(len(seeds) - 1 for seeds in losses)) > 0:
        squares = sum(((np.log(seeds) - np.log(seeds).mean()) ** 2).sum() / len(seeds) for seeds in losses)
        found.append((math.sqrt(float(squares) / free), free))
    return max(found, default=None)


def _intervals(
    problem: _Problem,
    best: Numbers,
    predicted: Numbers,
    noise: tuple[float, int],
    middle: dict[str, float],
) -> dict[str, tuple[float, float]]:
    """From fits to points that are drawn around the law; the fewer points tell the noise, the less sure is its size."""
    deviation, free = noise
    random = np.random.default_rng(0)
    drawn: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        size = deviation * math.sqrt(free / random.chisquare(free))
        theta = problem.solve(predicted + size * random.standard_normal(len(predicted)), [best])
        for name, value in _values(theta, middle, problem.floored).items():
            if name not in ("A", "B"):
                drawn.setdefault(name, []).append(value)
    return {name: tuple(np.percentile(values, (2.5, 97.5)).tolist()) for name, values in drawn.items()}  # type: ignore[misc]
