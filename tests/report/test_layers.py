"""Which layers can go: the schema, what is concluded from it, and how the report shows it."""

import re

import made_up
import pytest
from pydantic import ValidationError
from test_html import Page, text_of
from test_result import compare

from bareformers.errors import InputError
from bareformers.report import layers, palette
from bareformers.report.html import build
from bareformers.report.layers import LayerStudy, Replaced
from bareformers.report.result import Measure

STUDENTS = ("alr_xs", "alr_m", "aslr_s", "gaussian", "average")
DEPTH = {"encoder": 6, "decoder": 6, "cross": 6}


def bleu(value, spread=None, seeds=1):
    return {"bleu": Measure(value=value, better="higher", spread=spread, seeds=seeds)}


def row(student, role, order, numbers, value, **more):
    return Replaced(student=student, role=role, order=order, layers=list(numbers), quality=bleu(value, **more))


def study(rows, depth=None, teacher=40.0):
    return LayerStudy(
        headline="bleu",
        settings="Greedy translations of 300 sentences.",
        teacher=bleu(teacher),
        depth=depth or {"encoder": 3},
        rows=rows,
    )


def made_up_study():
    """Encoder layers matter little but the first; the decoder's more; cross-attention can not go."""
    rows = []
    for number, student in enumerate(STUDENTS):
        for role, harm in (("encoder", 0.18), ("decoder", 0.5), ("cross", 6.0)):
            if role == "decoder" and student in ("alr_xs", "gaussian"):
                continue
            costs = [harm * (0.2 + 0.9 * number) * (2.5 if layer == 0 else (layer % 3) / 2) for layer in range(6)]
            for layer in range(6):
                rows.append(row(student, role, "alone", [layer], 40.2 - costs[layer], spread=0.3, seeds=3))
                for order, gone in (("bottom", range(layer + 1)), ("top", range(layer, 6))):
                    left = max(0.4, 40.2 - 1.3 * sum(costs[each] for each in gone))
                    rows.append(row(student, role, order, gone, left, spread=0.4, seeds=3))
            rows.append(row(student, role, "all", range(6), left, spread=0.4, seeds=3))
        rows.append(row(student, "all", "all", range(6), 30.0 / (1 + number)))
    return study(rows, DEPTH, teacher=40.1)


def comparison():
    names = ("teacher", *STUDENTS)
    return compare({name: [40.1 - 2 * index] for index, name in enumerate(names)}, floors={"average"})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    comparison().save(folder / "result.json")
    made_up_study().save(folder / "layers.json")
    return build(folder)


def looks(*students):
    return {student: palette.Look(f"v{number}", "o") for number, student in enumerate(students, start=1)}


def only(rows, *students, **more):
    (role,) = layers.draw(study(rows, **more), looks(*(students or ("a",)))).roles
    return role


# The file


def test_what_is_saved_loads_the_same(tmp_path):
    made = made_up_study()
    assert LayerStudy.load(made.save(tmp_path / "layers.json")) == made


@pytest.mark.parametrize(
    "rows, words",
    [
        ([row("a", "encoder", "alone", [3], 1.0)], r"a replaces layers \[3\] of 3 in the role 'encoder'"),
        ([row("a", "encoder", "alone", [-1], 1.0)], r"layers \[-1\] of 3"),
        ([row("a", "encoder", "alone", [], 1.0)], r"layers \[\] of 3"),
        ([row("a", "all", "all", range(4), 1.0)], r"of 3 in the role 'all'"),
        ([row("a", "cross", "alone", [0], 1.0)], "role 'cross', whose depth is not given"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows, words):
    with pytest.raises(ValidationError, match=words):
        study(rows)


def test_the_headline_is_one_of_the_teacher():
    with pytest.raises(ValidationError, match="'chrf' was not measured of the teacher"):
        LayerStudy(headline="chrf", settings="", teacher=bleu(1.0), depth={}, rows=[])


def test_a_damaged_file_is_named_in_one_sentence(tmp_path):
    path = tmp_path / "layers.json"
    path.write_text('{"headline": "bleu"')
    with pytest.raises(
        InputError, match=r"layers.json is not a LayerStudy of this version of bareformers: Invalid JSON"
    ):
        LayerStudy.load(path)


# What is concluded


def test_layers_that_can_go_are_named():
    rows = [row("a", "encoder", "alone", [layer], value) for layer, value in enumerate((39.7, 39.5, 41.0))]
    assert only(rows).sentence == "alone layers 0 and 2 (a)"
    rows += [row("b", "encoder", "alone", [layer], 39.7) for layer in range(2)]
    assert only(rows, "a", "b").sentence == "alone layers 0 and 2 (a)"
    rows += [row("b", "encoder", "alone", [2], 39.7)]
    assert only(rows, "a", "b").sentence == "alone any layer (b)"
    assert only(rows[1:2]).sentence == "alone none"


def test_cumulative_layers_count_until_quality_falls_for_the_first_time():
    rows = [row("a", "encoder", "bottom", range(count), value) for count, value in ((1, 39.9), (2, 30.0), (3, 39.9))]
    rows += [row("b", "encoder", "bottom", range(count), 39.7) for count in (1, 2, 3)]
    assert only(rows[:3]).sentence == "from the bottom the lowest 1 (a)"
    assert only(rows, "a", "b").sentence == "from the bottom all (b)"
    rows = [row("a", "encoder", "top", range(3 - count, 3), 20.0) for count in (1, 2, 3)]
    assert only(rows).sentence == "from the top none"


def test_all_at_once_alone_is_a_sentence_too():
    rows = [row(student, "encoder", "all", range(3), value) for student, value in (("a", 39.8), ("b", 1.0))]
    assert only(rows, "a", "b").sentence == "all layers at once (a)" and not only(rows, "a", "b").panels
    assert only(rows[1:], "b").sentence == "not all layers at once"
    assert only([row("a", "encoder", "all", range(3), float("nan"))]).sentence == "not measured"


def test_what_one_seed_says_is_untested():
    single, several = row("a", "encoder", "all", range(3), 39.8), row("a", "encoder", "all", range(3), 39.8, seeds=3)
    assert not only([single]).tested and only([several]).tested


def test_stacks_of_unequal_depth_are_replaced_at_once():
    rows = [row("a", "decoder", "all", range(2), 38.0), row("a", "all", "all", range(3), 30.0)]
    found = layers.draw(study(rows, depth={"encoder": 3, "decoder": 2}), looks("a")).roles
    assert [[cell.number for _, cells in role.rows for cell in cells] for role in found] == [["38.0"], ["30.0"]]
    found = layers.draw(study(rows[1:], depth={"encoder": 4, "decoder": 2}), looks("a")).roles
    assert [[cell.number for _, cells in role.rows for cell in cells] for role in found] == [["30.0"]]


def test_a_loss_is_better_when_lower():
    def made(value):
        return {"loss": Measure(value=value, better="lower")}

    rows = [
        Replaced(student="a", role="encoder", order="alone", layers=[layer], quality=made(value))
        for layer, value in ((0, 1.9), (1, 2.01), (2, 2.4))
    ]
    found = LayerStudy(headline="loss", settings="", teacher=made(2.0), depth={"encoder": 3}, rows=rows)
    (role,) = layers.draw(found, looks("a")).roles
    assert role.sentence == "alone layers 0 and 1 (a)" and "axis upside down" in role.panels[0].svg
    ((_, cells),) = role.rows
    assert [cell.shade for cell in cells] == [None, None, 100, 0]


def test_cells_say_how_much_is_lost_and_whether_seeds_say_so_too():
    rows = [
        row("a", "encoder", "alone", [0], 39.9, spread=0.5, seeds=3),
        row("a", "encoder", "alone", [1], 38.0, spread=0.5, seeds=3),
        row("a", "encoder", "alone", [2], 38.0),
        row("a", "encoder", "all", range(3), 10.0),
    ]
    ((student, cells),) = only(rows).rows
    assert student == "a"
    assert [(cell.number, cell.difference, cell.kind, cell.shade) for cell in cells] == [
        ("39.9", "≈ −0.1", "level", None),
        ("38.0", "−2.0", "worse", 50),
        ("38.0", "−2.0", "untested", 50),
        ("10.0", "−30.0", "untested", 100),
    ]


def test_what_is_missing_or_no_number_is_a_dash():
    rows = [
        row("a", "encoder", "alone", [0], float("nan")),
        row("a", "encoder", "alone", [1], 39.0),
        row("b", "encoder", "alone", [2], 39.0),
        Replaced(student="b", role="encoder", order="all", layers=[0, 1, 2], quality={}),
    ]
    found = only(rows, "a", "b")
    assert found.layers == [1, 2]
    assert [[cell.number for cell in cells] for _, cells in found.rows] == [["39.0", "–", "–"], ["–", "39.0", "–"]]


def test_with_nothing_to_show_there_is_no_section(tmp_path):
    rows = [row("a", "encoder", "alone", [0], 1.0)]
    assert layers.draw(None, looks("a")) is None
    assert layers.draw(study([]), looks("a")) is None
    assert layers.draw(study(rows, teacher=float("nan")), looks("a")) is None
    assert layers.draw(study(rows), looks("b")) is None, "a student that was not compared"
    compare({"dot": [1.0]}).save(tmp_path / "result.json")
    assert "Which layers can go?" not in text_of(build(tmp_path))


# How it looks


def test_the_report_has_a_figure_and_a_table_for_each_role(report):
    page, text = Page(report), text_of(report)
    assert len(page.ids) == len(set(page.ids))
    section = text.split("<h2>Which layers can go?</h2>")[1].split("<h2>")[0]
    assert "Greedy translations of 300 sentences." in section
    for title in ("Encoder", "Decoder", "Cross", "All roles of a student at once"):
        assert f"<h3>{title}</h3>" in section
    assert section.count('<svg class="figure"') == 9 and section.count("<table") == 4
    encoder, decoder = (section.split(f"<h3>{title}</h3>")[1].split("<h3>")[0] for title in ("Encoder", "Decoder"))
    assert encoder.count('<th scope="row">') == 1 + len(STUDENTS) and decoder.count('<th scope="row">') == 4
    assert 'class="can-go"' in encoder and re.search(r'style="--lost: \d+"', encoder)
    assert "1 % of the teacher's BLEU" in section and not re.search("#[0-9a-f]{6}", encoder)


def test_lines_start_at_the_teacher_and_alone_ones_do_not():
    rows = [row("a", "encoder", order, [0], 38.0) for order in ("alone", "bottom")]
    alone, bottom = only(rows).panels
    assert (alone.title, bottom.title) == ("alone", "from the bottom")
    line = re.compile(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--v1\); stroke-width: (?:0.8|1.8)')
    assert [line.search(panel.svg)[1].count("L") for panel in (alone, bottom)] == [0, 1]
    assert "the teacher has 40.0; at the last: a 38.0" in bottom.svg


def test_a_damaged_study_leaves_the_report_whole(tmp_path):
    made_up.leave(tmp_path, made_up.comparison(seeds=1))
    for content in (b"", b"{", b"\xff", b'{"rows": []}', b"[1]"):
        (tmp_path / "layers.json").write_bytes(content)
        text = text_of(build(tmp_path))
        assert "Which layers can go?" not in text and text.count("layers.json was left out: ") == 1
    (tmp_path / "layers.json").unlink()
    (tmp_path / "layers.json").mkdir()
    assert text_of(build(tmp_path)).count("layers.json was left out: cannot read it: Is a directory.") == 1


def test_hostile_names_are_only_text(tmp_path):
    name = "<script>$x$ & \"'"
    compare({"dot": [40.0], name: [39.0]}).save(tmp_path / "result.json")
    made = study([row(name, "encoder", "bottom", [0], 39.0)])
    made.settings = name
    made.save(tmp_path / "layers.json")
    assert "script" not in Page(build(tmp_path)).tags
