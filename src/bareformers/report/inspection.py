"""One model looked into layer by layer, for reading: tables in the terminal, `inspect.json`, one HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bareformers.report import maps, palette, signal, words
from bareformers.report.html import template
from bareformers.report.result import write_whole

BEFORE, AFTER = "at initialisation", "as trained"

# What is said of what a layer reads, in the order of the columns.
READING = {
    "distinct": "on distinct",
    "even": "read evenly",
    "common": "on common",
    "own": "on its own place",
    "distinct_entropy": "entropy on distinct",
    "entropy": "entropy of a row",
}


@dataclass(frozen=True)
class Inspection:
    """What was found in a model, under `BEFORE` and `AFTER`; of a model that others trained there is only the latter.

    Attributes:
        target: what the user named.
        description: the model in words.
        notes: sentences about what it read and what could not be measured.
        signal: per stage the layers, as in a row of `signal.jsonl`.
        maps: per stage the arrays of a `maps.npz`.
        reading: per stage the layers with what they read; of language models of ours alone.
    """

    target: str
    description: str
    notes: list[str]
    signal: dict[str, list[dict[str, Any]]]
    maps: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    reading: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def tables(inspection: Inspection) -> list[Table]:
    """One table a stage, a row for each layer; then what maps read, where that is known."""
    found = []
    for stage, rows in numbers(inspection).items():
        table = Table(title=stage, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("layer", no_wrap=True)
        for key in signal.MEASURES:
            label = words.label(key)
            table.add_column(label, justify="right", min_width=max(map(len, label.split())))
        for name, cells in rows:
            table.add_row(name, *cells)
        found.append(table)
    for stage, rows in readings(inspection).items():
        table = Table(title=f"what maps read, {stage}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("layer", no_wrap=True)
        for label in READING.values():
            table.add_column(label, justify="right", min_width=max(map(len, label.split())))
        for name, cells in rows:
            table.add_row(name, *cells)
        found.append(table)
    return found


def numbers(inspection: Inspection) -> dict[str, list[tuple[str, list[str]]]]:
    """Per stage, each layer's name and its measures as they are written."""
    return {
        stage: [(_name(row), [_written(row.get(key)) for key in signal.MEASURES]) for row in layers]
        for stage, layers in inspection.signal.items()
    }


def readings(inspection: Inspection) -> dict[str, list[tuple[str, list[str]]]]:
    """Per stage, each layer's number and what it reads as it is written."""
    return {
        stage: [(str(row["layer"]), [_written(row.get(key)) for key in READING]) for row in layers]
        for stage, layers in inspection.reading.items()
    }


def _name(row: Mapping[str, Any]) -> str:
    layer = "embeddings" if row["layer"] == 0 else str(row["layer"])
    return f"{row['stack']} {layer}".strip()


def _written(value: float | None) -> str:
    return words.NOT_MEASURED if value is None else words.quantity(value)


def write(inspection: Inspection, folder: Path) -> Path:
    """Write `inspect.html` and `inspect.json` into `folder`; return the path of the page."""
    found: dict[str, Any] = {
        "target": inspection.target,
        "description": inspection.description,
        "notes": inspection.notes,
        "signal": inspection.signal,
    }
    if inspection.reading:
        found["reading"] = inspection.reading
    write_whole(folder / "inspect.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return write_whole(folder / "inspect.html", page(inspection))


def page(inspection: Inspection) -> str:
    """The inspection as one HTML document that names no other file or address."""
    model = signal.Depths(
        inspection.target,
        palette.Look("v1", "o"),
        before=inspection.signal.get(BEFORE, []),
        after=inspection.signal.get(AFTER, []),
    )
    return template("inspect.html.j2").render(
        inspection=inspection,
        theme=palette.stylesheet(),
        signal=signal.draw([model]),
        both=len(inspection.signal) > 1,
        columns=[words.label(key) for key in signal.MEASURES],
        numbers=numbers(inspection),
        kinds=list(READING.values()),
        readings=readings(inspection),
        maps=maps.draw(inspection.maps),
        marks=dict.fromkeys(inspection.maps, ""),
    )
