"""Maps of the variants side by side: who reads from where, drawn one pixel per weight.

The images are written here rather than by matplotlib: a map is a handful of pixels, and a PNG of exactly those, with
the weight in the opacity, is a few hundred bytes and reads on light and on dark paper.
"""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MapRow:
    """One layer in a figure of maps: what each variant's heads look like side by side, None where it has no map."""

    title: str
    cells: list[str | None]


@dataclass(frozen=True)
class MapFigure:
    """The maps of one role: for each variant the mean over the last layer's heads, and the heads of each layer.

    `omitted` counts the layers that were left out to keep the report small; `has_jacobian` says whether the norms of a
    Jacobian stand for some of the maps.
    """

    role: str
    variants: list[str]
    means: list[str | None]
    layers: list[MapRow]
    omitted: int
    has_jacobian: bool


LABELLED = 26
JACOBIAN = '<small class="missing">Jacobian norm</small>'
_LARGEST = 64
_PIXELS = 900_000
_STEPS = 32  # of opacity
_INKS = ((0x1F, 0x7A, 0xC4), (0xD5, 0x62, 0x10))  # of positive and of negative weights


def draw(found: Mapping[str, Mapping[str, NDArray[Any]]]) -> list[MapFigure]:
    """The maps of all variants by role.

    Args:
        found: per variant the arrays of `maps.npz`: `<role>/<layer>` of shape [H, T, S] (heads, queries, keys), and
            `<role>/queries` [T] and `<role>/keys` [S] with the tokens. Where `<role>/<layer>/kind` is "jacobian" the
            array holds norms of a Jacobian, which are drawn as shares of their row; `<role>/<layer>/note` says why a
            layer has neither. Variants without arrays are left out.

    Cells are SVG. Only the first 64 queries and keys are drawn, and tokens are written where there are at most 26. Of
    many large maps only some layers are drawn, the first and the last among them, so that the report stays small.
    """
    variants = [variant for variant, arrays in found.items() if arrays]
    by_role = {
        role: {variant: _layers(found[variant], role) for variant in variants}
        for role in ("encoder", "decoder", "cross")
    }
    pixels = sum(
        layer.size for layers in by_role.values() for by_number in layers.values() for layer in by_number.values()
    )
    figures = []
    for role, layers in by_role.items():
        noted = (number for variant in variants for number in _notes(found[variant], role))
        numbers = sorted({*noted, *(number for by_number in layers.values() for number in by_number)})
        if not numbers:
            continue
        drawn = _spaced(numbers, max(2, math.floor(len(numbers) * _PIXELS / max(pixels, 1))))
        means: list[str | None] = []
        for variant in variants:
            last = max(layers[variant], default=None)
            queries, keys = (_tokens(found[variant].get(f"{role}/{side}")) for side in ("queries", "keys"))
            if last is None:
                means.append(None)
            else:
                mean = _labelled_map(layers[variant][last].mean(axis=0), queries, keys)
                means.append(mean + JACOBIAN * _is_jacobian(found[variant], role, last))
        rows = [
            MapRow(f"layer {number}", [_cell(found[variant], role, number, layers[variant]) for variant in variants])
            for number in drawn
        ]
        has_jacobian = any(
            _is_jacobian(found[variant], role, number) for variant in variants for number in layers[variant]
        )
        figures.append(MapFigure(role, variants, means, rows, len(numbers) - len(drawn), has_jacobian))
    return figures


def _cell(arrays: Mapping[str, NDArray[Any]], role: str, number: int, layers: dict[int, NDArray[Any]]) -> str | None:
    """The heads of one layer of one variant, or why there are none."""
    if number in layers:
        return _heads(layers[number]) + JACOBIAN * _is_jacobian(arrays, role, number)
    note = _notes(arrays, role).get(number)
    return None if note is None else f'<span class="missing">{escape(note)}</span>'


def _spaced(numbers: list[int], count: int) -> list[int]:
    """At most `count` (at least two) of the numbers, evenly spaced from the first to the last."""
    if len(numbers) <= count:
        return numbers
    return [numbers[round(index * (len(numbers) - 1) / (count - 1))] for index in range(count)]


def _layers(arrays: Mapping[str, NDArray[Any]], role: str) -> dict[int, NDArray[Any]]:
    """What is drawn of each layer, [H, T, S]: weights, or the norms of a Jacobian as shares of their row."""
    found = {}
    for name, array in arrays.items():
        if (match := re.fullmatch(rf"{role}/(\d+)", name)) and array.ndim == 3:
            number, layer = int(match[1]), np.asarray(array, dtype=np.float32)
            if _is_jacobian(arrays, role, number):
                sums = layer.sum(axis=-1, keepdims=True)
                layer = np.divide(layer, sums, out=np.zeros_like(layer), where=sums > 0)
            found[number] = layer[:, :_LARGEST, :_LARGEST]
    return found


def _is_jacobian(arrays: Mapping[str, NDArray[Any]], role: str, number: int) -> bool:
    return str(arrays.get(f"{role}/{number}/kind")) == "jacobian"


def _notes(arrays: Mapping[str, NDArray[Any]], role: str) -> dict[int, str]:
    """Why a layer is not drawn, by its number."""
    matches = ((re.fullmatch(rf"{role}/(\d+)/note", name), array) for name, array in arrays.items())
    return {int(match[1]): str(array) for match, array in matches if match}


def _tokens(tokens: NDArray[Any] | None) -> list[str]:
    # Byte-level tokenizers write the space before a word as a letter of its own.
    return [] if tokens is None else [str(token).replace("Ġ", " ").strip() or "␣" for token in tokens]


def _labelled_map(weights: NDArray[Any], queries: list[str], keys: list[str]) -> str:
    rows, columns = weights.shape
    cell = 11.0 if max(rows, columns) <= LABELLED else 240 / max(rows, columns)
    label_rows = 0 < len(queries) <= LABELLED and len(queries) >= rows
    label_columns = 0 < len(keys) <= LABELLED and len(keys) >= columns
    left, top = 66.0 * label_rows, 60.0 * label_columns
    width, height = columns * cell, rows * cell
    texts = []
    if label_rows:
        texts += [
            f'<text x="{left - 4}" y="{top + (row + 0.75) * cell:.1f}" text-anchor="end">'
            f"{_clipped(queries[row])}</text>"
            for row in range(rows)
        ]
    if label_columns:
        texts += [
            f'<text transform="translate({left + (column + 0.75) * cell:.1f} {top - 4}) rotate(-90)">'
            f"{_clipped(keys[column])}</text>"
            for column in range(columns)
        ]
    place = f'x="{left}" y="{top}" width="{width}" height="{height}"'
    content = (
        f'<image {place} preserveAspectRatio="none" href="{_png(weights)}"/>'
        f'<rect {place} fill="none" stroke="var(--faint)"/><g fill="currentColor">{"".join(texts)}</g>'
    )
    return _map_svg(left + width + 1, top + height + 1, content)


def _clipped(token: str, letters: int = 11) -> str:
    return escape(token if len(token) <= letters else token[: letters - 1] + "…")


def _heads(layer: NDArray[Any], across: int = 4) -> str:
    """All heads of a layer, `across` in a row."""
    heads, rows, columns = layer.shape
    wide, tall = (48.0 * side / max(rows, columns) for side in (columns, rows))
    gap = 4.0
    images = []
    for head in range(heads):
        row, column = divmod(head, across)
        place = (
            f'x="{column * (wide + gap) + 0.5:.1f}" y="{row * (tall + gap) + 0.5:.1f}" '
            f'width="{wide:.1f}" height="{tall:.1f}"'
        )
        images.append(f'<image {place} preserveAspectRatio="none" href="{_png(layer[head])}"/>')
        images.append(f'<rect {place} fill="none" stroke="var(--faint)"/>')
    width = min(heads, across) * (wide + gap) - gap + 1
    height = math.ceil(heads / across) * (tall + gap) - gap + 1
    return _map_svg(width, height, "".join(images))


def _map_svg(width: float, height: float, content: str) -> str:
    size = f'viewBox="0 0 {width:.1f} {height:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<svg class="map" role="img" {size} font-size="9">{content}</svg>'


def _png(weights: NDArray[Any]) -> str:
    """A map as a PNG of one pixel per weight, as a data URI: one ink for positive and one for negative weights.

    The weight is in the opacity, so that the same image reads on light and on dark paper. Opacity is the square root
    of the weight: attention over twenty positions would hardly show otherwise. It has few steps, since a report has
    hundreds of maps, and most of the bytes of a small one would be its palette.
    """
    weights = np.nan_to_num(weights)
    level = np.rint((_STEPS - 1) * np.sqrt(np.clip(np.abs(weights), 0, 1))).astype(np.uint8)
    pixels = np.where(weights < 0, level + _STEPS, level).astype(np.uint8)
    signs = 1 + bool((weights < 0).any())
    rows, columns = pixels.shape
    body = b"".join(b"\0" + row.tobytes() for row in pixels)
    opacity = bytes(255 * step // (_STEPS - 1) for step in range(_STEPS))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(bytes(ink) * _STEPS for ink in _INKS[:signs])),
        (b"tRNS", opacity * signs),
        (b"IDAT", zlib.compress(body, 9)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()
