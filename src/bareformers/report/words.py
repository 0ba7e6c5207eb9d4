"""How quantities are called and written, the same in the terminal and in the report."""

from __future__ import annotations

import math

from bareformers.report.result import Measure

NBSP = "\N{NO-BREAK SPACE}"
NOT_MEASURED = "–"

_LABELS = {
    "accuracy": "accuracy",
    "bits_per_byte": "bits per byte",
    "bleu": "BLEU",
    "chrf": "chrF",
    "cosine": "mean cosine",
    "distinct_1": "distinct-1",
    "distinct_1_references": "distinct-1 of the references",
    "distinct_2": "distinct-2",
    "distinct_2_references": "distinct-2 of the references",
    "decode_tokens_per_second": "decoding speed",
    "exact": "exact sequences",
    "f1": "F1",
    "flops": "FLOPs",
    "forward_backward_ms": "time of forward and backward",
    "forward_ms": "time of a forward pass",
    "latency_1": "forward pass of one sequence",
    "latency_32": "forward pass of 32 sequences",
    "matthews": "Matthews",
    "mean": "mean over tasks",
    "multiply_adds": "multiply-adds of a forward pass",
    "peak_memory": "activation memory",
    "pearson": "Pearson",
    "prefill_ms": "time of a prefill",
    "rms": "row norm",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "spearman": "Spearman",
    "state_bytes": "decoding state",
    "step_ms": "time of a decoding step",
    "ter": "TER",
    "train_tokens_per_second": "training speed",
}
_OF_MEMBERS = ("accuracy", "f1", "matthews", "pearson", "spearman")
_DECIMALS = {"bleu": 1, "chrf": 1, "ter": 1, "perplexity": 2, "loss": 3, "bits_per_byte": 3}
_DECIMALS |= {"rouge_1": 1, "rouge_2": 1, "rouge_l": 1}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def label(key: str) -> str:
    """What readers call the measure `key`: `state_bytes` is "decoding state", `bleu` is "BLEU".

    That of one of several tasks has the name of the task in front: `stsb_pearson` is "stsb Pearson".
    """
    member, _, metric = key.rpartition("_")
    if member and metric in _OF_MEMBERS:
        return f"{member} {_LABELS[metric]}"
    return _LABELS.get(key, key.replace("_", " "))


def score(key: str, value: float, like: float | None = None, sign: bool = False) -> str:
    """A quality, with the decimals that its kind is usually given with.

    Args:
        like: another value of the column, whose magnitude decides about decimals where the kind does not.
        sign: write `+` before a positive number, as for a difference.
    """
    if not math.isfinite(value):
        return NOT_MEASURED
    magnitude = abs(value if like is None else like)
    decimals = _DECIMALS.get(key, 1 if magnitude >= 100 else 2 if magnitude >= 10 else 3)
    text = f"{abs(value):,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return f"±{text}" if sign else text
    return ("\N{MINUS SIGN}" if value < 0 else "+" if sign else "") + text


def with_spread(key: str, value: float, spread: float | None, like: float | None = None) -> str:
    """A quality with half of its spread, where there is one: `84.13 ± 1.40`; `like` as of `score`."""
    number = score(key, value, like)
    return number if spread is None else f"{number}{NBSP}±{NBSP}{score(key, spread / 2, like)}"


def quantity(value: float, unit: str = "") -> str:
    """A cost or a speed with three significant digits and its unit: `7.61 M`, `1.2 kB`, `2,310 tok/s`, `12 min`."""
    if not math.isfinite(value):
        return NOT_MEASURED
    if unit in ("bytes", "B"):
        return _with_prefix(value, "B")
    if unit in ("tokens/s", "tok/s"):
        return f"{_significant(value)}{NBSP}tok/s" if abs(value) < 1e6 else _with_prefix(value, NBSP + "tok/s")
    if unit == "s":
        return _duration(value)
    if unit in ("", "parameters", "tokens", "steps"):
        return _with_prefix(value, "") if abs(value) >= 1e4 else _significant(value)
    return f"{_significant(value)}{NBSP}{unit}"


def tick(value: float, unit: str = "") -> str:
    """A round number on an axis: `0.05 ms`, `200 ms`, `10 kB`."""
    return quantity(value, unit) if value >= 1 else f"{value:g}{NBSP}{unit}".rstrip(NBSP)


def written(measure: Measure | None) -> str:
    """A measured cost or speed, or a dash where there is none."""
    return NOT_MEASURED if measure is None else quantity(measure.value, measure.unit)


def scale(largest: float, unit: str = "") -> tuple[float, str]:
    """What to divide an axis that reaches `largest` by, and the unit that its ticks are in then: `(1000.0, "kB")`."""
    for size, prefix in _PREFIXES:
        if largest >= size:
            return size, prefix + ("B" if unit in ("bytes", "B") else unit)
    return 1.0, "B" if unit == "bytes" else unit


def percent(share: float) -> str:
    """A share in percent, with a decimal where it is close to one: `98.2 %`, `61 %`. Only 1 itself is `100 %`."""
    if not math.isfinite(share):
        return NOT_MEASURED
    if share == 1:
        return f"100{NBSP}%"
    if 0.9 <= share < 1:
        return f"{min(round(100 * share, 1), 99.9)}{NBSP}%"
    if 1 < share <= 1.1:
        return f"{max(round(100 * share, 1), 100.1)}{NBSP}%"
    return f"{_minus(f'{100 * share:,.0f}')}{NBSP}%"


def change(relative: float) -> str:
    """The size of a relative change without its sign, for "12 % fewer": at least two significant digits below 10 %."""
    size = 100 * abs(relative)
    if 99.5 <= size < 100:
        return f"{min(size, 99.9):.1f}{NBSP}%"
    return f"{size:.0f}{NBSP}%" if size >= 9.95 else f"{size:.1f}{NBSP}%"


def times(ratio: float) -> str:
    """A ratio: `1.12×`, `15×`."""
    if not math.isfinite(ratio):
        return NOT_MEASURED
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:,.0f}×"


def share(ratio: float) -> str:
    """A ratio that may be far below 1: `1.12×`, `0.31×`, `1/240`; nothing at all is `0`."""
    return f"1/{1 / ratio:,.0f}" if 0 < ratio < 0.095 else "0" if ratio == 0 else times(ratio)


def seeds(count: int) -> str:
    """`one seed`, `3 seeds`."""
    return "one seed" if count == 1 else f"{count} seeds"


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _with_prefix(value: float, unit: str) -> str:
    for size, prefix in _PREFIXES:
        # What rounds to 1000 of the smaller prefix belongs to the larger: 999.9 k is 1 M.
        if abs(value) >= 0.9995 * size:
            return f"{_significant(value / size)}{NBSP}{prefix}{unit}"
    return f"{_significant(value)}{NBSP}{unit}" if unit.strip() else _significant(value)


def _significant(value: float) -> str:
    if value == 0:
        return "0"
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    if float(rounded).is_integer() and (abs(rounded) >= 100 or float(value).is_integer()):
        return _minus(f"{rounded:,.0f}")
    if abs(rounded) < 1e-3:
        return _minus(f"{rounded:.2g}")
    return _minus(f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}")


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{_significant(1000 * seconds)}{NBSP}ms"
    if seconds < 120:
        return f"{_significant(seconds)}{NBSP}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}{NBSP}min"
    return f"{seconds / 3600:.1f}{NBSP}h"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
