"""Measures of written text as their papers define them, of words between spaces."""

from __future__ import annotations

from collections import Counter


def rouge(name: str, output: str, reference: str) -> float:
    """F1 of ROUGE-N (Lin 2004, section 2) or ROUGE-L (section 3.1), 0 to 1."""
    ours, theirs = output.split(), reference.split()
    if name == "rouge_l":
        sizes, common = (len(ours), len(theirs)), longest(ours, theirs)
    else:
        n = int(name[-1])
        first, second = (Counter(tuple(row[i : i + n]) for i in range(len(row) - n + 1)) for row in (ours, theirs))
        sizes, common = (first.total(), second.total()), sum(min(first[gram], second[gram]) for gram in first)
    return 2 * common / sum(sizes) if common else 0.0


def longest(one: list[str], other: list[str]) -> int:
    """The length of the longest common subsequence."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return longest(one[:-1], other[:-1]) + 1
    return max(longest(one[:-1], other), longest(one, other[:-1]))


def distinct(texts: tuple[str, ...]) -> dict[str, float]:
    """Li et al. 2016, section 5.3: different words and pairs of words over all of them, in percent."""
    found = {}
    for n in (1, 2):
        seen, count = set(), 0
        for text in texts:
            words = text.split()
            for start in range(len(words) - n + 1):
                seen.add(tuple(words[start : start + n]))
                count += 1
        found[f"distinct_{n}"] = 100 * len(seen) / count
    return found
