"""Images with a class each, cut into patches."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray

from bareformers.data.corpus import PARTS, Corpus, LabelledImage, counted
from bareformers.data.examples import Images, collate_images
from bareformers.data.tasks.base import ImageFormat, TaskData, labels_of
from bareformers.errors import InputError


def prepare(corpus: Corpus, patch: int | None, shift: int) -> TaskData:
    labels = labels_of(corpus)
    classes = {label: index for index, label in enumerate(labels)}
    first: LabelledImage = cast(tuple[LabelledImage, ...], corpus.train)[0]
    shape = channels_last(first.pixels).shape
    if patch is None or patch < 1:
        such = _fitting(shape)[len(_fitting(shape)) // 2]
        raise InputError(f"image_classification needs task.patch, the side of a patch in pixels, such as {such}")
    for what, pixels in (("high", shape[0]), ("wide", shape[1])):
        if pixels % patch:
            fitting = ", ".join(map(str, _fitting(shape)))
            raise InputError(
                f"the images are {pixels} pixels {what}, which task.patch {patch} does not divide; write {fitting}"
            )

    if not 0 <= shift < min(shape[:2]):
        raise InputError(f"task.shift {shift} moves images of {sized(shape)} out of sight; write 0 or a few pixels")

    def encode(part: str) -> Images:
        items: tuple[LabelledImage, ...] = getattr(corpus, part)
        for item in items:
            if (found := channels_last(item.pixels).shape) != shape:
                raise InputError(
                    f"{item.name} of the {part} side has {sized(found)}, and {first.name} {sized(shape)}: images are "
                    f"of one size; scale them"
                )
        pixels = np.empty((len(items), *shape), np.uint8)
        for row, item in zip(pixels, items, strict=True):
            row[:] = channels_last(item.pixels)
        return Images(
            pixels,
            [classes[item.label] for item in items],
            [(item.name, item.label) for item in items],
            patch,
            shift if part == "train" else 0,
        )

    sides = {part: encode(part) for part in PARTS}
    train = sides["train"].pixels
    # Sums of whole numbers, so that no machine has another mean.
    counts = np.stack([np.bincount(train[..., channel].ravel(), minlength=256) for channel in range(shape[2])])
    values, total = np.arange(256) / 255, counts[0].sum()
    mean = counts @ values / total
    std = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
    if not std.any():
        raise InputError("all pixels of the training images are alike, so that there is nothing to tell them by")
    std[std == 0] = 1  # a channel that says nothing, as one of transparency may
    rows, columns = shape[0] // patch, shape[1] // patch
    said = ", ".join(counted(len(side), f"{part} image") for part, side in sides.items() if len(side))
    told = np.bincount(sides["train"].labels.ids, minlength=len(labels)).tolist()
    listed = ", ".join(f"{label} {count:,}" for label, count in zip(labels, told, strict=True))
    return TaskData(
        "image_classification",
        None,
        sides["train"],
        sides["validation"],
        sides["test"],
        collate=collate_images,
        notes=(
            *corpus.notes,
            f"Cut {said} of {sized(shape)} into {rows} × {columns} patches; of the training images are {listed}.",
        ),
        labels=labels,
        images=ImageFormat(
            (shape[0], shape[1]),
            patch,
            shape[2],
            tuple(float(value) for value in mean.round(6)),
            tuple(float(value) for value in std.round(6)),
        ),
    )


def channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W] or [H, W, C] -> [H, W, C]."""
    return pixels[..., None] if pixels.ndim == 2 else pixels


def sized(shape: tuple[int, ...]) -> str:
    """`28 × 28 pixels`, `32 × 32 pixels in 3 channels`: height, width, channels."""
    return f"{shape[0]} × {shape[1]} pixels" + (f" in {shape[2]} channels" if shape[2] > 1 else "")


def _fitting(shape: tuple[int, ...]) -> list[int]:
    """Sides of patches that fill images of this size, that make a few positions at least and not too many."""
    common = math.gcd(shape[0], shape[1])
    sides = [side for side in range(1, common + 1) if common % side == 0]
    return [side for side in sides if 4 <= shape[0] * shape[1] // side**2 <= 1024] or sides
