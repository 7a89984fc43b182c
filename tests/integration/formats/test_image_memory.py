"""Memory that decoding an image takes."""

from __future__ import annotations

import subprocess
import sys

from tests.support.samples import blank_png


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    """A PNG of 21 KB that would decode to 507 MB, in a process that may allocate only 100 MB more."""
    bomb = blank_png(13_000, 13_000)
    assert len(bomb) < 25_000
    script = (
        "import resource, sys, time; from vlibrary.formats.images import decode_image, InvalidImage\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)\n"
        "began = time.process_time()\n"
        "try: decode_image(sys.stdin.buffer.read())\n"
        "except InvalidImage as refusal: print(refusal.detail, time.process_time() - began < 0.1)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], input=bomb, capture_output=True, check=True)
    assert run.stdout.decode().strip() == "The image has 13000 × 13000 pixels. True"
