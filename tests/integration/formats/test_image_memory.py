"""Memory that decoding an image takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from tests.support.pictures import saved
from tests.support.samples import blank_png
from vlibrary.formats.images.decode import MAX_MEMORY

MIB = 2**20


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    """A PNG of 21 KB that would decode to 507 MB, in a process that may allocate only 100 MB more."""
    bomb = blank_png(13_000, 13_000)
    assert len(bomb) < 25_000
    script = (
        "import resource, sys, time; from vlibrary.formats.images.decode import decode_image, InvalidImage\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)\n"
        "began = time.process_time()\n"
        "try: decode_image(sys.stdin.buffer.read())\n"
        "except InvalidImage as refusal: print(refusal.detail, time.process_time() - began < 0.1)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], input=bomb, capture_output=True, check=True)
    assert run.stdout.decode().strip() == "The image has 13000 × 13000 pixels. True"


def peak(data: bytes) -> tuple[str, int]:
    """The size of the decoded image, and the bytes that decoding it took at most."""
    script = (
        "import sys; from vlibrary.formats.images import decode_image\n"
        "def read(name):\n"
        "    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(name)) << 10\n"
        "data = sys.stdin.buffer.read(); before = read('VmRSS')\n"
        "print(decode_image(data).size, read('VmHWM') - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    size, _, memory = run.stdout.decode().rpartition(" ")
    return size, int(memory)


@pytest.mark.parametrize(
    ("kind", "mode", "side", "options"),
    [
        ("PNG", "RGBA", 11_500, {"compress_level": 1}),
        ("PNG", "LA", 11_500, {"compress_level": 1}),
        ("JPEG", "RGB", 15_800, {}),
        ("JPEG", "RGB", 9_000, {"progressive": True}),
        ("WEBP", "RGBA", 6_100, {"lossless": True, "method": 0, "quality": 0}),
    ],
    ids=["png-rgba", "png-la", "jpeg", "progressive-jpeg", "webp"],
)
def test_the_largest_images_are_decoded_within_the_limit(
    kind: str, mode: str, side: int, options: dict[str, int]
) -> None:
    data = saved(Image.new(mode, (side, side)), kind, **options)
    size, memory = peak(data)
    assert memory - len(data) < MAX_MEMORY, f"{kind} {side}²: {size}, {memory / MIB:.0f} MiB"
    print(f"{kind} {mode} {side}²: {size}, {memory / MIB:.0f} MiB")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_of_25_megapixels_takes_little_more_than_its_pixels(kind: str) -> None:
    _, memory = peak(saved(Image.new("RGB", (5_000, 5_000)), kind))
    assert memory < {"PNG": 220, "JPEG": 220, "WEBP": 540}[kind] * MIB
