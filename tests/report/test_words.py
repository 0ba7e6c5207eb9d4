import math

import pytest

from bareformers.report import words


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (7_612_416, "", "7.61 M"),
        (20_000_000, "", "20 M"),
        (999_960, "", "1.00 M"),
        (512, "", "512"),
        (1229, "bytes", "1.23 kB"),
        (0, "bytes", "0 B"),
        (96, "bytes", "96 B"),
        (1.42e9, "bytes", "1.42 GB"),
        (2310.4, "tokens/s", "2,310 tok/s"),
        (80.25, "tokens/s", "80.2 tok/s"),
        (3_456_789, "tokens/s", "3.46 M tok/s"),
        (0.25, "s", "250 ms"),
        (75.25, "s", "75.2 s"),
        (4850, "s", "81 min"),
        (36000, "s", "10.0 h"),
        (12.345, "ms", "12.3 ms"),
        (0.00001234, "", "1.2e−05"),
        (math.nan, "bytes", "–"),
    ],
)
def test_quantities(value, unit, text):
    assert words.quantity(value, unit).replace(words.NBSP, " ") == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.982, "98.2 %"), (0.61, "61 %"), (1.0, "100 %"), (0.99999, "99.9 %"), (1.00001, "100.1 %"), (-0.2, "−20 %")],
)
def test_percent_keeps_100_for_what_is_whole(share, text):
    assert words.percent(share).replace(words.NBSP, " ") == text


def test_scores_take_the_decimals_of_their_kind_or_of_their_column():
    assert words.score("bleu", 39.44) == "39.4"
    assert words.score("perplexity", 1234.5) == "1,234.50"
    assert words.score("accuracy", 0.8512) == "0.851"
    assert words.score("anything", -0.5, like=250.0, sign=True) == "−0.5"
    assert words.score("loss", math.inf) == "–"


def test_lists():
    assert [words.listed(list(parts)) for parts in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
