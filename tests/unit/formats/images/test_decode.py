"""Limits of decoding, and damaged files."""

from __future__ import annotations

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

from tests.support.pictures import saved
from tests.support.samples import blank_png
from vlibrary.domain.errors import InvalidImage
from vlibrary.domain.query import IMAGE_FORMATS
from vlibrary.formats.images import decode_image, decode_images
from vlibrary.formats.images.decode import MAX_ASPECT, MAX_PIXELS, MAX_SOURCE_PIXELS

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def refused(data: bytes, why: str) -> None:
    with pytest.raises(InvalidImage, match=why) as refusal:
        decode_image(data)
    assert refusal.value.cure


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_pixels_are_decoded_exactly(kind: str, options: dict[str, Any]) -> None:
    assert np.array_equal(np.asarray(decode_image(saved(PICTURE, kind, **options))), PIXELS)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
@pytest.mark.filterwarnings("ignore")  # Pillow's TIFF reader warns of damage
def test_truncated_images_are_refused(kind: str) -> None:
    data = saved(PICTURE, kind)
    end = len(data) - {"PNG": 24, "JPEG": 2, "GIF": 2}.get(kind, 0)  # end marks may be missing
    for length in range(24, end, 7):
        with pytest.raises(InvalidImage, match="cannot be read"):
            decode_image(data[:length], IMAGE_FORMATS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [PICTURE.rotate(90 * turn) for turn in range(1, 3)]
    refused(saved(PICTURE, kind, save_all=True, append_images=frames, duration=100), "animated")


def test_a_page_may_be_followed_by_smaller_copies_of_it() -> None:
    small = PICTURE.resize((10, 6))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = saved(PICTURE, "TIFF", save_all=True, append_images=[small])
    assert decode_image(data, ["TIFF"]).size == PICTURE.size
    with pytest.raises(InvalidImage, match="several pages"):
        decode_image(saved(PICTURE, "TIFF", save_all=True, append_images=[PICTURE]), ["TIFF"])


def test_an_image_of_25_megapixels_is_not_scaled() -> None:
    side = int(MAX_PIXELS**0.5)
    assert decode_image(blank_png(side, side)).size == (side, side)


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("PNG", (6_001, 5_000), (3_001, 2_500)),
        ("JPEG", (6_001, 5_000), (3_001, 2_500)),
        ("GIF", (6_001, 5_000), (3_001, 2_500)),
    ],
)
def test_a_larger_image_is_scaled_down(kind: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").resize(size, Image.Resampling.NEAREST)
    found = decode_image(saved(image, kind))
    assert found.size == expected
    small = np.asarray(image.resize(expected, Image.Resampling.BOX).convert("RGB")).astype(int)
    assert np.abs(np.asarray(found) - small).max() <= 3


def test_transparency_and_orientation_survive_scaling() -> None:
    image = Image.new("LA", (6_000, 5_000), (0, 128))
    image.paste((0, 0), (0, 0, 6_000, 2_500))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode_image(saved(image, "PNG", compress_level=1, exif=exif))
    assert found.size == (2_500, 3_000)
    assert found.getpixel((2_400, 10)) == (255, 255, 255)
    assert found.getpixel((100, 10)) == (127, 127, 127)


def test_limits_are_inclusive() -> None:
    refused(blank_png(15_001, 10_000), f"15001 × 10000 pixels.*at most {MAX_SOURCE_PIXELS:,}")
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


def test_too_many_pixels_in_total_are_refused_before_decoding() -> None:
    small, large = blank_png(8, 8), blank_png(5000, 5000)
    assert [picture.size for picture in decode_images([small] * 2)] == [(8, 8)] * 2
    truncated = large[:-20]  # its header is fine, its pixels are not
    with pytest.raises(InvalidImage, match="125,000,000 pixels in total"):
        decode_images([large] * 4 + [truncated])
