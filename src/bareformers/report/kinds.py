"""How each kind of finding is shown: by tables and a sentence in the terminal, and by a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bareformers.report import benchmark, html, matrix, scale, scan_and_snap, table, verdict


@dataclass(frozen=True)
class Shown:
    """How one kind is shown.

    Attributes:
        tables: for the terminal.
        said: what they say, in a sentence or two; empty where they speak for themselves.
        build: writes the page of a folder from its `result.json`, and returns its path.
    """

    tables: Callable[[Any], list[Table]]
    said: Callable[[Any], str]
    build: Callable[[Path], Path]


SHOWN = {
    "": Shown(lambda found: [table.table(found)], verdict.verdict, html.build),
    "benchmark": Shown(benchmark.tables, lambda found: "", benchmark.build),
    "scan_and_snap": Shown(lambda found: [scan_and_snap.table(found)], scan_and_snap.verdict, scan_and_snap.build),
    "sweep": Shown(lambda found: [scale.table(found)], scale.verdict, scale.build),
    "matrix": Shown(lambda found: [matrix.table(found)], matrix.verdict, matrix.build),
}
"""By the `kind` in `result.json`; a comparison says none."""


def shown(found: Any) -> Shown:
    """How what was found is shown."""
    return SHOWN[getattr(found, "kind", "")]
