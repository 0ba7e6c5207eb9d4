import io
import json
import os
import subprocess
import sys
from pathlib import Path

import made_up
import pytest
from rich.console import Console
from test_html import HOSTILE, Page, text_of

from bareformers.report import inspection
from bareformers.report.inspection import AFTER, BEFORE, Inspection


def inspected(**changes):
    first, *_, last = made_up.signal("gaussian")
    given = {
        "target": "runs/quickstart/gaussian/seed0",
        "description": "gaussian in pre_ln; 1,234 parameters",
        "notes": ["The signal is that of 1,024 tokens in 8 rows of the validation side."],
        "signal": {BEFORE: first["layers"], AFTER: last["layers"]},
        "maps": {BEFORE: made_up.maps("average"), AFTER: made_up.maps("gaussian")},
    }
    return Inspection(**{**given, **changes})


def printed(tables):
    console = Console(width=160, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def test_a_table_a_stage_and_a_row_a_layer():
    text = printed(inspection.tables(inspected()))
    assert text.index(BEFORE) < text.index(AFTER)
    assert text.count("encoder embeddings") == text.count("decoder 3") == 2
    for title in ("row norm", "mean cosine", "effective rank", "attention entropy", "kurtosis", "gradient norm"):
        assert text.count(title) == 2
    (row,) = {line for line in text.splitlines() if "encoder embeddings" in line and "5.88" in line}
    assert "–" in row and "0.01" in row, "embeddings have no map, and so no entropy"


def test_what_is_written(tmp_path):
    made = inspected()
    assert inspection.write(made, tmp_path / "deep") == tmp_path / "deep" / "inspect.html"
    assert json.loads((tmp_path / "deep" / "inspect.json").read_text(encoding="utf-8"))["signal"] == made.signal
    page, text = Page(tmp_path / "deep" / "inspect.html"), text_of(tmp_path / "deep" / "inspect.html")
    assert "script" not in page.tags and len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    for said in (made.target, made.description, made.notes[0], "dashed at initialisation", "Roy and Vetterli"):
        assert said in text
    assert '<th scope="col">at initialisation</th>' in text and '<th scope="col">as trained</th>' in text
    assert '<th scope="row">decoder 3</th>' in text and 'class="missing">No ' not in text


def test_what_kind_of_token_is_read(tmp_path):
    layer = {"layer": 1, "entropy": 2.5, "distinct_entropy": None, "distinct": 0.25, "common": 0.5, "own": 0.25}
    made = inspected(reading={BEFORE: [{**layer, "even": 0.125}], AFTER: [{**layer, "even": 0.777}]})
    text = printed(inspection.tables(made))
    assert text.index(f"what maps read, {BEFORE}") < text.index(f"what maps read, {AFTER}")
    (row,) = {line for line in text.splitlines() if "0.777" in line}
    assert [float(cell) for cell in row.split() if cell != "–"] == [1, 0.25, 0.777, 0.5, 0.25, 2.5] and "–" in row
    inspection.write(made, tmp_path)
    page = text_of(tmp_path / "inspect.html")
    assert "What kind of token is read" in page and "on its own place" in page
    assert json.loads((tmp_path / "inspect.json").read_text(encoding="utf-8"))["reading"] == made.reading
    inspection.write(inspected(), tmp_path)
    assert "What kind of token" not in text_of(tmp_path / "inspect.html")


def test_a_model_of_somebody_else_has_one_stage(tmp_path):
    layers = [{**row, "stack": ""} for row in made_up.signal("average")[-1]["layers"] if row["stack"] == "decoder"]
    made = inspected(signal={AFTER: layers}, maps={AFTER: {}})
    text = text_of(inspection.write(made, tmp_path))
    assert "dashed" not in text and "stroke-dasharray" not in text and BEFORE not in text
    assert "No maps: the model gives none." in text and '<th scope="row">embeddings</th>' in text
    assert len(inspection.tables(made)) == 1


def test_nothing_to_show(tmp_path):
    text = text_of(inspection.write(inspected(signal={}, maps={}), tmp_path))
    assert "No signal: the model gives no hidden states." in text


def test_hostile_text_is_only_text(tmp_path):
    path = inspection.write(inspected(target=HOSTILE, description=HOSTILE, notes=[HOSTILE]), tmp_path)
    assert "script" not in Page(path).tags


@pytest.mark.parametrize("module", ["bareformers.report.inspection", "bareformers.report.signal"])
def test_it_needs_no_torch(module):
    code = f"import sys, {module}\nassert not {{'torch', 'transformers', 'matplotlib'}} & set(sys.modules)"
    source = Path(inspection.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(source)})
