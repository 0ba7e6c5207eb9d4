"""A look per variant, the same in every figure: baseline in ink, floors in grey, the others in distinct colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bareformers.report.result import Compared

# Light and dark theme. The eight hues keep apart for the usual colour blindnesses (after Okabe and Ito) and are dark
# or bright enough to set text in on either background.
THEMES: dict[str, tuple[str, str]] = {
    "ink": ("#1c2024", "#eceef0"),
    "muted": ("#646b73", "#9aa2ab"),
    "faint": ("#c9ced4", "#454c54"),
    "floor": ("#80868d", "#8b929a"),
    "v1": ("#0068a8", "#62b2f0"),
    "v2": ("#c24a00", "#ff9457"),
    "v3": ("#00775b", "#42cfa2"),
    "v4": ("#a83d80", "#ef94c8"),
    "v5": ("#8a6500", "#e6bb45"),
    "v6": ("#5b52c0", "#a9a1ff"),
    "v7": ("#007f91", "#55cfe0"),
    "v8": ("#a3303c", "#ff8c94"),
}
_HUES = [name for name in THEMES if name.startswith("v")]
_MARKERS = ("o", "^", "v", "D", "P")


@dataclass(frozen=True)
class Look:
    """How a variant is drawn: `colour` is a key of `THEMES`, `marker` one of matplotlib's."""

    colour: str
    marker: str

    @property
    def light(self) -> str:
        """The colour in the light theme, in which figures are drawn before the page's theme takes over."""
        return THEMES[self.colour][0]


def looks(comparison: Compared) -> dict[str, Look]:
    """The look of each variant by name."""
    return looks_of({variant.name: variant.floor for variant in comparison.variants}, comparison.baseline)


def looks_of(variants: Mapping[str, bool], baseline: str) -> dict[str, Look]:
    """The look of each of `variants`, given with whether it is a floor.

    Beyond eight coloured ones the hues come again with another marker.
    """
    found: dict[str, Look] = {}
    coloured = floors = 0
    for name, is_floor in variants.items():
        if name == baseline:
            found[name] = Look("ink", "s")
        elif is_floor:
            found[name] = Look("floor", ("X", "P", "*")[floors % 3])
            floors += 1
        else:
            found[name] = Look(_HUES[coloured % len(_HUES)], _MARKERS[coloured // len(_HUES) % len(_MARKERS)])
            coloured += 1
    return found


def stylesheet() -> str:
    """CSS custom properties for both themes: `--v1` and so on."""
    light, dark = (" ".join(f"--{name}: {colours[theme]};" for name, colours in THEMES.items()) for theme in (0, 1))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
