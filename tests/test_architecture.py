"""The floors of the house: which wing may import which."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "bareformers"

FLOORS = {
    "errors": 0,  # these two are for everybody
    "registry": 0,
    "recipe": 1,
    "data": 1,
    "measure": 1,
    "dynamics": 1,
    "report": 1,
    "mixers": 2,
    "blocks": 3,
    "training": 3,
    "models": 4,
    "paring": 4,
    "bench": 5,
    "assessment": 5,
    "decoding": 5,
    "run_folder": 5,
    "pretrained": 6,
    "variants": 6,
    "execution": 7,
    "run": 8,
    "distillation": 8,
    "distribution": 8,
    "reduction": 8,
    "export": 8,
    "inspection": 8,
    "scan_and_snap": 8,
    "matrix": 8,
    "sweep": 9,
    "transfer": 9,
    "cli": 10,
}
ENTRANCES = {"__init__", "__main__"}
"""Modules at the door of the package that belong to no wing."""
TORCH = {"torch", "transformers", "accelerate", "safetensors"}


def module_name(path: Path) -> str:
    """`bareformers.mixers.base` for its file, `bareformers.mixers` for the `__init__` of the folder."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wing(module: str) -> str:
    """`mixers` of `bareformers.mixers.base`; empty for the package itself."""
    return (module.split(".") + [""])[1]


FILES = {module_name(path): ast.parse(path.read_text("utf-8"), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> Iterator[tuple[str, str, int]]:
    """`(module, name bound here, line)` of everything imported, inside functions too."""
    for node in ast.walk(FILES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.asname or alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno} imports relatively; write the whole name"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", alias.asname or alias.name, node.lineno


def own_imports(module: str) -> Iterator[tuple[str, str, int]]:
    """Those of `imports` that are ours and not of the package's door."""
    for name, bound, line in imports(module):
        if name.split(".")[0] == "bareformers" and (wing(name) in FLOORS or (PACKAGE / wing(name)).exists()):
            yield name, bound, line


modules = pytest.mark.parametrize("module", [name for name in FILES if wing(name) and wing(name) not in ENTRANCES])


@modules
def test_every_file_has_a_floor(module):
    assert wing(module) in FLOORS, f"{wing(module)} stands on no floor: see section 5 of the design"


@modules
def test_imports_go_down(module):
    here = wing(module)
    for name, _, line in own_imports(module):
        there = wing(name)
        below = FLOORS[there] < max(FLOORS[here], 1)
        assert there == here or below, f"{module}:{line} imports {name} from its floor or above"


@modules
def test_nothing_private_crosses_wings(module):
    foreign = {}
    for name, bound, line in own_imports(module):
        if wing(name) != wing(module):
            private = [part for part in name.split(".") if part.startswith("_")]
            assert not private, f"{module}:{line} imports {name}"
            foreign[bound] = name
    for node in ast.walk(FILES[module]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in foreign:
            dunder = node.attr.startswith("__") and node.attr.endswith("__")
            private = node.attr.startswith("_") and not dunder
            assert not private, f"{module}:{node.lineno} uses {foreign[node.value.id]}.{node.attr}"


@modules
def test_report_and_recipe_need_no_torch(module):
    if wing(module) not in ("report", "recipe", "registry", "errors"):
        return
    for name, _, line in imports(module):
        assert name.split(".")[0] not in TORCH, f"{module}:{line} imports {name}"


@functools.cache
def registered(kind: str) -> set[str]:
    """The modules that register a class under the decorator `kind`."""
    found = set()
    for name, tree in FILES.items():
        for node in ast.walk(tree):
            decorators = node.decorator_list if isinstance(node, ast.ClassDef) else []
            if any(isinstance(d, ast.Call) and getattr(d.func, "id", None) == kind for d in decorators):
                found.add(name)
    return found


@modules
def test_mixers_and_blocks_are_known_by_name_only(module):
    allowed = {"bareformers.blocks.attentionless": "mixer"}
    for kind, home in (("mixer", "mixers"), ("block", "blocks")):
        if wing(module) == home or allowed.get(module) == kind:
            continue
        concrete = registered(kind)
        for name, _, line in own_imports(module):
            for target in (name, name.rpartition(".")[0]):
                assert target not in concrete, f"{module}:{line} imports {target}; get it from the registry"


def test_the_rules_see_the_house():
    assert {"mixers", "blocks", "models"} <= {wing(name) for name in FILES}
    assert "bareformers.mixers.gaussian" in registered("mixer")
    assert "bareformers.blocks.pre_ln" in registered("block")
    assert "bareformers.blocks.base.SequentialBlock" in {
        name for name, _, _ in own_imports("bareformers.blocks.pre_ln")
    }


def test_class_names_of_models_mean_nothing_to_generate():
    """`generate` of transformers looks for these in class names and then treats the model differently."""
    from transformers import PreTrainedModel

    importlib.import_module("bareformers.models")
    words = ("mamba", "rwkv", "xlnet", "reformer", "minimax", "xlstm")
    classes = [PreTrainedModel]
    for cls in classes:
        classes += cls.__subclasses__()
    ours = [cls.__name__ for cls in classes if cls.__module__.startswith("bareformers")]
    assert len(ours) >= 5
    for name in ours:
        assert not any(word in name.lower() for word in words), name
