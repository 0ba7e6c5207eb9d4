"""Interleaved medians, on a clock that the test turns."""

from types import SimpleNamespace

import pytest

from bareformers.measure import speed


class Clock:
    """Time passes when a call takes it."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def perf_counter(self):
        return self.now

    def call(self, name, *seconds):
        left = iter(seconds)

        def take():
            self.order.append(name)
            self.now += next(left)

        return take


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made


def test_calls_take_turns_and_the_warmup_does_not_count(clock):
    calls = {"a": clock.call("a", 100, 1, 2, 3), "b": clock.call("b", 50, 7, 5, 6)}
    found = speed.interleaved(calls, rounds=3)
    assert clock.order == ["a", "b", "b", "a"] * 2  # there and back, so that none always comes behind the same
    assert found["a"] == speed.Timing(seconds=2, spread=1, rounds=3)
    assert found["b"] == speed.Timing(seconds=6, spread=1, rounds=3)


def test_one_slow_round_changes_little(clock):
    found = speed.interleaved({"a": clock.call("a", 1, 1, 99, 1, 1)}, rounds=5, warmup=0)
    assert found["a"] == speed.Timing(seconds=1, spread=0, rounds=5)


def test_one_round_has_no_spread(clock):
    assert speed.interleaved({"a": clock.call("a", 9, 9, 4)}, rounds=1, warmup=2)["a"] == speed.Timing(4, 0, 1)


def test_short_calls_are_repeated_and_slow_ones_spared(clock, monkeypatch):
    monkeypatch.setattr(speed, "SLICE", 1 / 64)
    calls = {
        "short": clock.call("short", 1 / 16, *[1 / 1024] * 81),
        "slow": clock.call("slow", *[1 / 2] * 3),
        "slower": clock.call("slower", 2.0),
    }
    found = speed.timed(calls, rounds=5, seconds=1.0)
    assert list(found) == list(calls)
    assert found["short"] == speed.Timing(1 / 1024, 0.0, 5) and clock.order.count("short") == 2 + 5 * 16
    assert found["slow"] == speed.Timing(1 / 2, 0.0, 2) and clock.order.count("slow") == 1 + 2
    assert found["slower"] == speed.Timing(2.0, 0.0, 1) and clock.order.count("slower") == 1
