"""Images as sequences: a vector for each patch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from bareformers.errors import InputError
from bareformers.mixers.base import SelfInitialised
from bareformers.models.config import BareConfig


class Patches(SelfInitialised):
    """Embeds the patches of an image, row by row (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, section 3.1).

    Pixels are normalised here, by `image_mean` and `image_std` of the config: a saved model needs nothing beside it.
    """

    def __init__(self, config: BareConfig) -> None:
        super().__init__()
        assert config.patch_size is not None and config.num_channels is not None
        self.config = config
        self.projection = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size)
        self.class_token = nn.Parameter(torch.empty(config.hidden_size)) if config.num_leading else None

    def init_weights(self, std: float) -> None:
        if self.class_token is not None:
            init.normal_(self.class_token)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, C, H, W] from 0 to 1 -> [B, T, D], the class token first where there is one."""
        config = self.config
        channels, (height, width) = config.num_channels, config.pixels
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != (channels, height, width):
            raise InputError(
                f"the model reads images of {height} × {width} pixels and {channels} channel{'s' * (channels > 1)}, so "
                f"pixel_values of [batch, {channels}, {height}, {width}], and got {list(pixels.shape)}; scale them"
            )
        if config.image_mean is not None:
            pixels = pixels - pixels.new_tensor(config.image_mean)[:, None, None]
        if config.image_std is not None:
            pixels = pixels / pixels.new_tensor(config.image_std)[:, None, None]
        x = self.projection(F.unfold(pixels, config.patch_size, stride=config.patch_size).transpose(1, 2))
        if self.class_token is None:
            return x
        return torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], 1)
