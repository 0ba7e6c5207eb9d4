"""Images inside of a page."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""How PNG calls gray, gray with alpha, colours, and colours with alpha, by the number of channels."""


def data_address(pixels: Any) -> str:
    """An array of uint8 [H, W, C] as a PNG that is its own address (`data:`)."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + pixels[row].tobytes() for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0)
    parts = _part(b"IHDR", header) + _part(b"IDAT", zlib.compress(rows, 9)) + _part(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def _part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
