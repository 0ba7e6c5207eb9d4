"""Images with a class each."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bareformers.data.corpus import (
    PARTS,
    Corpus,
    LabelledImage,
    assign_parts,
    counted,
    refuse_unused,
    user_path,
)
from bareformers.errors import InputError
from bareformers.registry import source

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
NAMES = {"images": ("x", "images", "image", "data"), "labels": ("y", "labels", "label", "targets")}
SIDES = {"train": ("train", "training"), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
GRAY = ("1", "L", "LA")
"""How Pillow calls images without colours of up to 8 bits."""

Arrays = Mapping[str, NDArray[Any]]


@source("images")
@dataclass
class Images:
    """Images with a class each, from arrays in .npz files or folders with a subfolder for each class."""

    path: str | None = None  # an .npz file or a folder; divided by the shares, but for sides that an .npz file has
    train: str | None = None  # or the sides one by one; without validation, a share of train becomes it
    validation: str | None = None
    test: str | None = None
    images: str | None = None  # of .npz: the array [N, H, W] or [N, H, W, C]; by default x or images
    labels: str | None = None  # of .npz: the array [N]; by default y or labels
    label_names: tuple[str, ...] | None = None  # what the labels 0, 1, 2, ... of .npz files stand for
    gray: bool = False  # of folders: without colours, where images have some
    validation_share: float = 0.1  # of the images under path, or of the training side, chosen by hash
    test_share: float = 0.1  # of the images under path

    def load(self) -> Corpus:
        self._check()
        if self.path is None:
            given = {part: getattr(self, part) for part in PARTS if getattr(self, part) is not None}
            sides: dict[str, list[LabelledImage]] = {}
            for part, path in given.items():
                found = self._read(path)
                if set(found) != {""}:
                    raise InputError(f"images: {path} has sides of its own, {' and '.join(found)}; write path: {path}")
                sides[part] = found[""]
            read = ", ".join(f"{len(side):,} from {given[part]}" for part, side in sides.items())
        else:
            sides = self._read(self.path)
            read = f"{sum(map(len, sides.values())):,} from {self.path}"
        notes = [f"Read images: {read}."]
        labels = self.label_names or ()
        if "" in sides:
            return Corpus.divided(
                "images",
                ((item.digest, item) for item in sides[""]),
                validation_share=self.validation_share,
                test_share=self.test_share,
                notes=notes,
                labels=labels,
            )
        if self.path is not None:
            refuse_unused(self, ("test_share",), f"with {self.path}, which has sides")
        if "validation" not in sides:
            part_of = assign_parts((item.digest for item in sides["train"]), self.validation_share, 0.0)
            everything = sides["train"]
            for part in ("validation", "train"):
                sides[part] = [item for item in everything if part_of[item.digest] == part]
            notes.append(f"Took {counted(len(sides['validation']), 'training image')} for validation, chosen by hash.")
        elif self.path is not None:
            refuse_unused(self, ("validation_share",), f"with {self.path}, which has sides")
        return Corpus.given(
            "images", sides["train"], sides["validation"], sides.get("test", ()), notes=notes, labels=labels
        )

    def _check(self) -> None:
        """An `InputError` where the options do not go together."""
        if (self.path is None) == (self.train is None) or self.path is not None and (self.validation or self.test):
            raise InputError(
                "images: write either path, which is divided by shares, or train, and validation and test where there "
                "are files or folders for them"
            )
        if self.path is None:
            refuse_unused(self, ("test_share",), "where the sides are given one by one")
        if self.validation is not None:
            refuse_unused(self, ("validation_share",), "where there is a validation side")
        given = [path for path in (self.path, self.train, self.validation, self.test) if path is not None]
        if all(user_path(path).is_dir() for path in given):
            refuse_unused(self, ("images", "labels", "label_names"), "with folders, whose names are the classes")
        elif not any(user_path(path).is_dir() for path in given):
            refuse_unused(self, ("gray",), "with .npz files")
        if self.label_names is not None and len(set(self.label_names)) < len(self.label_names):
            raise InputError("images: label_names gives two classes one name; write a name of its own for each")

    def _read(self, given: str) -> dict[str, list[LabelledImage]]:
        """The images of a file or folder by side, `""` where it does not part them."""
        path = user_path(given)
        if path.is_dir():
            return {"": read_folder(path, self.gray)}
        arrays = read_npz(path)
        return {
            side: self._items(path, arrays, pair)
            for side, pair in pairs(path, arrays, self.images, self.labels).items()
        }

    def _items(self, path: Path, arrays: Arrays, pair: tuple[str, str]) -> list[LabelledImage]:
        """What a pair of arrays holds."""
        pixels, labels = (arrays[name] for name in pair)
        where = f"{path}, {pair[0]}"
        if pixels.ndim not in (3, 4) or pixels.ndim == 4 and not 1 <= pixels.shape[3] <= 4:
            raise InputError(
                f"{where} has the shape {list(pixels.shape)}: images are [number, height, width], or with channels last"
            )
        if not 0 < pixels[:1].size:
            raise InputError(f"{where} has the shape {list(pixels.shape)}: there is no image in it")
        if pixels.dtype.kind not in "iub" or pixels.min() < 0 or pixels.max() > 255:
            span = f" from {pixels.min():g} to {pixels.max():g}" if pixels.dtype.kind in "iuf" else ""
            raise InputError(
                f"{where} holds {pixels.dtype}{span}: pixels are whole numbers from 0 to 255 (uint8); scale them"
            )
        if labels.size != len(pixels) or labels.shape[:1] != (len(pixels),) or labels.dtype.kind not in "iubUS":
            raise InputError(
                f"{path}: {pair[1]} is {labels.dtype} of the shape {list(labels.shape)}, and {pair[0]} has "
                f"{counted(len(pixels), 'image')}: each needs one label, a whole number or a name"
            )
        names = [self._named(label, f"{path}, {pair[1]}[{row}]") for row, label in enumerate(labels.ravel().tolist())]
        return [
            LabelledImage(image, name, f"{path.name}, {pair[0]}[{row}]")
            for row, (image, name) in enumerate(zip(pixels.astype(np.uint8, copy=False), names, strict=True))
        ]

    def _named(self, label: Any, where: str) -> str:
        """The name of a class."""
        name = label.decode(errors="replace") if isinstance(label, bytes) else str(label)
        if self.label_names is None:
            return name
        if not name.isdecimal() or int(name) >= len(self.label_names):
            raise InputError(
                f"{where}: the label {name!r} is no number of one of the {len(self.label_names)} label_names, counted "
                f"from 0"
            )
        return self.label_names[int(name)]


def read_npz(path: Path) -> Arrays:
    """All arrays of a file."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} is no .npz file of plain arrays ({' '.join(str(error).split())}); write it with numpy.savez, all "
            f"images of one size"
        ) from error


def pairs(path: Path, names: Iterable[str], images: str | None, labels: str | None) -> dict[str, tuple[str, str]]:
    """The names of the arrays with images and with labels, by side; `""` where there is but one pair."""
    stems = {
        "images": NAMES["images"] if images is None else (images,),
        "labels": NAMES["labels"] if labels is None else (labels,),
    }
    names = list(names)

    def named(kind: str, affixes: Iterable[str]) -> str | None:
        spelled = [
            name
            for affix in affixes
            for stem in stems[kind]
            for name in ((f"{affix}_{stem}", f"{stem}_{affix}") if affix else (stem,))
        ]
        lower = {name.lower(): name for name in names}
        return next((lower[name.lower()] for name in spelled if name.lower() in lower), None)

    found: dict[str, tuple[str, str]] = {}
    for side, affixes in {"": ("",), **SIDES}.items():
        pair = named("images", affixes), named("labels", affixes)
        if pair[0] is not None and pair[1] is not None:
            found[side] = pair[0], pair[1]
    if not found or "" not in found and "train" not in found:
        raise InputError(
            f"{path} has the arrays {', '.join(names) or 'none at all'}: name those with images and labels, as in "
            f"images: x and labels: y"
        )
    return {"": found[""]} if "" in found else found


def read_folder(root: Path, gray: bool) -> list[LabelledImage]:
    """The images of a folder with a subfolder for each class, in the order of their names."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"{root} has no subfolders: put the images of each class into one that is named for it")
    if all(any(folder.name.lower() in names for names in SIDES.values()) for folder in folders):
        said = ", ".join(f"{folder.name}: {folder}" for folder in folders)
        raise InputError(f"{root} holds sides and not classes; write them one by one, as in {said}")
    found: list[tuple[Any, str, str]] = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            known = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
            raise InputError(
                f"the class {folder.name!r} has no image in {folder}: put some there ({known}), or remove it"
            )
        found += [(opened(path), folder.name, path.relative_to(root).as_posix()) for path in files]
    mode = "L" if gray or all(image.mode in GRAY for image, _, _ in found) else "RGB"
    items: list[LabelledImage] = []
    for image, label, name in found:
        pixels = np.asarray(image.convert(mode))
        if items and pixels.shape[:2] != items[0].pixels.shape[:2]:
            (height, width), (other, across) = pixels.shape[:2], items[0].pixels.shape[:2]
            raise InputError(
                f"{root / name} is {height} × {width} pixels, and {root / items[0].name} {other} × {across}: images "
                f"are of one size; scale them"
            )
        items.append(LabelledImage(pixels, label, name))
    return items


def opened(path: Path) -> Any:
    """An image of Pillow, read whole."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no image that can be read: {' '.join(str(error).split())}") from error
    if image.mode[0] in "IF":
        raise InputError(f"{path} has pixels of more than 8 bits: write it with 8, or an .npz file of uint8")
    return image
