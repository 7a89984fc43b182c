"""Metadata never decides whether an image can be read; only orientation and profile change how."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.pictures import embed_exif, exif_block, orientation_entry, saved, with_chunk, with_segment
from vlibrary.domain.query import IMAGE_FORMATS
from vlibrary.formats.images import decode_image

CORNER = np.zeros((16, 32, 3), np.uint8)
CORNER[:8, :16] = (255, 0, 0)
CORNER[:8, 16:] = (0, 0, 255)
STORED = Image.fromarray(CORNER)
TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
KINDS = ("PNG", "JPEG", "WEBP")
KIND_OPTIONS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 95}}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of TIFF's types
POINTERS = (0x8769, 0x8825, 0xA005)  # to the EXIF, GPS and interoperability directories


def shows(data: bytes, orientation: int) -> bool:
    found = np.asarray(decode_image(data, IMAGE_FORMATS)).astype(int)
    expected = TURNS[orientation](CORNER)
    return found.shape == expected.shape and float(np.abs(found - expected).mean()) < 8  # JPEG blurs the edges


@st.composite
def exif_blocks(draw: st.DrawFn) -> tuple[int, bytes]:
    """An orientation, and a block that has it among other tags of any type, count, value and offset."""
    order = draw(st.sampled_from("<>"))
    orientation = draw(st.integers(1, 8))
    entries = [orientation_entry(orientation, order)]
    start = 8 + 2 + 4
    data = draw(st.binary(max_size=60))
    others = draw(
        st.lists(st.tuples(st.integers(0, 0xFFFF) | st.sampled_from(POINTERS), st.integers(0, 14)), max_size=8)
    )
    for tag, kind in others:
        if tag != 0x0112:
            count = draw(st.integers(0, 4) | st.integers(0, 2**32 - 1))
            place = st.integers(start, start + 12 * 9 + 60) | st.integers(0, 2**32 - 1)
            value = (
                struct.pack(order + "I", draw(place))
                if SIZES.get(kind, 1) * count > 4
                else draw(st.binary(min_size=4, max_size=4))
            )
            entries.append((tag, kind, count, value))
    if draw(st.booleans()):
        entries.sort()  # as the standard asks for; not every camera does
    return orientation, exif_block(entries, data, order)


@settings(max_examples=200)
@given(st.sampled_from(KINDS), exif_blocks())
def test_the_orientation_is_read_and_every_other_tag_is_ignored(kind: str, exif: tuple[int, bytes]) -> None:
    orientation, block = exif
    assert shows(embed_exif(kind, STORED, block), orientation)


@settings(max_examples=100)
@given(st.sampled_from(KINDS), st.binary(max_size=80), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II*\0\x08\0\0\0"]))
def test_garbage_in_place_of_exif_is_ignored(kind: str, garbage: bytes, head: bytes) -> None:
    data = embed_exif(kind, STORED, head + garbage)
    assert decode_image(data).size in {(32, 16), (16, 32)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_directory_that_ends_too_early_keeps_its_orientation(kind: str, orientation: int) -> None:
    block = exif_block([orientation_entry(orientation), (0x010F, 2, 90, b"\xff\xff\0\0"), (0x0110, 2, 3, b"abc\0")])
    assert shows(embed_exif(kind, STORED, block[: 10 + 12 + 5]), orientation)


@pytest.mark.parametrize("kind", [*KINDS, "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a description"
    options = KIND_OPTIONS.get(kind, {})
    assert shows(saved(STORED, kind, exif=exif, **options), orientation)


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_out_of_range_is_ignored(value: int) -> None:
    assert shows(embed_exif("JPEG", STORED, exif_block([orientation_entry(value)])), 1)


@pytest.mark.parametrize(("kind", "packing"), [(1, "B3x"), (3, "H2x"), (4, "I"), (8, "h2x"), (9, "i")])
def test_the_orientation_may_be_any_integer_type(kind: int, packing: str) -> None:
    block = exif_block([(0x0112, kind, 1, struct.pack("<" + packing, 6))])
    assert shows(embed_exif("PNG", STORED, block), 6)


def test_avif_with_odd_exif_tags_and_an_orientation_is_read() -> None:
    """The orientation is that of the container; writing it into such a block fails in Pillow."""
    odd = exif_block([(0x011A, 2, 3, b"72\0\0"), (0x8825, 4, 1, b"\xff\xff\0\0")])
    rotated = saved(STORED, "AVIF", quality=95, exif=b"Exif\0\0" + exif_block([orientation_entry(6)]))
    assert shows(rotated, 6)
    assert shows(saved(STORED, "AVIF", quality=95, exif=b"Exif\0\0" + odd), 1)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1_000, 60_000), st.integers(0, 14), st.integers(0, 2**32 - 1)), max_size=6))
def test_tiff_tags_other_than_those_for_pixels_are_ignored(tags: list[tuple[int, int, int]]) -> None:
    """The file's directory is moved to the end, with more tags in it."""
    data = saved(STORED, "TIFF")
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    own = [data[at : at + 12] for at in range(place + 2, place + 2 + 12 * count, 12)]
    used = {struct.unpack("<H", entry[:2])[0] for entry in own} | {34675}
    more = [struct.pack("<HHII", tag, kind, n, n) for tag, kind, n in tags if tag not in used]
    entries = sorted(
        [*own, *more, struct.pack("<HHIHH", 274, 3, 1, 6, 0)], key=lambda entry: struct.unpack("<H", entry[:2])
    )
    end = len(data) + len(data) % 2
    tail = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    moved = (data[:4] + struct.pack("<I", end) + data[8:]).ljust(end, b"\0") + tail
    assert shows(moved, 6)


def test_a_jpeg_shows_its_first_image() -> None:
    second = Image.new("RGB", (8, 8))
    assert shows(saved(STORED, "MPO", save_all=True, append_images=[second], quality=95), 1)


@settings(max_examples=40)
@given(st.binary(max_size=60), st.sampled_from([b"MPF\0", b"ICC_PROFILE\0", b"FPXR\0", b""]))
def test_application_segments_are_ignored(body: bytes, head: bytes) -> None:
    data = saved(STORED, "JPEG", quality=95)
    for marker in (0xE1, 0xE2, 0xED, 0xEF, 0xFE):
        data = with_segment(data, marker, (b"Photoshop 3.0\0" if marker == 0xED else head) + body)
    assert shows(data, 1)


def test_bytes_between_and_before_segments_are_skipped() -> None:
    data = saved(STORED, "JPEG", quality=95)
    assert shows(data[:2] + b"\xff\xff\xff" + data[3:], 1)  # fill bytes
    exif = with_segment(data, 0xE1, b"Exif\0\0" + exif_block([orientation_entry(6)]))
    assert shows(exif + b"appended by a phone: a video", 6)


PACKED = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (b"iCCP", b"icc\0\0" + PACKED),
        (b"zTXt", b"workflow\0\0" + PACKED),
        (b"iTXt", b"workflow\0\1\0\0\0" + PACKED),
        (b"tEXt", b"workflow\0" + b"x" * 3_000_000),
        (b"iCCP", b"icc\0\7broken"),
        (b"zTXt", b"\0\7"),
        (b"gAMA", b"\0"),
        (b"cHRM", b""),
        (b"pHYs", b"\0"),
        (b"sRGB", b""),
        (b"tIME", b"x"),
        (b"acTL", b""),
        (b"fcTL", b"x"),
    ],
)
def test_png_metadata_of_any_size_and_shape_is_ignored(name: bytes, body: bytes) -> None:
    assert shows(with_chunk(saved(STORED, "PNG"), name, body), 1)


RED = bytes((0, 255, 0, 0, 0, 0))  # as the transparent colour of a PNG with 8 bits a channel


@pytest.mark.parametrize(
    ("body", "before"), [(RED[:2], b"IDAT"), (b"", b"IDAT"), (RED + b"\0", b"IDAT"), (RED, b"IEND")]
)
def test_a_transparent_colour_of_a_wrong_length_or_after_the_pixels_is_ignored(body: bytes, before: bytes) -> None:
    assert shows(with_chunk(saved(STORED, "PNG"), b"tRNS", body, before), 1)


def test_a_damaged_transparent_colour_is_ignored_and_the_first_valid_one_counts() -> None:
    data = saved(STORED, "PNG")
    transparent = with_chunk(data, b"tRNS", RED)
    assert not shows(transparent, 1)
    end = transparent.index(b"tRNS") + 4 + len(RED)
    assert shows(transparent[:end] + b"\0\0\0\0" + transparent[end + 4 :], 1)
    assert decode_image(with_chunk(transparent, b"tRNS", bytes(6))) == decode_image(transparent)


def test_exif_after_the_pixels_counts() -> None:
    block = exif_block([orientation_entry(8)])
    assert shows(with_chunk(saved(STORED, "PNG"), b"eXIf", block, before=b"IEND"), 8)


def test_text_is_not_unpacked() -> None:
    data = saved(STORED, "PNG")
    for name, head in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        data = with_chunk(data, name, head + zlib.compress(bytes(60_000_000), 9))
    decode_image(data)
    tracemalloc.start()
    decode_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000, peak
