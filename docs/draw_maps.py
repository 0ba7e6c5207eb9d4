"""Draws maps.png of docs/mixers.md from the runs of recipes/synthesizer/translation.yaml.

python docs/draw_maps.py runs/synthesizer_translation
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ACROSS = 5
ROLES = ("encoder", "decoder")


def last_layer(folder: Path, role: str) -> np.ndarray | None:
    """The first head's map [T, S] of the last layer, or None where the mixer has none."""
    with np.load(folder / "seed0" / "maps.npz") as arrays:
        if any(name.startswith(f"{role}/") and name.endswith("/kind") for name in arrays):
            return None  # the norm of a Jacobian stands in for a map
        layers = sorted(
            int(name.split("/")[1]) for name in arrays if name.startswith(f"{role}/") and name[-1].isdigit()
        )
        return np.asarray(arrays[f"{role}/{layers[-1]}"][0], dtype=np.float32) if layers else None


def main(root: Path) -> None:
    drawn = {}
    for folder in sorted(path for path in root.iterdir() if (path / "seed0" / "maps.npz").exists()):
        found = [last_layer(folder, role) for role in ROLES]
        if all(each is not None for each in found):
            drawn[folder.name] = found
    rows = -(-len(drawn) // ACROSS)
    figure, axes = plt.subplots(rows, ACROSS * 2, figsize=(12, 1.65 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (name, found) in enumerate(drawn.items()):
        row, column = divmod(index, ACROSS)
        for side, weights in enumerate(found):
            axis = axes[row, 2 * column + side]
            axis.imshow(np.sqrt(np.clip(weights, 0, 1)), cmap="Blues", vmin=0, vmax=1)
            axis.set_title(f"{name}" if side == 0 else "decoder", fontsize=8, loc="left", color="#1c2024")
    figure.tight_layout(pad=0.4)
    figure.savefig(Path(__file__).with_name("maps.png"), dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
