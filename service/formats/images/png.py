"""PNG files. Source: PNG, third edition (W3C, 2025)."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from vlibrary.formats.images.container import Container
from vlibrary.formats.images.profiles import MAX_PROFILE
from vlibrary.formats.images.tiff import read_orientation

_SIGNATURE_BYTES, _DEPTH_AT, _COLOUR_AT = 8, 24, 25
_GREY, _COLOURS, _PALETTE = 0, 2, 3
_TRANSPARENCY_BYTES: dict[int, Sequence[int]] = {_GREY: (2,), _COLOURS: (6,), _PALETTE: range(1, 257)}


def open_png(data: bytes) -> Container:
    """Open the file. Text, time, gamma and other chunks are not read, so that their contents never matter."""
    exif, profile, transparency, frames, frame_first, pixels = b"", b"", b"", 0, False, False
    kept = [data[:_SIGNATURE_BYTES]]
    for name, start, end in _iter_chunks(data):
        if name[:1].isupper():  # what no reader may skip
            kept.append(data[start:end])
            pixels |= name == b"IDAT"
        elif name == b"tRNS" and not pixels and not transparency:
            transparency = _check_transparency(data[start:end], data[_COLOUR_AT])
            kept.append(transparency)
        elif name == b"eXIf" and not exif:
            exif = data[start + 8 : end - 4]
        elif name == b"iCCP" and not profile:
            profile = _unpack_profile(data[start + 8 : end - 4])
        elif name == b"acTL" and not pixels:
            frames = int.from_bytes(data[start + 8 : end - 4][:4])
        elif name == b"fcTL":
            frame_first |= not pixels
    stripped = b"".join(kept)
    animated = frames > 1 or (frames == 1 and not frame_first)  # APNG; one frame may be the image itself
    container = Container(
        PngImageFile(io.BytesIO(stripped)),
        orientation=read_orientation(exif),
        profile=profile,
        several="animated" if animated else None,
    )
    return _with_exact_key(container, stripped) if "transparency" in container.image.info else container


def _iter_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the chunks up to IEND."""
    at, name = _SIGNATURE_BYTES, b""
    while at < len(data) and name != b"IEND":
        name, start = data[at + 4 : at + 8], at
        at += 12 + int.from_bytes(data[at : at + 4])
        yield name, start, at


def _check_transparency(chunk: bytes, colour: int) -> bytes:
    """Return a tRNS chunk if it is intact and has a length for this colour type. Viewers ignore others."""
    fits = len(chunk) - 12 in _TRANSPARENCY_BYTES.get(colour, ())
    return chunk if fits and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:]) else b""


def _unpack_profile(chunk: bytes) -> bytes:
    """Return the ICC profile of an iCCP chunk; empty if it is damaged or larger than MAX_PROFILE."""
    _, _, packed = chunk.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return b""
    return profile if unpacker.eof else b""


def _palette_alphas(image: ImageFile) -> bytes:
    """Return the alphas of all 256 indices.

    An index without a colour is transparent. Pillow and others write such files: they drop the transparent index's
    entry from the palette if it is the last, and its alpha with it.
    """
    given, colours = image.info["transparency"], len(image.palette.palette) // 3 if image.palette else 0
    alphas = b"\xff" * given + b"\0" if isinstance(given, int) else given
    return alphas[:colours].ljust(colours, b"\xff").ljust(256, b"\0")


def _with_exact_key(container: Container, stripped: bytes) -> Container:
    """Make the transparent colour comparable with the pixels that Pillow decodes.

    Pillow widens grey samples of 2 and 4 bits to 8 and cuts colours of 16 bits to 8, but not the transparent colour.
    """
    image, depth, colour = container.image, stripped[_DEPTH_AT], stripped[_COLOUR_AT]
    if colour == _PALETTE:
        image.info["transparency"] = _palette_alphas(image)
        return container
    key, mask = image.info["transparency"], 2**depth - 1
    if colour == _GREY and depth > 1:
        image.info["transparency"] = (key & mask) * (255 // mask if depth < 8 else 1)
    elif colour == _COLOURS and depth == 8:
        image.info["transparency"] = tuple(value & mask for value in key)
    elif colour == _COLOURS:
        low = PngImageFile(io.BytesIO(stripped))
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # of each two bytes the second
        return replace(container, low=low)
    return container
