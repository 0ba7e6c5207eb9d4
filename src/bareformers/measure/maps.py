"""Who reads whom: the maps of a model for one input, as arrays that the report draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def maps(model: Any, inputs: dict[str, Tensor], tokens: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """The maps of the first row of `inputs`, for every layer whose mixer has one.

    Args:
        model: any model of `transformers` that takes `output_attentions`.
        inputs: one unpadded row, with `labels` for an encoder-decoder.
        tokens: the words at the axes: `keys` and `queries` by role, as `{"encoder": [...], "decoder": [...]}`.

    Returns:
        `<role>/<layer>` as [H, T, S] float16, `<role>/queries` and `<role>/keys` as strings.
    """
    model.eval()
    out = model(**inputs, output_attentions=True, use_cache=False)
    if model.config.is_encoder_decoder:
        found = {"encoder": out.encoder_attentions, "decoder": out.decoder_attentions, "cross": out.cross_attentions}
    else:
        found = {"decoder" if "decoder" in tokens else "encoder": out.attentions}
    arrays: dict[str, np.ndarray] = {}
    for role, layers in found.items():
        drawn = {f"{role}/{i}": weights[0] for i, weights in enumerate(layers or ()) if weights is not None}
        if drawn:
            arrays |= {name: weights.float().cpu().numpy().astype(np.float16) for name, weights in drawn.items()}
            arrays[f"{role}/queries"] = np.array(tokens["decoder" if role == "cross" else role])
            arrays[f"{role}/keys"] = np.array(tokens["encoder" if role == "cross" else role])
    return arrays
