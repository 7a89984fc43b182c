"""Decoding of untrusted images."""

from __future__ import annotations

import io
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.samples import blank_png
from vlibrary.domain.errors import InvalidImage
from vlibrary.formats.images import MAX_ASPECT, MAX_PIXELS, decode_image, decode_images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidImage, match=why) as refusal:
        decode_image(data)
    assert refusal.value.cure


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_pixels_are_decoded_exactly(kind: str, options: dict[str, Any]) -> None:
    assert np.array_equal(np.asarray(decode_image(saved(PICTURE, kind, **options))), PIXELS)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("L", "LA", "1", "P", "RGBA", "I;16")),
        *((mode, "JPEG") for mode in ("L", "CMYK")),
        ("RGBA", "WEBP"),
    ],
)
def test_grey_alpha_palette_and_cmyk_become_rgb(mode: str, kind: str) -> None:
    grey = PICTURE.convert("L")  # the only way to 16 bits
    found = decode_image(saved((grey if mode == "I;16" else PICTURE).convert(mode), kind))
    assert (found.mode, found.size) == ("RGB", (40, 24))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(kind: str, orientation: int, turns: int) -> None:
    """The red corner ends up where the EXIF orientation says."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = np.asarray(decode_image(saved(Image.fromarray(pixels), kind, exif=exif)))
    expected = np.rot90(pixels, turns)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 8  # JPEG blurs the edges


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_images_are_refused(kind: str) -> None:
    data = saved(PICTURE, kind)
    ends = {"PNG": len(data) - 24, "JPEG": len(data) - 2, "WEBP": len(data)}[kind]  # end marks may be missing
    for length in range(0, ends, 7):
        refused(data[:length], "cannot be read")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [PICTURE.rotate(90 * turn) for turn in range(1, 3)]
    refused(saved(PICTURE, kind, save_all=True, append_images=frames, duration=100), "animated")


def test_other_formats_are_refused() -> None:
    frames = [PICTURE.rotate(90)]
    refused(saved(PICTURE, "GIF", save_all=True, append_images=frames), "cannot be read")
    for kind in ("GIF", "BMP", "TIFF", "ICO", "PPM"):
        refused(saved(PICTURE, kind), "cannot be read")


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a picture at all", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_bytes_that_are_not_an_image_are_refused(data: bytes) -> None:
    refused(data, f"{len(data)} bytes")


def test_limits_are_inclusive() -> None:
    side = int(MAX_PIXELS**0.5)
    assert decode_image(blank_png(side, side)).size == (side, side)
    refused(blank_png(side + 1, side), "pixels")
    assert decode_image(blank_png(MAX_ASPECT * 2, 2)).size == (MAX_ASPECT * 2, 2)
    refused(blank_png(MAX_ASPECT * 2 + 1, 2), "extreme aspect ratio")
    refused(blank_png(2, MAX_ASPECT * 2 + 1), "extreme aspect ratio")


def test_concurrent_decoding_does_not_change_warning_filters() -> None:
    """warnings.catch_warnings is not thread-safe: it would change the filters of all threads."""
    data, before = saved(PICTURE, "PNG"), list(warnings.filters)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            sizes = {found.size for found in threads.map(decode_image, [data] * 400)}
    finally:
        sys.setswitchinterval(interval)
    assert sizes == {(40, 24)}
    assert list(warnings.filters) == before


def with_exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return saved(PICTURE, kind, exif=exif)


FILES = [with_exif("PNG"), with_exif("JPEG"), with_exif("WEBP"), saved(PICTURE.convert("P"), "PNG", transparency=3)]


@settings(max_examples=150)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6))
@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged notes and reads on
def test_corrupt_images_are_decoded_or_refused(file: bytes, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(file)
    for place, change in flips:
        damaged[int(place * len(damaged))] ^= change
    with suppress(InvalidImage):
        assert decode_image(bytes(damaged)).mode == "RGB"


def test_malformed_exif_is_refused() -> None:
    """Found by fuzzing: the picture's height (tag 0x0101) as a fraction made Pillow raise struct.error."""
    upright = struct.pack(">HHII", 0x0112, 3, 1, 6 << 16)
    height = struct.pack(">HHII", 0x0101, 5, 1, 38)
    note = b"MM" + struct.pack(">HIH", 42, 8, 2) + height + upright + struct.pack(">III", 0, 3, 2)
    refused(saved(PICTURE, "PNG", exif=b"Exif\0\0" + note), "cannot be read")


def test_too_many_pixels_in_total_are_refused_before_decoding() -> None:
    small, large = blank_png(8, 8), blank_png(5000, 5000)
    assert [picture.size for picture in decode_images([small] * 2)] == [(8, 8)] * 2
    truncated = large[:-20]  # its header is fine, its pixels are not
    with pytest.raises(InvalidImage, match="125,000,000 pixels in total"):
        decode_images([large] * 4 + [truncated])
