"""Images inside of a page."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def data_address(pixels: Any) -> str:
    """An array of uint8 [H, W, C] as a PNG that is its own address (`data:`)."""
    found = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(found, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(found.getvalue()).decode()
