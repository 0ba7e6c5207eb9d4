"""Carries out a recipe of kind `matrix`: from finished comparisons to mixers x tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from bareformers.errors import InputError
from bareformers.recipe import MatrixRecipe
from bareformers.report.matrix import Matrix, build, row_of, write_csv
from bareformers.report.result import Comparison, kind_of, write_whole
from bareformers.run_folder import Log, refuse_other


def run(recipe: MatrixRecipe, command: str, log: Log = print) -> Matrix:
    """Gather what `recipe` names in its folder, and return it. Nothing is trained, so each call gathers anew.

    Args:
        command: what the user typed, for the report.
        log: takes sentences about what is going on.
    """
    advice = f"write output=<another folder>, another name, or remove {recipe.folder}"
    refuse_other(recipe.folder, {"kind": recipe.kind}, advice)
    rows = []
    for task, asked in recipe.tasks.items():
        comparison = _comparison(Path(asked.results).expanduser(), task)
        names = {mixer: asked.variants.get(mixer, mixer) for mixer in recipe.mixers}
        known = [variant.name for variant in comparison.variants]
        for mixer, name in asked.variants.items():
            if name not in known:
                raise InputError(
                    f"tasks.{task}.variants: {asked.results} has no variant {name!r} for {mixer}; it has "
                    f"{', '.join(known)}"
                )
        rows.append(row_of(task, asked.results, comparison, asked.metric or comparison.headline, recipe.whole, names))
        log(f"{task}: {len(rows[-1].cells)} of {len(recipe.mixers)} mixers, from {asked.results}")
    found = Matrix(
        name=recipe.name,
        description=recipe.description,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        whole=recipe.whole,
        mixers=recipe.mixers,
        rows=rows,
        recipe=recipe.model_dump(mode="json"),
    )
    write_whole(recipe.folder / "recipe.yaml", recipe.dump())
    found.save(recipe.folder / "result.json")
    write_csv(found, recipe.folder / "results.csv")
    build(recipe.folder)
    return found


def _comparison(folder: Path, task: str) -> Comparison:
    """What a row is taken from."""
    file = folder / "result.json"
    if not file.exists():
        raise InputError(f"tasks.{task}: {folder} holds no finished comparison; carry out its recipe, or name another")
    if kind := kind_of(file):
        raise InputError(f"tasks.{task}: {folder} holds a {kind.replace('_', ' ')}, not a comparison; name another")
    return Comparison.load(file)
