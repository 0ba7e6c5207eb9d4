"""Which parameters lie how deep: the embeddings, each layer, and what stands above them, known by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bareformers.errors import InputError

# `encoder.blocks.3.mixer.out.weight`; of other models of `transformers` also block, layer, layers and h.
LAYER = re.compile(r"(?:^|\.)(?:blocks?|layers?|h)\.(\d+)\.")
# Those of BART and Marian are called `shared`, with a `layernorm_embedding`; `embed_out` is the head of GPT-NeoX.
EMBEDDINGS = re.compile(r"(?:^|\.)(?!embed_out\.)(?:embed\w*|\w+_embeddings?|shared|wte|wpe)\.")


def depths(names: Iterable[str]) -> dict[str, int]:
    """How deep each parameter lies: 0 for embeddings, i + 1 for layer i of any stack, and one more for all the rest.

    A tensor that is shared lies where the first of its names does, which is the only one that `named_parameters` gives.

    Raises:
        InputError: none of `names` is that of a layer.
    """
    found = {name: LAYER.search(name) for name in names}
    layers = {name: int(layer[1]) + 1 for name, layer in found.items() if layer is not None}
    if not layers:
        raise InputError(
            "this model has no layers that are known by their names, so layer_decay and unfreezing do nothing"
        )
    top = max(layers.values()) + 1
    return {name: layers.get(name, 0 if EMBEDDINGS.search(name) else top) for name in found}
