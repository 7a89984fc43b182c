"""Images that a caller of the client passes, and the requests they become."""

from __future__ import annotations

import io
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from tests.support.pictures import exif_block, orientation_entry, saved, with_segment
from tests.support.samples import png
from vlibrary.client.endpoints import generate_request
from vlibrary.client.images import encode_images
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.example import Example
from vlibrary.formats.images import decode_image
from vlibrary.schemas.generate import ChosenVector

DATA = png()


def seen(image: Any) -> NDArray[np.uint8]:
    """The pixels that the service sees."""
    (encoded,) = encode_images(image)
    return np.asarray(decode_image(b64decode(encoded)))


def test_one_image_may_be_in_many_forms(tmp_path: Path) -> None:
    path = tmp_path / "größe.png"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        forms: list[Any] = [DATA, bytearray(DATA), memoryview(DATA), path, str(path), io.BytesIO(DATA), file]
        for form in forms:
            assert [b64decode(one) for one in encode_images(form)] == [DATA], type(form)
    assert len(encode_images([DATA, path])) == 2
    assert len(encode_images((path,))) == 1
    assert encode_images(()) == []


@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
    )
)
def test_an_array_is_sent_as_its_pixels(array: NDArray[np.uint8]) -> None:
    expected = array if array.ndim == 3 else np.dstack([array] * 3)
    assert np.array_equal(seen(array), expected)
    assert np.array_equal(seen(np.asfortranarray(array)[::-1]), expected[::-1])


def test_the_alpha_of_an_array_is_composited_by_the_service() -> None:
    assert (seen(np.zeros((2, 2, 4), np.uint8)) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV"])
def test_a_pillow_image_of_any_mode_is_sent(mode: str) -> None:
    image = Image.linear_gradient("L").resize((8, 8)).convert({"RGBa": "RGBA", "La": "LA"}.get(mode, mode))
    found = seen(image.convert(mode))
    assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).max() <= 2


def test_a_pillow_image_is_seen_as_its_file_would_be() -> None:
    """Pillow neither applies the orientation nor the profile, and drops the orientation when it saves."""
    corner = Image.new("RGB", (16, 8), "red")
    corner.paste("blue", (0, 0, 8, 8))
    data = with_segment(saved(corner, "JPEG", quality=98), 0xE1, b"Exif\0\0" + exif_block([orientation_entry(6)]))
    assert np.array_equal(seen(Image.open(io.BytesIO(data))), seen(data))
    keyed = saved(corner.quantize(4), "PNG", transparency=0)
    assert np.array_equal(seen(Image.open(io.BytesIO(keyed))), seen(keyed))


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("missing.png", r"Cannot read the image 'missing.png': No such file or directory\."),
        ("https://example.org/a.png", "Cannot read the image"),
        (".", "Is a directory"),
        ("a\0b", "null"),
        (7, "An image is of type int"),
        (None, "An image is of type NoneType"),
        ([7], "An image is of type int"),
        (io.StringIO("text"), "An image is of type StringIO"),
        (np.zeros((2, 2)), r"shape \[2, 2\] and type float64"),
        (np.zeros((2, 2, 2), np.uint8), r"shape \[2, 2, 2\]"),
        (np.zeros((0, 2), np.uint8), r"shape \[0, 2\]"),
        (Image.new("F", (2, 2)), "mode F"),
    ],
)
def test_what_is_not_an_image_is_refused_before_it_is_sent(image: Any, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        encode_images(image)


def test_options_become_the_body_of_the_request() -> None:
    request = generate_request("Q", {"steering": "colour@production", "strength": 0.5, "timeout": 5.0, "model": "m"})
    assert request["timeout"] > 5
    body = request["json"]
    assert body["steering"] == [{"id": "colour@production", "strength": 0.5}]
    assert (body["timeout_s"], body["model"], "strength" in body, "timeout" in body) == (5.0, "m", False, False)


def test_each_vector_may_have_its_own_strength() -> None:
    body = generate_request("Q", {"steering": ["a", ChosenVector(id="b", strength=2.0)]})["json"]
    assert body["steering"] == [{"id": "a", "strength": 1.0}, {"id": "b", "strength": 2.0}]
    assert generate_request("Q", {"steering": ChosenVector(id="b")})["json"]["steering"] == [
        {"id": "b", "strength": 1.0}
    ]
    assert generate_request("Q", {"steering": []})["json"]["steering"] == []
    automatic = generate_request("Q", {"strength": 2.0, "demonstrations": [Example(DATA, "q", "a")]})["json"]
    assert (automatic["strength"], "steering" in automatic) == (2.0, False)
    assert b64decode(automatic["demonstrations"][0]["images"][0]) == DATA
