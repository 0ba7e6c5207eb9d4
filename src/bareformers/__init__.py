"""Find out which parts of a Transformer you can do without, and what you save."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("load", "put_back", "swap"), "bareformers.paring.surgery"),
    "distill": "bareformers.paring.teaching",
    "pare": "bareformers.reduction",
}
"""What a notebook uses, imported where it is asked for: `import bareformers` needs no torch."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
