"""Names that users write, and the classes behind them.

A mixer, a block or a data source is one file: its decorator registers it here, and everything else (recipes,
`bareformers list`, the laws in `tests/laws`, the report) finds it by name.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from bareformers.errors import InputError, nearest, unknown

T = TypeVar("T", bound=type)

ROLES = ("encoder", "decoder", "cross")


class Registry:
    """Classes of one kind by name; the modules of `package` are imported on first use, so that they register.

    Args:
        kind: what errors call these classes.
        package: whose modules register them.
        joined: the name of the class that `a+b` stands for, which takes the parts as its option `of`.
    """

    def __init__(self, kind: str, package: str, joined: str = "") -> None:
        self.kind = kind
        self._package = package
        self._joined = joined
        self._classes: dict[str, Any] = {}
        self._loaded = False

    def add(self, name: str, cls: T) -> T:
        """Register `cls` as `name` (snake_case, not taken)."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise InputError(f"a {self.kind} needs a name in snake_case, not {name!r}")
        if (there := self._classes.get(name)) and (there.__module__, there.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise InputError(f"{self.kind} {name!r} is registered twice, by {there.__module__} and by {cls.__module__}")
        self._classes[name] = cls
        return cls

    def get(self, name: str) -> Any:
        """The class registered as `name`; an unknown name is an `InputError` that offers the nearest."""
        self._load()
        if self._joined and "+" in name:
            name = self._joined
        if name not in self._classes:
            raise unknown(self.kind, name, self._classes)
        return self._classes[name]

    def parse(self, spec: Any, where: str) -> tuple[Any, Any]:
        """The class and the checked options of what a user wrote: `gaussian` or `{name: gaussian, std: 0.5}`."""
        given = {"name": spec} if isinstance(spec, str) else spec
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise InputError(
                f"{where}: a {self.kind} is a name, or a mapping as in {{name: {self.names()[0]}}}, not {spec!r}"
            )
        cls = self.get(given["name"])
        options = getattr(cls, "Options", cls)
        rest = {key: value for key, value in given.items() if key != "name"}
        if self._joined and "+" in given["name"]:
            if rest:
                raise InputError(
                    f"{where}: {given['name']} takes no options of its own; "
                    f"write {{name: {self._joined}, of: [...]}} with each part's inside"
                )
            rest = {"of": [part.strip() for part in given["name"].split("+")]}
        return cls, checked(options, rest, f"{self.kind} {given['name']!r} ({where})")

    def names(self) -> list[str]:
        self._load()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter((name, self._classes[name]) for name in self.names())

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")


mixers = Registry("mixer", "bareformers.mixers", joined="mixture")
feature_maps = Registry("feature map", "bareformers.mixers")
blocks = Registry("block", "bareformers.blocks")
sources = Registry("source", "bareformers.data.sources")


def mixer(
    name: str, *, roles: Collection[str], paper: str, parameters: str, state: str, floor: bool = False
) -> Callable[[T], T]:
    """Register a `TokenMixer`.

    Args:
        name: what users write, the paper's name in snake_case.
        roles: where it may sit, of `encoder`, `decoder` and `cross`.
        paper: author, venue, arXiv number.
        parameters: the number of weights without biases as an expression in `d` (width), `h` (heads), `n` (maximum
            length), `m` (maximum length of the context), the option names, and attributes of the mixer for sizes that
            follow from them. `bareformers list` shows it and a law evaluates it against the module.
        state: the numbers remembered per sequence and layer while decoding, as an expression in the same names and
            `t` (positions so far); for the cross role `t` counts the positions of the context.
        floor: whether this is a baseline that mixes nothing or averages everything.
    """
    if unknown_roles := set(roles) - set(ROLES):
        raise InputError(f"mixer {name!r} names unknown roles {sorted(unknown_roles)}; known are {', '.join(ROLES)}")

    def register(cls: T) -> T:
        cls.name, cls.roles, cls.paper = name, frozenset(roles), paper  # type: ignore[attr-defined]
        cls.parameters_formula, cls.state_formula, cls.floor = parameters, state, floor  # type: ignore[attr-defined]
        return mixers.add(name, cls)

    return register


def feature_map(name: str) -> Callable[[T], T]:
    """Register a `FeatureMap` under the name that the option `feature_map` of mixers takes."""

    def register(cls: T) -> T:
        cls.name = name  # type: ignore[attr-defined]
        return feature_maps.add(name, cls)

    return register


def block(
    name: str, *, paper: str, needs_map: bool = False, norm_free: bool = False, replaceable: bool = False
) -> Callable[[T], T]:
    """Register a `Block`.

    Args:
        name: what users write, the paper's name in snake_case.
        paper: author, venue, arXiv number.
        needs_map: whether it shapes the map of its self mixer, which then needs one.
        norm_free: whether it may do without norms.
        replaceable: whether a mixer may stand for more of it than its self mixer; see `TokenMixer.part`.
    """

    def register(cls: T) -> T:
        cls.name, cls.paper, cls.needs_map = name, paper, needs_map  # type: ignore[attr-defined]
        cls.norm_free, cls.replaceable = norm_free, replaceable  # type: ignore[attr-defined]
        return blocks.add(name, cls)

    return register


def source(name: str) -> Callable[[T], T]:
    """Register a data source: a dataclass whose fields are its options, with `load() -> Corpus`."""

    def register(cls: T) -> T:
        cls.name = name  # type: ignore[attr-defined]
        return sources.add(name, cls)

    return register


def checked(cls: Any, given: dict[str, Any], where: str) -> Any:
    """An instance of the options dataclass `cls` from what a user wrote; `where` names it in errors.

    An unknown key, a missing one or a value of the wrong type is an `InputError` in one sentence.
    """
    from pydantic import TypeAdapter, ValidationError

    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in given:
        if key not in fields:
            known = f"its options are {', '.join(fields)}" if fields else "it takes no options"
            raise InputError(f"{where} has no option {key!r}{nearest(key, fields) or ':'} {known}")
    try:
        return TypeAdapter(cls).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part in fields)
        if first["type"] == "missing":
            raise InputError(f"{where} needs {key}") from None
        message = first["msg"].removeprefix("Value error, ")
        said = message if first["type"] == "value_error" else f"{message}, not {first['input']!r}"
        raise InputError(f"{where}: {key + ': ' if key else ''}{said}") from None
