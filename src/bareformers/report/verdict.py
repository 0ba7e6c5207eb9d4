"""What a comparison shows, in sentences that do not claim more than was measured.

How much of the quality a variant *kept* depends on the kind of score. One with a natural zero, where higher is
better (BLEU, accuracy), is kept as a share of the baseline's. One where lower is better (perplexity, loss, bits per
byte) has no such zero, so there it is the share of the way from the best floor to the baseline: 0 % is as bad as the
floor, 100 % as good as the baseline. Without a floor there is no such share, and the plain difference stands.
"""

from __future__ import annotations

from bareformers.report import words
from bareformers.report.result import Compared, Comparison, Difference, VariantResult, difference


def verdict(comparison: Comparison) -> str:
    """One sentence about the best variant: what it kept of the quality, what it saves, where the floor is."""
    baseline, key = comparison.reference, comparison.headline
    if not measured(baseline, key):
        return f"The baseline {baseline.name} has no {words.label(key)} ({baseline.status}): nothing to compare with."
    others = [variant for variant in comparison.variants if variant is not baseline and measured(variant, key)]
    if not others:
        return f"Only {baseline.name} was measured: {words.label(key)} {_score(baseline, key)}."
    best = _best([variant for variant in others if not variant.floor] or others, key)
    sentence = f"{_subject(best)} {_claim(comparison, best)}"
    if gains := savings(comparison, best, ("train_tokens_per_second", "parameters")):
        sentence += f", with {words.listed(gains)}"
    if not best.floor and (clause := _about_floor(comparison, best)):
        sentence += f"; {clause}"
    return sentence + "."


def summary(comparison: Comparison, name: str) -> str:
    """One sentence about the variant `name`: what it kept and all that it saves, or how the baseline did."""
    return f"{_subject(comparison.variant(name))} {predicate(comparison, name)}."


def predicate(comparison: Comparison, name: str) -> str:
    """`summary` without its subject and full stop, to stand beside the name."""
    variant, baseline, key = comparison.variant(name), comparison.reference, comparison.headline
    if not measured(variant, key):
        return f"has no {words.label(key)} ({variant.status})"
    if variant is baseline:
        return f"is the baseline: {words.label(key)} {_score(variant, key)}, {_seeds(variant, variant, key)}"
    if not measured(baseline, key):
        return f"has {words.label(key)} {_score(variant, key)}, with no baseline to hold it against"
    claim, gains = _claim(comparison, variant), savings(comparison, variant)
    return f"{claim}, with {words.listed(gains)}" if gains else claim


def caveats(comparison: Comparison, needs_floor: bool = True) -> list[str]:
    """What a reader must know before believing any difference in this comparison."""
    found = []
    if comparison.seeds == 1:
        found.append("One seed: differences are not tested against chance.")
    elif single := [name for name in comparison.single if name != comparison.baseline]:
        tested = comparison.baseline not in comparison.single
        how = "held against the spread of the baseline's seeds alone" if tested else "not tested against chance"
        found.append(f"One seed only of {words.listed(single)}: their differences are {how}.")
    if needs_floor and not any(variant.floor for variant in comparison.variants):
        found.append(
            "No floor: without a variant that mixes nothing or averages everything, nobody can say how much of this "
            "quality needs mixing at all."
        )
    elif (floor := best_floor(comparison)) and not _beats(comparison.reference, floor, comparison.headline):
        key = comparison.headline
        better = [
            variant.name for variant in comparison.variants if measured(variant, key) and _beats(variant, floor, key)
        ]
        ranked = f"only {words.listed(better)} can be told from it" if better else "this task and budget rank nothing"
        found.append(f"The baseline does no better than the floor {floor.name}: {ranked}.")
    for variant in comparison.variants:
        if variant.status != "finished":
            found.append(f"{variant.name} did not finish in every run ({variant.status}).")
    return found


def kept(comparison: Comparison, variant: VariantResult) -> float | None:
    """The share of the baseline's headline quality that `variant` kept; None where no such share makes sense.

    It may exceed 1 (better than the baseline) and be negative (worse than the floor).
    """
    key, baseline = comparison.headline, comparison.reference
    if not (measured(variant, key) and measured(baseline, key)):
        return None
    ours, theirs = variant.quality[key], baseline.quality[key]
    if theirs.better == "higher":
        return ours.value / theirs.value if theirs.value > 0 else None
    if theirs.better == "lower":
        floor = best_floor(comparison)
        if floor is None or not _beats(baseline, floor, key):
            return None
        bottom = floor.quality[key].value
        return (bottom - ours.value) / (bottom - theirs.value)
    return None


def crossover(comparison: Compared, variant: VariantResult, measure: str) -> int | None:
    """The measured length from which on `variant` is better than the baseline in `measure`; None where it never is.

    A length counts only where the difference exceeds the spread, there and at every longer one that both were
    measured at.
    """
    since = None
    for length in reversed(comparison.lengths(1)[measure]):
        found = difference(variant, comparison.reference, f"{measure}@{length}")
        if found is not None and (not found.better or found.within_spread):
            break
        since = since if found is None else length
    return since


def crossovers(comparison: Compared, measure: str) -> list[str]:
    """From which length on the variants are better than the baseline in `measure`: "delta: from 2,048 tokens on"."""
    told: dict[str, list[str]] = {}
    for variant in comparison.variants:
        keys = {length: f"{measure}@{length}" for length in comparison.lengths(1)[measure]}
        lengths = [length for length, key in keys.items() if difference(variant, comparison.reference, key)]
        if variant is comparison.reference or not lengths:
            continue
        since = crossover(comparison, variant, measure)
        if since is None:
            where = f"not at {lengths[-1]:,} tokens, the longest measured"
        else:
            where = "at every length measured" if since == lengths[0] else f"from {since:,} tokens on"
        told.setdefault(where, []).append(variant.name)
    return [f"{words.listed(names)} {where}" for where, names in told.items()]


def kept_means(comparison: Comparison) -> str:
    """What the percentages of `kept` are a share of, in a sentence for readers."""
    baseline, noun = comparison.reference, words.label(comparison.headline)
    if kept(comparison, baseline) is None:
        return f"No percentages: {noun} has no natural zero, and no floor that {baseline.name} clearly beats stands in."
    if baseline.quality[comparison.headline].better == "higher":
        return f"The percentage is {noun} as a share of {baseline.name}'s."
    floor = best_floor(comparison)
    assert floor is not None
    return (
        f"The percentage is the share of the way in {noun} from the floor {floor.name} (0 %) "
        f"to {baseline.name} (100 %)."
    )


def best_floor(comparison: Comparison, key: str = "") -> VariantResult | None:
    """The floor that is best in `key`, the headline by default, and so hardest to beat. The baseline never is one."""
    key = key or comparison.headline
    floors = [
        variant
        for variant in comparison.variants
        if variant.floor and variant.name != comparison.baseline and measured(variant, key)
    ]
    return _best(floors, key) if floors else None


def savings(comparison: Comparison, variant: VariantResult, keys: tuple[str, ...] = ()) -> list[str]:
    """What `variant` saves, or costs, against the baseline: "1.12× the training speed", "12 % fewer parameters".

    Args:
        keys: the measures to speak of; where empty, the known ones in which the two differ.
    """
    phrases = []
    for key in keys or _SPOKEN:
        found = difference(variant, comparison.reference, key)
        if found is None or found.relative is None:
            continue
        same = found.within_spread or abs(found.relative) < 0.005
        if same and not keys:
            continue
        phrases.append(_phrase(key, 1 + found.relative, same))
    return phrases


def measured(variant: VariantResult, key: str) -> bool:
    """Whether `variant` has a finite number for the quality `key`."""
    return key in variant.quality and variant.quality[key].finite


_SPOKEN = ("train_tokens_per_second", "decode_tokens_per_second", "parameters", "state_bytes", "peak_memory")


def _phrase(key: str, ratio: float, same: bool) -> str:
    noun, is_counted = words.label(key), key == "parameters"
    if same:
        return f"as many {noun}" if is_counted else f"the same {noun}"
    if key.endswith("_per_second"):
        return f"{words.times(ratio)} the {noun}"
    if ratio == 0:
        return f"no {noun}"
    if ratio <= 0.15:
        return f"1/{1 / ratio:,.0f} of the {noun}"
    if ratio < 2:
        less = "fewer" if is_counted else "less"
        return f"{words.change(ratio - 1)} {less if ratio < 1 else 'more'} {noun}"
    return f"{words.times(ratio)} the {noun}"


def _subject(variant: VariantResult) -> str:
    return f"The floor {variant.name}" if variant.floor else variant.name


def _claim(comparison: Comparison, variant: VariantResult) -> str:
    """How `variant` compares with the baseline in the headline, as a predicate; both were measured."""
    key, baseline = comparison.headline, comparison.reference
    found = difference(variant, baseline, key)
    assert found is not None
    noun, seeds = words.label(key), _seeds(variant, baseline, key)
    scores = f"{_score(variant, key)} against {_score(baseline, key)}"
    if found.value == 0:
        return f"has the same {noun} as {baseline.name} ({scores}, {seeds})"
    if found.within_spread:
        return f"is level with {baseline.name} in {noun} ({scores}, within the spread of {seeds})"
    if found.better and not found.tested:
        return f"scored better than {baseline.name} in {noun} ({scores}, {seeds})"
    if found.better:
        return f"beat {baseline.name} in {noun} ({scores}, more than the spread of {seeds})"
    share, floor = kept(comparison, variant), best_floor(comparison)
    if share is not None and baseline.quality[key].better == "higher":
        return f"kept {words.percent(share)} of {baseline.name}'s {noun} ({scores}, {seeds})"
    if share is None or floor is None or variant is floor:
        return f"has {_apart(found)} {noun} than {baseline.name} ({scores}, {seeds})"
    if share <= 0:
        return f"is no better than the floor {floor.name} in {noun} ({scores}, {seeds})"
    return (
        f"went {words.percent(share)} of the way from the floor {floor.name} to {baseline.name} "
        f"in {noun} ({scores}, {seeds})"
    )


def _apart(found: Difference) -> str:
    direction = "higher" if found.value > 0 else "lower"
    if found.relative is None:
        return f"a {direction}"
    return f"{words.change(found.relative)} {direction}"


def _about_floor(comparison: Comparison, best: VariantResult) -> str:
    """Where the best floor stands beside the best variant."""
    floor, key, baseline = best_floor(comparison), comparison.headline, comparison.reference
    if floor is None:
        return ""
    if not _beats(baseline, floor, key):
        shown = f"only {best.name} shows that mixing pays" if _beats(best, floor, key) else "nothing is shown"
        return f"but the floor {floor.name} does as well as {baseline.name} ({_score(floor, key)}), so {shown}"
    if not _beats(best, floor, key):
        return f"but that is no better than the floor {floor.name} ({_score(floor, key)})"
    share = kept(comparison, floor)
    if baseline.quality[key].better == "higher" and share is not None:
        return f"the floor {floor.name} kept {words.percent(share)}"
    return f"the floor {floor.name} is at {_score(floor, key)}"


def _beats(variant: VariantResult, other: VariantResult, key: str) -> bool:
    """Whether `variant` is better than `other`, by more than the spread of the seeds where that is known."""
    found = difference(variant, other, key)
    return found is not None and found.better is True and not found.within_spread


def _best(variants: list[VariantResult], key: str) -> VariantResult:
    def goodness(variant: VariantResult) -> float:
        measure = variant.quality[key]
        return -measure.value if measure.better == "lower" else measure.value

    return max(variants, key=goodness)


def _score(variant: VariantResult, key: str) -> str:
    return words.score(key, variant.quality[key].value)


def _seeds(variant: VariantResult, baseline: VariantResult, key: str) -> str:
    count, other = variant.quality[key].seeds, baseline.quality[key].seeds
    return words.seeds(count) if count == other else f"{words.seeds(count)} against {other}"
