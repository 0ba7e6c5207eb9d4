"""Laws are found where there is one, with how sure they are, and not where there is none."""

import math

import numpy as np
import pytest

from bareformers.report.power_law import Law, fit
from bareformers.report.scale import Point, Scale, caveats, fits, page, table, verdict, write_csv, written
from tests.reference import power_laws

SIZES = (1e4, 3e4, 1e5, 3e5, 1e6, 3e6)
TOKENS = (1e5, 3e5, 1e6, 4e6)
CHINCHILLA = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}  # of Hoffmann et al., equation 10


def noisy(values, deviation, seeds=1, seed=0):
    random = np.random.default_rng(seed)
    return [[float(value * math.exp(deviation * random.standard_normal())) for _ in range(seeds)] for value in values]


def test_laws_are_those_of_the_papers():
    law = Law(form="joint", values=CHINCHILLA, explained=1, error=0)
    assert law.loss(7e7, 3e9) == pytest.approx(power_laws.hoffmann(7e7, 3e9, **CHINCHILLA))
    law = Law(form="floored", values={"E": 1.5, "A": 2e4**0.4, "alpha": 0.4}, explained=1, error=0)
    assert law.loss(5e5) == pytest.approx(1.5 + power_laws.kaplan(5e5, 2e4, 0.4))
    law = Law(form="power", values={"B": 5.4e13**0.095, "beta": 0.095}, explained=1, error=0)
    assert law.loss(tokens=1e9) == pytest.approx(power_laws.kaplan(1e9, 5.4e13, 0.095))
    assert written(law) == "(54.0\N{NO-BREAK SPACE}T / D)^0.095"


def test_a_pure_power_law_is_found():
    losses = [[power_laws.kaplan(size, 8.8e13, 0.076)] for size in SIZES[:3]]
    law = fit(losses, parameters=SIZES[:3], form="power")
    assert law.values["alpha"] == pytest.approx(0.076) and law.values["A"] == pytest.approx(8.8e13**0.076)
    assert law.holds and law.explained == pytest.approx(1) and law.error < 1e-9


def test_an_irreducible_loss_is_found():
    losses = noisy([1.7 + power_laws.kaplan(size, 2e4, 0.4) for size in SIZES], 0.002, seeds=3)
    law = fit(losses, parameters=SIZES, form="floored")
    for name, value in {"alpha": 0.4, "E": 1.7}.items():
        low, high = law.intervals[name]
        assert low < value < high and low < law.values[name] < high and high - low < 0.1
    assert law.holds


def test_a_joint_law_is_found():
    grid = [(size, count) for size in SIZES[:4] for count in TOKENS]
    sizes, tokens = zip(*grid, strict=True)
    exact = [power_laws.hoffmann(*place, **CHINCHILLA) for place in grid]
    law = fit([[loss] for loss in exact], parameters=sizes, tokens=tokens, form="joint")
    assert law.values == pytest.approx(CHINCHILLA, rel=1e-4)
    law = fit(noisy(exact, 0.003), parameters=sizes, tokens=tokens, form="joint")
    for name in ("alpha", "beta"):
        low, high = law.intervals[name]
        assert low < CHINCHILLA[name] < high and high - low < 0.2


def test_one_point_far_off_changes_little():
    losses = [[power_laws.kaplan(size, 8.8e13, 0.076)] for size in SIZES]
    losses[2] = [1.3 * losses[2][0]]
    assert fit(losses, parameters=SIZES, form="power").values["alpha"] == pytest.approx(0.076, abs=1e-4)


def test_points_on_no_law():
    law = fit([[2.0], [2.5], [1.9], [2.4], [2.1], [2.3]], parameters=SIZES, form="floored")
    assert not law.holds and law.explained < 0.5
    rising = fit([[1.0], [1.1], [1.2]], parameters=SIZES[:3], form="power")
    assert rising.values["alpha"] == pytest.approx(0, abs=1e-3) and not rising.holds


def test_how_sure_two_points_are_follows_from_their_seeds():
    one = fit([[3.0], [2.5]], parameters=SIZES[:2], form="power")
    assert one.intervals == {} and one.error < 1e-6
    three = fit([[3.0, 3.1, 2.9], [2.5, 2.6, 2.4]], parameters=SIZES[:2], form="power")
    low, high = three.intervals["alpha"]
    assert low < three.values["alpha"] < high and high - low > 0.02


# Of the points of a sweep


def points(variant, law, sizes=SIZES, tokens=(1e6,), deviation=0.002, seeds=2, **more):
    """Points of one variant that lie on a law of parameters and tokens."""
    found = []
    for size in sizes:
        for count in tokens:
            losses = noisy([law(size, count)], deviation, seeds, seed=len(found) + len(variant))[0]
            found.append(
                Point(
                    name=f"hidden_size={size:g},tokens={count:g}",
                    variant=variant,
                    values={"hidden_size": size, "tokens": count},
                    loss={"value": sum(losses) / len(losses), "seeds": seeds},
                    losses=losses,
                    parameters=size,
                    tokens=count,
                    epochs=0.5,
                    seconds=count * size / 1e9,
                    multiply_adds=10 * size,
                    **more,
                )
            )
    return found


def scale(*groups):
    found = [point for group in groups for point in group]
    return Scale(
        name="made up", created="2026-11-23T00:00:00+00:00", command="bareformers run", baseline=found[0].variant,
        sweep={"hidden_size": [], "tokens": []}, unit="nats/token", counts_distinct=False, points=found,
        fits=fits(found, counts_distinct=False), recipe={"name": "made up"}, environment={"processor": "made up"},
    )  # fmt: skip


def above(exponent, share=1.5):
    return lambda size, count: share + (3e4 / size) ** exponent


def test_what_differs_beyond_what_is_unsure_is_said(tmp_path):
    """The same exponent with other noise is level, a larger one is not; points on no law are no claim."""
    random = np.random.default_rng(0)
    found = scale(
        points("attention", above(0.4)),
        points("twin", above(0.4)),
        points("steep", above(0.8)),
        points("noise", lambda size, count: 2 + 0.5 * random.random(), floor=True),
    )
    assert [fit.law.form for fit in found.fits] == ["floored"] * 4
    said = verdict(found)
    assert "The loss of attention falls with parameters with exponent 0.39" in said
    assert "it cannot be told apart for twin; the exponent is larger for steep; no law can be told for noise." in said
    assert found.fits[3].remark == "the loss does not fall with parameters"
    html = page(found)
    assert said in html and html.count('<svg class="figure"') == 2 and "α" in html and "://" not in html
    assert len(table(found).columns) == 5 and not list(caveats(found))
    assert write_csv(found, tmp_path / "results.csv").read_text("utf-8").count("\n") == 25


def test_both_grow():
    law = lambda size, count: power_laws.hoffmann(size, count, **CHINCHILLA)  # noqa: E731
    found = scale(points("attention", law, SIZES[:4], TOKENS, 0.001), points("few", law, SIZES[:2], TOKENS[:2], 0.001))
    forms = [(fit.variant, fit.axes, fit.points, fit.law.form, fit.held) for fit in found.fits]
    assert forms == [
        ("attention", ["parameters", "tokens"], 16, "joint", ""),
        ("few", ["parameters"], 2, "power", "at the most data"),
        ("few", ["tokens"], 2, "power", "at the largest size"),
    ]
    assert "2 points are too few for an irreducible loss, so this is a pure power law" in found.fits[1].remark
    said = verdict(found)
    assert said.count("another form of law fits few") == 2 and "falls with training tokens with exponent" in said
    assert page(found).count('<svg class="figure"') == 3


def test_a_flat_loss_is_written():
    """What does not fall with size is said, with a law of data where that grows too, however flat it is."""
    law = Law(form="power", values={"A": 5.5 * 1e5**0.0015, "alpha": 0.0015}, explained=1.0, error=0.0)
    assert "N^0.0015" in written(law)
    flat = scale(points("floor", lambda size, count: 1.7 + (2e4 / count) ** 0.4, SIZES[:4], TOKENS, 0.002))
    assert [fit.axes for fit in flat.fits] == [["parameters"], ["tokens"]]
    assert flat.fits[1].law.falls and "falls with training tokens (at the largest size)" in verdict(flat)


def test_a_point_of_which_a_seed_diverged_is_left_out():
    whole = points("x", above(0.4), SIZES[:4])
    found = scale([*whole[:3], whole[3].model_copy(update={"status": "diverged"})])
    assert found.fits[0].points == 3 and any("did not end in numbers" in said for said in caveats(found))


def test_one_point_and_points_without_numbers():
    lost = Point(name="b", variant="x", values={"hidden_size": 2}, status="diverged", parameters=9, tokens=9)
    found = scale([*points("x", above(0.4), SIZES[:1]), lost])
    assert [(fit.law, fit.remark) for fit in found.fits] == [(None, "one point lies on every law, so none is fitted")]
    assert verdict(found) == "Nothing grew at more than one point, so there is no law to tell."
    assert "Left out of the laws, since it did not end in numbers: x at b." in page(found)


def test_text_that_is_read_again_is_said():
    found = points("x", above(0.4), SIZES[:2], seeds=1)
    found[0] = found[0].model_copy(update={"epochs": 3.0})
    assert [sentence.partition(" ")[0] for sentence in caveats(scale(found))] == ["Some", "There"]
    assert (found[0].distinct, found[1].distinct) == (1e6 / 3, 1e6)


def test_an_exponent_without_an_end_is_not_told():
    law = Law(form="power", values={"A": 1.0, "alpha": 5.0}, intervals={"alpha": (0.03, 5.0)}, explained=1.0, error=0.0)
    assert not law.tells("alpha") and law.model_copy(update={"intervals": {"alpha": (0.2, 0.4)}}).tells("alpha")
    assert not law.model_copy(update={"intervals": {"alpha": (0.0, 0.4)}}).tells("alpha")
