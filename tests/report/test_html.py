import base64
import json
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import made_up
import numpy as np
import pytest
from test_result import compare

from bareformers.errors import InputError
from bareformers.report import figures, labels, maps, palette, signal
from bareformers.report.html import build
from bareformers.report.result import Comparison

HOSTILE = "<script>alert('x')</script> \"&"


class Page(HTMLParser):
    """Tags, ids and addresses of a page, with a check that every element is closed."""

    VOID = {"meta", "br", "img", "link", "hr"}

    def __init__(self, path):
        super().__init__()
        self.tags, self.ids, self.addresses, self.open = [], [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.addresses += [value for name, value in attributes if name in ("href", "src", "xlink:href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(path):
    return Path(path).read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")


def test_report_shows_everything_and_needs_nothing(folder):
    page, text = Page(folder / "report.html"), text_of(folder / "report.html")
    for expected in (
        "Who needs dot-product attention?", "is level with dot_product", "All numbers", "What it costs",
        "Learning curves", "Signal through the layers", "Where each variant looks", "Klicken Sie auf den Pfeil",
        "61,204 pairs", "torch", "bareformers run recipes/who_needs_attention.yaml seeds=3", "num_attention_heads: 4",
        "nrefs:1",
    ):  # fmt: skip
        assert expected in text
    assert 'class="missing">No ' not in text
    assert "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_figures_do_not_share_ids(folder):
    page = Page(folder / "report.html")
    assert page.ids and len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_figures_take_the_colours_of_the_page(folder):
    scatter = figures.quality_against_cost(Comparison.load(folder / "result.json"))
    assert len(scatter) == 3
    for svg in scatter:
        assert "var(--v1)" in svg and "var(--ink)" in svg
        assert not re.search(r"#[0-9a-fA-F]{6}", svg) and "font-family" not in svg and "<metadata" not in svg


def test_report_is_small(folder):
    assert (folder / "report.html").stat().st_size < 600_000


def test_same_folder_same_bytes(folder):
    first = (folder / "report.html").read_bytes()
    assert build(folder).read_bytes() == first


def test_report_needs_no_torch(tmp_path):
    made_up.leave(tmp_path, made_up.comparison(seeds=1))
    source = Path(figures.__file__).parents[2]
    code = (
        "import sys; from bareformers.report.html import build; from bareformers.report.table import table\n"
        "assert 'matplotlib' not in sys.modules, 'imported before it is needed'\n"
        f"build({str(tmp_path)!r})\n"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(source)})


def test_hostile_text_is_only_text(tmp_path):
    made = made_up.comparison(
        title=HOSTILE, description=HOSTILE, command=HOSTILE, notes=[HOSTILE], environment={HOSTILE: HOSTILE},
        recipe={"x": HOSTILE},
    )  # fmt: skip
    made_up.leave(tmp_path, made)
    for variant in made.variants:
        variant.description = variant.signature = HOSTILE
        variant.status = HOSTILE
        variant.budget = {HOSTILE: HOSTILE}
    made.save(tmp_path / "result.json")
    sample = {"source": HOSTILE, "reference": "a b", "output": HOSTILE}
    (tmp_path / "gaussian/seed1/samples.json").write_text(json.dumps({"kind": "translation", "samples": [sample]}))
    tokens = np.array([HOSTILE[:11]] * 3)
    np.savez(
        tmp_path / "gaussian/seed1/maps.npz",
        **{"encoder/0": np.full((1, 3, 3), 1 / 3), "encoder/queries": tokens, "encoder/keys": tokens},
    )
    page = Page(build(tmp_path))
    assert "script" not in page.tags
    assert text_of(tmp_path / "report.html").count("&lt;script&gt;") > 8


def test_hostile_variant_names_are_only_text(tmp_path):
    made = compare({HOSTILE: [1.0, 2.0], "$b$ \\frac": [5.0, 5.1], "]]>": [0.1, 0.2]}, floors={"]]>"})
    for number, variant in enumerate(made.variants, start=1):
        variant.cost["parameters"] = made_up.Measure(value=1000 * number, better="lower")
    made.save(tmp_path / "result.json")
    assert "script" not in Page(build(tmp_path)).tags
    assert "$b$ \\frac</text>" in text_of(tmp_path / "report.html")


def test_missing_files_leave_a_sentence_each(tmp_path):
    made_up.comparison().save(tmp_path / "result.json")
    text = text_of(build(tmp_path))
    for sentence in ("No learning curves:", "No maps:", "No samples:"):
        assert sentence in text
    assert "Signal through the layers" not in text
    Page(tmp_path / "report.html")


def test_damaged_files_are_named(tmp_path):
    made_up.leave(tmp_path, made_up.comparison())
    (tmp_path / "gaussian/seed1/maps.npz").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "gaussian/seed2/maps.npz").write_bytes(b"no zip")
    (tmp_path / "gaussian/seed1/samples.json").write_text('{"samples": [{"source": 1}]}')
    with (tmp_path / "gaussian/seed3/metrics.jsonl").open("a") as file:
        file.write('{"step": 49')
    (tmp_path / "gaussian/seed1/signal.jsonl").write_text('{"step": 0, "layers": [{"rms": 1.0}]}')
    text = text_of(build(tmp_path))
    damaged = ("seed1/maps.npz", "seed2/maps.npz", "seed1/samples.json", "seed3/metrics.jsonl", "seed1/signal.jsonl")
    for name in damaged:
        assert f"gaussian/{name} was left out: " in text


def test_no_result_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="result.json"):
        build(tmp_path)


def test_one_seed_is_said_on_the_first_screen(tmp_path):
    made_up.comparison(seeds=1).save(tmp_path / "result.json")
    first_screen = text_of(build(tmp_path)).split("<h2>")[0]
    assert "One seed: differences are not tested against chance." in first_screen
    table = text_of(tmp_path / "report.html").split("<tbody>")[1]
    assert "untested" in table and not re.search(r'<small class="(level|better|worse)"', table)


def test_grey_within_the_spread_and_floors_marked(folder):
    text = text_of(folder / "report.html")
    row = re.search(r'<th scope="row">[^\n]*<b>dense_synthesizer</b>.*?</tr>', text, re.S)[0]
    assert '<small class="level">≈ −0.2</small>' in row
    assert row.count('class="better"') >= 3
    assert re.search(r"<b>average</b>\s*<span class=\"tag\">floor</span>", text)


def test_a_lonely_baseline_still_makes_a_report(tmp_path):
    compare({"dot": [1.0]}).save(tmp_path / "result.json")
    text = text_of(build(tmp_path))
    assert "Only dot was measured" in text and "No chart of quality against cost" in text


def test_a_diverged_variant_is_left_out_of_figures_and_named(tmp_path):
    made = made_up.comparison()
    made.variant("delta").quality["bleu"].value = float("nan")
    made.variant("delta").status = "diverged"
    made.save(tmp_path / "result.json")
    text = text_of(build(tmp_path))
    assert "has no BLEU (diverged)" in text and "delta did not finish" in text
    assert all("delta" not in svg for svg in figures.quality_against_cost(made))


def test_words_are_compared_with_the_reference(folder):
    text = text_of(folder / "report.html")
    assert "<mark>Menü</mark>" in text
    assert '<span class="gap" title="left out: in einem Bezug oder einer Matrix">[…]</span>' in text


@pytest.mark.parametrize(
    "kind, source, reference, said",
    [
        ("filling", "what is read", "what was there", "is a hidden token"),
        ("classification", "text", "class", "A wrong class is"),
    ],
)
def test_samples_of_other_tasks(tmp_path, kind, source, reference, said):
    made_up.leave(tmp_path, made_up.comparison(seeds=1))
    for variant in made_up.VARIANTS:
        output = "hill" if variant == "delta" else "sea"
        samples = {"kind": kind, "samples": [{"source": "the _", "reference": "sea", "output": output}]}
        (tmp_path / variant / "seed1" / "samples.json").write_text(json.dumps(samples))
    text = text_of(build(tmp_path)).split("<h2>Samples</h2>")[1]
    assert f"<dt>{source}</dt><dd>the _</dd>" in text and f'<dt>{reference}</dt><dd class="reference">sea</dd>' in text
    assert said in text and text.count("<mark>hill</mark>") == 1 and "<mark>sea</mark>" not in text


def test_scores_of_several_tasks_are_not_marked(tmp_path):
    made_up.leave(tmp_path, made_up.comparison(seeds=1))
    for variant in made_up.VARIANTS:
        told = [("alike: a", "3.800", "3.80", "regression"), ("same: b", "1", "0", "classification")]
        rows = [dict(zip(("source", "reference", "output", "kind"), row, strict=True)) for row in told]
        found = {"kind": "multi_task", "samples": rows}
        (tmp_path / variant / "seed1" / "samples.json").write_text(json.dumps(found))
    text = text_of(build(tmp_path)).split("<h2>Samples</h2>")[1]
    assert "A wrong class is" in text and "<mark>0</mark>" in text and "<mark>3.80</mark>" not in text


# Signal


def depths(**layers):
    """Models by name; of each the rows before and after."""
    look = palette.Look("v1", "o")
    return [signal.Depths(name, look, before, after) for name, (before, after) in layers.items()]


def layer(number, stack="", **measures):
    return {"stack": stack, "layer": number, **dict.fromkeys(signal.MEASURES), **measures}


def test_signal_has_a_panel_for_each_measure_and_stack(folder):
    text = text_of(folder / "report.html").split("<h2>Signal through the layers</h2>")[1].split("<h2>")[0]
    for title in ("row norm", "mean cosine", "effective rank", "attention entropy", "kurtosis", "gradient norm"):
        assert text.count(f"<b>{title}</b>") == 2, title
    assert "<h3>encoder</h3>" in text and "<h3>decoder</h3>" in text
    assert all(f"</svg>{name}</span>" in text for name in made_up.VARIANTS)


def test_signal_is_that_of_the_first_seed(tmp_path):
    made_up.leave(tmp_path, made_up.comparison())
    for run in tmp_path.glob("*/seed1/signal.jsonl"):
        run.unlink()
    assert "Signal through the layers" not in text_of(build(tmp_path))


def test_before_is_dashed_and_after_is_not():
    rows = [[layer(number, rms=height + number) for number in range(3)] for height in (1, 2)]
    (figure,) = signal.draw(depths(a=rows))
    (panel,) = figure.panels
    assert (figure.stack, panel.title) == ("", "row norm")
    assert panel.svg.count("stroke-dasharray") == 1 and "var(--v1)" in panel.svg
    assert "row norm by layer; at the last: a 4" in panel.svg
    (figure,) = signal.draw(depths(a=([], rows[1])))
    assert "stroke-dasharray" not in figure.panels[0].svg


def test_signal_that_is_no_number_is_left_out():
    rows = [layer(0, rms=1.0), layer(1, rms=None, cosine=None), layer(2, rms=3.0, kurtosis=float("nan"))]
    (figure,) = signal.draw(depths(a=([], rows), b=([], [])))
    assert [panel.title for panel in figure.panels] == ["row norm"]
    assert signal.draw([]) == [] and signal.draw(depths(a=([], []))) == []


def test_a_measure_over_many_magnitudes_has_a_logarithmic_axis():
    rows = [layer(number, gradient_norm=10.0**-number) for number in range(6)]
    (figure,) = signal.draw(depths(a=([], rows)))
    for text in (">1<", ">0.001<", ">1e\N{MINUS SIGN}05<"):
        assert text in figure.panels[0].svg


# Figures


def labels_of(svg):
    """Texts of a scatter with their boxes: letters are taken as 0.55 em wide."""
    found = re.findall(r'<text style="font-size: 12px[^"]*" x="([^"]*)" y="([^"]*)"[^>]*>([^<]*)</text>', svg)
    return [(text, float(x), float(y) - 9, float(x) + 0.55 * 12 * len(text), float(y) + 2) for x, y, text in found]


@pytest.mark.parametrize("closeness", [0.0, 0.02, 0.3, 3.0])
def test_labels_in_a_crowd_do_not_overlap(closeness):
    random = np.random.default_rng(0)
    names = ["dot_product", *(f"variant_number_{number}" for number in range(8))]
    made = compare({name: [40 + closeness * random.normal()] for name in names})
    for variant in made.variants:
        speed = 1000 * (1 + closeness / 10 * random.normal())
        variant.speed["train_tokens_per_second"] = made_up.Measure(value=speed, unit="tokens/s", better="higher")
    (svg,) = figures.quality_against_cost(made)
    found = [box for box in labels_of(svg) if box[0].split(" ")[0] in names]
    assert len(found) == len(names)
    for index, (_, left, top, right, bottom) in enumerate(found):
        assert left >= 0 and right <= 400 and top >= 0 and bottom <= 330
        for _, other_left, other_top, other_right, other_bottom in found[index + 1 :]:
            apart = right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top
            assert apart


def test_floors_stand_under_a_break_only_where_they_squeeze_the_rest():
    far = compare({"dot": [40.0], "b": [39.0], "avg": [20.0]}, floors={"avg"})
    assert [variant.name for variant in figures.far_floors(far)] == ["avg"]
    near = compare({"dot": [40.0], "b": [39.0], "avg": [38.0]}, floors={"avg"})
    assert figures.far_floors(near) == []
    lower = compare({"dot": [4.0], "b": [4.2], "avg": [20.0]}, "loss", "lower", floors={"avg"})
    assert [variant.name for variant in figures.far_floors(lower)] == ["avg"]


@pytest.mark.parametrize("heights", [[1.0, 1.0, 1.0], [0.0, 5.0, 5.5, 30.0], [98.0, 99.0, 100.0], [0.0, 0.1, 0.2]])
def test_spread_out_keeps_gap_order_and_frame(heights):
    moved = labels.spread_out(heights, 10.0, 0.0, 100.0)
    assert all(after - before >= 10 - 1e-9 for before, after in zip(moved, moved[1:], strict=False))
    assert moved[0] >= 0 and moved[-1] <= 100


def test_a_map_is_drawn_pixel_by_pixel():
    weights = np.array([[[1.0, 0.0, -0.25]]])
    (figure,) = maps.draw({"a": {"decoder/0": weights}})
    data = base64.b64decode(re.search(r"base64,([^\"]+)", figure.layers[0].cells[0])[1])
    start = data.index(b"IDAT") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    assert list(zlib.decompress(data[start : start + size])) == [0, 31, 0, 16 + 32]


def pixels_of(cell):
    """The bytes of the first map in a cell, the filter of each row before its pixels."""
    data = base64.b64decode(re.search(r"base64,([^\"]+)", cell)[1])
    start = data.index(b"IDAT") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    return list(zlib.decompress(data[start : start + size]))


def test_a_jacobian_is_drawn_as_shares_of_its_rows_and_says_so():
    norms = {"decoder/0": np.array([[[6.0, 2.0], [0.0, 0.0]]]), "decoder/0/kind": np.array("jacobian")}
    (figure,) = maps.draw({"a": norms, "b": {"decoder/0": np.full((1, 2, 2), 0.25)}})
    assert pixels_of(figure.layers[0].cells[0]) == [0, 27, 16, 0, 0, 0]
    assert figure.has_jacobian
    for ours, theirs in (figure.means, figure.layers[0].cells):
        assert "Jacobian norm" in ours and "Jacobian norm" not in theirs
    assert not maps.draw({"b": {"decoder/0": np.full((1, 2, 2), 0.25)}})[0].has_jacobian


def test_a_layer_without_a_map_says_why():
    noted = {"decoder/1/note": np.array("too <wide>"), "decoder/keys": np.array(["x"])}
    (figure,) = maps.draw({"a": noted, "b": {"decoder/0": np.full((1, 2, 2), 0.5)}})
    assert [row.title for row in figure.layers] == ["layer 0", "layer 1"] and figure.means[0] is None
    assert figure.layers[1].cells == ['<span class="missing">too &lt;wide&gt;</span>', None]
    (alone,) = maps.draw({"a": noted})
    assert alone.means == [None] and len(alone.layers) == 1


def test_the_report_explains_jacobians_where_there_are_some(folder, tmp_path):
    assert "Jacobian" not in text_of(folder / "report.html")
    made_up.leave(tmp_path, made_up.comparison(seeds=1))
    arrays = {"encoder/0": np.ones((1, 3, 3)), "encoder/0/kind": np.array("jacobian")}
    tokens = {"encoder/queries": np.array(["a", "b", "c"]), "encoder/keys": np.array(["a", "b", "c"])}
    np.savez_compressed(tmp_path / "delta" / "seed1" / "maps.npz", **arrays, **tokens)
    text = text_of(build(tmp_path))
    assert "<b>Jacobian norm</b>" in text and '<small class="missing">Jacobian norm</small>' in text
    Page(tmp_path / "report.html")


def test_variants_without_a_map_of_a_role_keep_their_place():
    square = np.full((2, 4, 4), 0.25)
    found = maps.draw({"a": {"encoder/0": square, "cross/0": square}, "b": {"encoder/0": square}, "c": {}})
    assert [(figure.role, figure.variants) for figure in found] == [("encoder", ["a", "b"]), ("cross", ["a", "b"])]
    assert found[1].means[1] is None and found[1].layers[0].cells[1] is None


def test_curves_left_out_where_there_is_nothing_to_draw():
    made = made_up.comparison()
    assert figures.curves(made, {}) == []
    assert figures.curves(made, {"gaussian": [[{"step": 1, "tokens": 1, "seconds": 1, "validation_loss": 2.0}]]}) == []
    rows = [{"step": step, "tokens": step, "validation_loss": 2.0} for step in (1, 2, 3)]
    assert len(figures.curves(made, {"gaussian": [rows]})) == 1


def test_cost_against_length_is_drawn_and_kept_out_of_the_table(tmp_path):
    made = made_up.with_lengths(made_up.comparison())
    first, second = figures.against_length(made)
    assert (first.title, second.title) == ("decoding state", "time of a forward pass")
    assert first.crossovers == ["gaussian, dense_synthesizer, delta and average at every length measured"]
    made.save(tmp_path / "result.json")
    text = text_of(build(tmp_path))
    assert "Against length" in text and "@1024" not in text
    assert figures.against_length(made_up.comparison()) == []


def test_of_many_large_maps_only_some_layers_are_drawn():
    random = np.random.default_rng(0)
    arrays = {f"decoder/{layer}": random.random((16, 80, 80), dtype=np.float32) for layer in range(20)}
    (figure,) = maps.draw({"a": arrays, "b": arrays})
    assert [figure.layers[0].title, figure.layers[-1].title] == ["layer 0", "layer 19"]
    assert figure.omitted == 20 - len(figure.layers) > 0
    assert sum(len(cell or "") for row in figure.layers for cell in row.cells) < 1_500_000
