"""Learned maps without comparisons in an image classifier: ViT.

    python examples/vit.py
    python examples/vit.py --model google/vit-base-patch16-224 --images folder --layers 0 1 2

All images have as many patches as each other, so a map from patch to patch that is the same for all images (the random
Synthesizer) fits: it has neither queries nor keys. It learns from your own images, which need no labels.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification

from bareformers import distill, load, put_back
from bareformers.measure.cost import multiply_adds, num_parameters

ROWS = 8  # images of a batch


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
    config = ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=10, initializer_range=0.1)
    return ViTForImageClassification(config).eval()


def batches(asked: argparse.Namespace) -> list[dict[str, Tensor]]:
    """The images of a folder, as the model's own processor has them; without a folder, coarse noise."""
    if asked.images is None:
        random = torch.Generator().manual_seed(1)
        noise = torch.randn(9, ROWS, 3, 4, 4, generator=random)
        return [{"pixel_values": each} for each in noise.repeat_interleave(8, -1).repeat_interleave(8, -2)]
    files = sorted(file for file in Path(asked.images).iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if len(files) < 2:
        raise SystemExit(f"{asked.images} has {len(files)} png or jpg files; give one to learn from and one to compare")
    processor, rows = AutoImageProcessor.from_pretrained(asked.model), min(ROWS, len(files) // 2)
    groups = [files[start : start + rows] for start in range(0, len(files), rows)]
    images = ([Image.open(file).convert("RGB") for file in group] for group in groups)
    return [{"pixel_values": processor(each, return_tensors="pt")["pixel_values"]} for each in images]


@torch.no_grad()
def answers(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """[B, C], the logits of the classes."""
    return model(**batch).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub name; by default a tiny random model")
    parser.add_argument("--images", help="a folder of png or jpg files, for --model")
    parser.add_argument("--mixer", default="random", help="its name")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1], help="from 0")
    parser.add_argument("--steps", type=int, default=100, help="of distillation, a batch each")
    parser.add_argument("--output", help="folder for the distilled model; by default it is thrown away")
    asked = parser.parse_args()
    if (asked.model is None) != (asked.images is None):
        parser.error("--model reads the images of --images: give both, or none for a tiny model and noise")

    model = load(asked.model) if asked.model else tiny()
    *images, held_out = batches(asked)
    original, parameters, products = answers(model, held_out), num_parameters(model), multiply_adds(model, held_out)

    replaced = distill(model, asked.mixer, images, asked.layers, steps=asked.steps)
    taught = answers(model, held_out)
    same = (taught.argmax(-1) == original.argmax(-1)).float().mean()
    print(f"{100 * same:.0f} % of the images in the same class as before")
    print(f"parameters: {parameters:,} before, {num_parameters(model):,} now")
    print(f"multiply-adds for an image: {products:,} before, {multiply_adds(model, held_out):,} now")

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(asked.output or folder)
        again = load(asked.output or folder)
    print(f"loaded again: {'the same' if torch.equal(answers(again, held_out), taught) else 'not the same'} logits")
    put_back(model, replaced)
    print(f"put back: {'the same' if torch.equal(answers(model, held_out), original) else 'not the same'} logits")


if __name__ == "__main__":
    main()
