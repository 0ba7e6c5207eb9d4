"""Draws matrix.png of docs/which_tasks_need_attention.md from the matrix of recipes/tasks/matrix.yaml.

python docs/draw_matrix.py results/which_tasks_need_attention
"""

from __future__ import annotations

import sys
from pathlib import Path

from bareformers.report.matrix import Matrix, draw

if __name__ == "__main__":
    figure = draw(Matrix.load(Path(sys.argv[1]) / "result.json"))
    figure.patch.set(visible=True, facecolor="white")
    figure.savefig(Path(__file__).with_name("matrix.png"), dpi=144)
