"""An error names what was sent."""

from __future__ import annotations

import base64
import gzip
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.pictures import saved
from tests.support.samples import png
from vlibrary.domain.errors import InvalidImage
from vlibrary.domain.query import DEFAULT_IMAGE_FORMATS, IMAGE_FORMATS
from vlibrary.formats.images import decode_image
from vlibrary.formats.images.recognise import recognise


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", png())
    return buffer.getvalue()


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4)))
    return buffer.getvalue()


OTHERS = {
    "empty": b"",
    "an unknown file": b"\0\1\2\3" * 9,
    "a HEIC file": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    "an MP4 or QuickTime video": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(40),
    "a camera raw file (CR3)": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(40),
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an HTML page": b"\n<!DOCTYPE html><html><head><title>404</title></head></html>",
    "an XML or HTML file": b"<Error><Code>AccessDenied</Code></Error>",
    "a JSON file": b'{"error": "not found"}',
    "a text file": "größe.png\n".encode(),
    "the text of a URL": b"https://example.org/picture.png",
    "base64 text, which was probably encoded twice": base64.b64encode(png()),
    "a PDF document": b"%PDF-1.7\n",
    "a ZIP archive": zipped(),
    "a gzip file": gzip.compress(png()),
    "a NumPy array file": numpy_file(),
    "an AVI video": b"RIFF\0\0\0\0AVI LIST",
    "a JPEG XL file": b"\xff\x0a" + bytes(20),
    "a JPEG 2000 file": saved(Image.new("RGB", (8, 8)), "JPEG2000"),
    "an icon (ICO) file": saved(Image.new("RGB", (16, 16)), "ICO"),
    "a Netpbm file": saved(Image.new("RGB", (8, 8)), "PPM"),
    "a Git LFS pointer, which stands for a file that was not downloaded": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_an_image_is_named(name: str) -> None:
    with pytest.raises(InvalidImage) as refusal:
        decode_image(OTHERS[name])
    assert refusal.value.detail == f"The image is {name} ({len(OTHERS[name]):,} bytes)."
    assert refusal.value.cure == "Send it as PNG, JPEG, WebP or GIF."


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_an_accepted_format_is_recognised_and_another_is_named(kind: str) -> None:
    data = saved(Image.new("RGB", (8, 8)), kind)
    assert recognise(data) == kind
    assert decode_image(data, [kind]).size == (8, 8)
    with pytest.raises(InvalidImage, match="format, which is not accepted") as refusal:
        decode_image(data, [other for other in IMAGE_FORMATS if other != kind])
    assert f"or add {kind} to VLIBRARY_IMAGE_FORMATS" in refusal.value.cure


def test_the_default_formats_are_those_of_other_services() -> None:
    assert DEFAULT_IMAGE_FORMATS == ("PNG", "JPEG", "WEBP", "GIF")


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_named_without_a_class_name(data: bytes) -> None:
    with pytest.raises(InvalidImage) as refusal:
        decode_image(data)
    assert not {"Error", "PIL", "None"} & set(refusal.value.detail.split())


@given(st.sampled_from(IMAGE_FORMATS), st.binary(max_size=100))
@pytest.mark.filterwarnings("ignore")  # Pillow's TIFF reader warns of damage
def test_a_damaged_file_is_named_by_its_format(kind: str, rest: bytes) -> None:
    data = saved(Image.new("RGB", (8, 8)), kind)[:16] + rest
    with pytest.raises(InvalidImage):
        decode_image(data, IMAGE_FORMATS)
