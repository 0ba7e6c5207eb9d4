"""Where a benchmark leaves its figures: one JSON file, with the machine, the versions and the date beside them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bareformers.measure import environment
from bareformers.report.result import write_whole


def save(path: Path, benchmark: str, settings: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write the figures of `benchmark` (each with its unit) and what they were measured with."""
    machine = environment.describe()
    machine.pop("dtype", None)  # that of our training; figures have their own
    record = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "settings": settings,
        **figures,
    }
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
