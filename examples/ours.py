"""A run of ours: a mixer distilled in by hand, and then whatever a bound on the quality allows, found by `pare`.

    python examples/ours.py
    python examples/ours.py --model runs/quickstart/dot_product/seed0 --mixer linear --layers 0 --max-drop 2

The folder of a run says what the model was trained on, so nothing else is needed. Without one, a small language model
is trained for some steps on the Python code of the standard library.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from bareformers import distill, load, pare, put_back, run_folder
from bareformers.assessment import evaluate
from bareformers.data.batching import BatchPlan
from bareformers.recipe import load as load_recipe
from bareformers.run import run

ONCE = {"batch_tokens": 1024, "warmup_steps": 5, "evaluations": 1, "checkpoints": 1}
SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"name": "python_stdlib", "max_files": 6},
    "task": {"name": "language_modelling", "vocab_size": 300, "max_length": 64},
    "model": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "variants": {"dot_product": {"mixer": "dot_product"}},
    "training": {"budget": {"steps": 40}, "learning_rate": 0.01, **ONCE},
    "evaluation": {"samples": 0, "speed_rounds": 0},
}
QUICK = {"budget": {"steps": 10}, **ONCE}
"""How long `pare` trains where there is no run of the user's."""


def small(folder: Path) -> Path:
    """The folder of a small run, trained in some seconds."""
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    run(load_recipe(recipe, [f"output={folder / 'small'}"]), "python examples/ours.py", log=lambda sentence: None)
    return folder / "small" / "dot_product" / "seed0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a run folder; by default a small run is made")
    parser.add_argument("--mixer", type=yaml.safe_load, default="linear", help="its name, or {name: delta, <options>}")
    parser.add_argument("--layers", type=int, nargs="+", default=[0], help="from 0")
    parser.add_argument("--role", help="encoder, decoder or cross, where a model has several")
    parser.add_argument("--steps", type=int, default=60, help="of distillation, a batch each")
    parser.add_argument("--max-drop", type=float, default=5.0, help="what pare may lose, in percent or points")
    parser.add_argument("--output", type=Path, help="folder for both models; by default they are thrown away")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        follow(asked, asked.model or small(Path(folder)), asked.output or Path(folder))


def follow(asked: argparse.Namespace, source: Path, output: Path) -> None:
    """Distil one mixer into the model of a run, and then pare the model down."""
    model, data, settings = run_folder.reload(source, [])

    def score(each: Any) -> str:
        name, found = next(iter(evaluate(each, data, {**settings, "samples": 0})[0].items()))
        return f"{name} {found.value:.3f}"

    before = score(model)
    plan = BatchPlan(data.train.lengths, data.train.label_tokens, batch_tokens=1024, seed=0, steps=asked.steps)
    batches = [data.collate([data.train[index] for index in indices]) for indices in plan]
    replaced = distill(model, asked.mixer, batches, asked.layers, asked.role)
    print(f"{before} before, {score(model)} distilled")

    model.save_pretrained(output / "distilled")
    again = load(output / "distilled")
    same = all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    print(f"loaded again: {'the same' if same else 'not the same'} weights")
    put_back(model, replaced)
    print(f"put back: {score(model)}")

    quick = {} if asked.model else {"training": QUICK, "finetune": QUICK, "search": {"examples": 16}}
    pared = pare(source, max_drop=asked.max_drop, target="parameters", output=output / "pared", **quick)
    print(f"pared: {pared.study.remark}")
    print(f"the model and report.html are in {pared.folder}")


if __name__ == "__main__":
    main()
