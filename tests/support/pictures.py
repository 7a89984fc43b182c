"""Image files built by hand, with the pixels that a viewer shows computed by hand too, without Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
GREY, COLOURS, PALETTE, GREY_ALPHA, COLOURS_ALPHA = 0, 2, 3, 4, 6  # PNG's colour types
_CHANNELS = {GREY: 1, COLOURS: 3, PALETTE: 1, GREY_ALPHA: 2, COLOURS_ALPHA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), COLOURS: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), COLOURS_ALPHA: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(png: bytes, name: bytes, body: bytes, before: bytes = b"IDAT") -> bytes:
    """Insert a chunk before the first one of this name."""
    at = png.index(before) - 4
    return png[:at] + chunk(name, body) + png[at:]


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """Insert a segment as the first one of a JPEG file."""
    return jpeg[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@dataclass(frozen=True)
class PngCase:
    """A PNG of any kind. samples: [H, W, channels], below 2**depth; palette: [colours, 3]; trns: the tRNS chunk."""

    colour: int
    depth: int
    samples: NDArray[np.uint16]
    palette: Pixels | None = None
    trns: bytes | None = None
    interlaced: bool = False

    def encode(self) -> bytes:
        height, width, _ = self.samples.shape
        header = struct.pack(">IIBBBBB", width, height, self.depth, self.colour, 0, 0, self.interlaced)
        extra = b"" if self.palette is None else chunk(b"PLTE", self.palette.tobytes())
        extra += b"" if self.trns is None else chunk(b"tRNS", self.trns)
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        rows = b"".join(self._rows(self.samples[y::dy, x::dx]) for x, y, dx, dy in passes)
        body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return _SIGNATURE + body

    def _rows(self, samples: NDArray[np.uint16]) -> bytes:
        return b"".join(b"\0" + self._pack(row.ravel()) for row in samples) if samples.size else b""

    def _pack(self, row: NDArray[np.uint16]) -> bytes:
        if self.depth == 16:
            return row.astype(">u2").tobytes()
        bits = (row[:, None] >> np.arange(self.depth - 1, -1, -1)) & 1
        return np.packbits(bits.astype(np.uint8).ravel()).tobytes()

    def shown(self) -> NDArray[np.float64]:
        """The pixels that a viewer shows, [H, W, 3], not rounded."""
        most = 2**self.depth - 1
        if self.colour == PALETTE:
            assert self.palette is not None
            index = self.samples[..., 0]
            colours = self.palette[index].astype(float)
            alphas = np.full(256, 255.0)
            alphas[: len(self.trns or b"")] = np.frombuffer(self.trns or b"", np.uint8)
            alpha = alphas[index] / 255
        else:
            has_alpha = self.colour in (GREY_ALPHA, COLOURS_ALPHA)
            values = self.samples[..., :-1] if has_alpha else self.samples
            colours = np.broadcast_to(values * (255 / most), (*values.shape[:2], 3))
            alpha = self.samples[..., -1] / most if has_alpha else np.ones(values.shape[:2])
            if self.trns is not None:
                key = np.frombuffer(self.trns, ">u2")
                alpha = np.where((values == key).all(axis=-1), 0.0, 1.0)
        return colours * alpha[..., None] + 255 * (1 - alpha[..., None])


def random_png(rng: np.random.Generator, colour: int, depth: int, *, trns: bool, interlaced: bool) -> PngCase:
    """A PNG of random samples; with `trns`, some of its pixels are transparent."""
    height, width = (int(side) for side in rng.integers(1, 20, 2))
    most = 2**depth - 1
    samples = rng.integers(0, most + 1, (height, width, _CHANNELS[colour]), dtype=np.uint16)
    palette = rng.integers(0, 256, (most + 1, 3), dtype=np.uint8) if colour == PALETTE else None
    chunk_body: bytes | None = None
    if trns and colour == PALETTE:
        chunk_body = rng.integers(0, 256, int(rng.integers(1, most + 2)), dtype=np.uint8).tobytes()
        if rng.integers(2):  # one colour is transparent, as in GIF
            chunk_body = b"\xff" * int(rng.integers(0, most + 1)) + b"\0"
    elif trns and colour in (GREY, COLOURS):
        key = samples[rng.integers(height), rng.integers(width)]
        samples[rng.random((height, width)) < 0.3] = key
        if depth == 16:  # colours that differ from the key in the lower byte only are not transparent
            samples[rng.random((height, width)) < 0.2] = key ^ 1
        chunk_body = key.astype(">u2").tobytes()
    return PngCase(colour, depth, samples, palette, chunk_body, interlaced)


def png_kinds() -> Iterator[tuple[int, int]]:
    """Every (colour type, depth) of PNG."""
    yield from ((colour, depth) for colour, depths in DEPTHS.items() for depth in depths)


def exif_block(entries: list[tuple[int, int, int, bytes]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF block with these entries (tag, type, count, 4 bytes of value or offset), and data after them."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    body = b"".join(struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return head + body + bytes(4) + data


def orientation_entry(value: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return 0x0112, 3, 1, struct.pack(order + "HH", value, 0)


def embed_exif(kind: str, picture: Image.Image, block: bytes) -> bytes:
    """The picture as a file of this kind with a raw EXIF block, which Pillow does not read or change."""
    if kind == "PNG":
        return with_chunk(saved(picture, "PNG"), b"eXIf", block)
    if kind == "JPEG":
        return with_segment(saved(picture, "JPEG", quality=98, subsampling=0), 0xE1, b"Exif\0\0" + block)
    return saved(picture, "WEBP", lossless=True, exif=b"Exif\0\0" + block)
