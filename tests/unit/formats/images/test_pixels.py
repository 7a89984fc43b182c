"""A decoded image has the pixels that a viewer shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.support.pictures import PngCase, png_kinds, random_png, saved
from vlibrary.domain.errors import InvalidImage
from vlibrary.domain.query import IMAGE_FORMATS
from vlibrary.formats.images import decode_image

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (24, 40), dtype=np.uint8)
ALPHA[:8] = 0  # where hidden colours differ most from white
KIND_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100},
    "AVIF": {"quality": 100},
}
RAMP = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 68  # 0 to 65,212


def pixels(data: bytes) -> NDArray[np.float64]:
    image = decode_image(data, IMAGE_FORMATS)
    assert image.mode == "RGB"
    return np.asarray(image).astype(float)


def on_white(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.float64]:
    weight = alpha[..., None] / 255
    shown: NDArray[np.float64] = colours * weight + 255 * (1 - weight)
    return shown


def close(found: NDArray[np.float64], expected: NDArray[Any], tolerance: float = 1) -> bool:
    return found.shape == expected.shape and float(np.abs(found - expected).max()) <= tolerance


@settings(max_examples=200)
@given(st.sampled_from(list(png_kinds())), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_png_of_every_kind_is_shown_exactly(kind: tuple[int, int], trns: bool, interlaced: bool, seed: int) -> None:
    """Colour types × depths × transparency × Adam7; 16 bits are cut to 8, once for colours and once for alpha."""
    case: PngCase = random_png(np.random.default_rng(seed), *kind, trns=trns, interlaced=interlaced)
    assert close(pixels(case.encode()), case.shown(), tolerance=2.5 if kind[1] == 16 else 1)


@pytest.mark.parametrize(("key", "outside"), [(3, 255), (None, 0)], ids=["transparency", "opaque"])
def test_a_palette_index_without_a_colour(key: int | None, outside: int) -> None:
    """Written by Pillow for a transparent index behind the palette's end; its alpha is not in the file."""
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30] * 3)
    image.paste(3, (0, 0, 2, 2))
    found = pixels(saved(image, "PNG", **({} if key is None else {"transparency": key})))
    assert (found[:, :2] == outside).all()
    assert (found[:, 2:] == (10, 20, 30)).all()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_alpha_is_composited_on_white(kind: str, options: dict[str, Any]) -> None:
    rgba = Image.fromarray(np.dstack([COLOURS, ALPHA]))
    assert close(pixels(saved(rgba, kind, **options)), on_white(COLOURS, ALPHA))


def test_avif_alpha_is_composited_on_white() -> None:
    flat = np.full_like(COLOURS, (200, 40, 90))
    data = saved(Image.fromarray(np.dstack([flat, ALPHA])), "AVIF", quality=100, subsampling="4:4:4")
    assert close(pixels(data), on_white(flat, ALPHA), tolerance=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha_is_composited_on_white(kind: str) -> None:
    grey = COLOURS[..., 0]
    data = saved(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(ALPHA)]), kind)
    assert close(pixels(data), on_white(np.dstack([grey] * 3), ALPHA))


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.booleans())
def test_a_still_gif_shows_its_transparent_colour_as_white(seed: int, with_key: bool) -> None:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 16, rng.integers(1, 30, 2), dtype=np.uint8)
    palette = rng.integers(0, 256, (16, 3), dtype=np.uint8)
    image = Image.fromarray(index, "L").copy()
    image.putpalette(palette.tobytes())
    key = int(rng.integers(16)) if with_key else None
    shown = palette[index].astype(float)
    if key is not None:
        shown[index == key] = 255
    data = saved(image, "GIF", optimize=False, **({} if key is None else {"transparency": key}))
    assert close(pixels(data), shown, tolerance=0)


@pytest.mark.parametrize("transparency", [None, 0])
def test_a_gif_frame_smaller_than_its_screen_has_white_around_it(transparency: int | None) -> None:
    options = {} if transparency is None else {"transparency": transparency}
    data = bytearray(saved(Image.new("P", (4, 4), 1), "GIF", **options))
    red = data.index(b"\x2c")  # the image descriptor: left, top, width, height
    data[6:10] = (8).to_bytes(2, "little") * 2  # the screen
    data[red + 1 : red + 5] = (2).to_bytes(2, "little") * 2
    found = pixels(bytes(data))
    assert found.shape == (8, 8, 3)
    outside = np.ones((8, 8), bool)
    outside[2:6, 2:6] = False
    assert (found[outside] == 255).all()
    assert (found[~outside] == found[2, 2]).all()


@pytest.mark.parametrize("options", [{}, {"big_endian": True}], ids=["little-endian", "big-endian"])
def test_sixteen_bit_grey_tiff_is_scaled(options: dict[str, bool]) -> None:
    image = Image.fromarray(RAMP.astype(">u2" if options else "<u2"))
    assert image.mode == ("I;16B" if options else "I;16")
    assert close(pixels(saved(image, "TIFF")), np.dstack([RAMP / 257] * 3))


@pytest.mark.parametrize(("mode", "why"), [("F", "floating-point"), ("I", "signed")])
def test_samples_without_a_white_are_refused(mode: str, why: str) -> None:
    with pytest.raises(InvalidImage, match=f"{why} samples, which have no defined white"):
        decode_image(saved(Image.new(mode, (4, 4)), "TIFF"), IMAGE_FORMATS)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, kind) for mode in ("1", "L", "P", "RGB") for kind in ("PNG", "GIF", "BMP", "TIFF")),
        *((mode, "TIFF") for mode in ("CMYK", "LAB", "YCbCr", "RGBA", "LA")),
        *((mode, "JPEG") for mode in ("L", "CMYK", "RGB", "YCbCr")),
    ],
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    smooth = Image.linear_gradient("L").resize((48, 32))
    colours = Image.merge("RGB", [smooth, smooth.rotate(180), smooth])
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = to_lab.apply(colours)
    else:
        image = colours.convert(mode)
    expected = colours if mode == "LAB" else image.convert("RGB")
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    tolerance = {"GIF": 60, "TIFF": 20 if mode == "LAB" else 6}.get(kind, 6)  # GIF and LAB cannot hold every colour
    assert close(pixels(saved(image, kind, **options)), np.asarray(expected), tolerance)


def swapped_profile() -> bytes:
    """An sRGB profile whose red and green primaries are exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ", 128), profile.index(b"gXYZ", 128)
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_colours_are_converted_from_the_profile(kind: str) -> None:
    options = KIND_OPTIONS.get(kind, {})
    data = saved(Image.new("RGB", (16, 16), (250, 10, 20)), kind, icc_profile=swapped_profile(), **options)
    assert close(pixels(data), np.broadcast_to(np.array([10, 250, 20]), (16, 16, 3)), tolerance=8)


def test_hidden_colours_are_converted_before_they_are_composited() -> None:
    image = Image.new("RGBA", (4, 4), (250, 10, 20, 128))
    found = pixels(saved(image, "PNG", icc_profile=swapped_profile()))
    assert close(found, np.broadcast_to(np.array([132, 252, 137]), (4, 4, 3)), tolerance=4)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"not a profile",
        bytes(1_000),
        swapped_profile()[:300],
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["empty", "text", "zeros", "cut", "lab"],
)
def test_a_profile_that_does_not_fit_is_ignored(mode: str, profile: bytes) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    kind, options = ("JPEG", {"quality": 90}) if mode == "CMYK" else ("PNG", {})
    plain, tagged = saved(image, kind, **options), saved(image, kind, icc_profile=profile, **options)
    assert np.array_equal(pixels(tagged), pixels(plain))


def test_an_srgb_profile_leaves_every_pixel_as_it_is() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(pixels(saved(Image.fromarray(COLOURS), "PNG", icc_profile=srgb)), COLOURS)


def test_the_result_does_not_depend_on_the_file_after_decoding() -> None:
    data = bytearray(saved(Image.fromarray(COLOURS), "PNG"))
    image = decode_image(bytes(data))
    image.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (1, 2, 3)
    assert np.array_equal(np.asarray(decode_image(bytes(data))), COLOURS)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bytes(data)))), COLOURS)
