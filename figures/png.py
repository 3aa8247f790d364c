"""PNG files with a palette: line drawings and heat maps in a third of the bytes that full colour takes."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

COLOURS = 256
FREQUENT = 192  # colours kept for how often they occur; the others, for how far they are from all of these


def encode(pixels: Pixels, dpi: float) -> bytes:
    """(height, width, 3) red, green and blue -> a PNG file of at most 256 colours."""
    palette, index = quantize(pixels)
    height, width = index.shape
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # each line starts with its filter: 0, none
    lines[:, 1:] = index
    per_metre = round(dpi / 0.0254)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),  # 8 bits, palette, not interlaced
        b"pHYs": struct.pack(">IIB", per_metre, per_metre, 1),
        b"PLTE": palette.tobytes(),
        b"IDAT": zlib.compress(lines.tobytes(), 9),
        b"IEND": b"",
    }
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks.items():
        parts += [struct.pack(">I", len(content)), name, content, struct.pack(">I", zlib.crc32(name + content))]
    return b"".join(parts)


def quantize(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """(height, width, 3) -> the palette (colours <= 256, 3) and each pixel's index in it, (height, width).

    The palette holds the most frequent colours, and then again and again the one that is worst served so far.
    Where there are no more than 256 colours nothing is lost.
    """
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    found, which, count = np.unique(packed, return_inverse=True, return_counts=True)
    colours: Any = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.int64)
    kept = list(np.argsort(-count, kind="stable")[:FREQUENT])
    distance = ((colours[:, None] - colours[kept]) ** 2).sum(axis=2)
    nearest, least = distance.argmin(axis=1), distance.min(axis=1)
    while len(kept) < COLOURS and least.any():
        worst = int(least.argmax())
        distance = ((colours - colours[worst]) ** 2).sum(axis=1)
        nearest[distance < least] = len(kept)
        least = np.minimum(least, distance)
        kept.append(worst)
    return colours[kept].astype(np.uint8), nearest[which].reshape(packed.shape).astype(np.uint8)
