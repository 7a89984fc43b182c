"""Wheels of the tests' own, with a few small files."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from vlibrary.models.wheels import Wheel

NAME = "tiny-weights"
VERSION = "1.0"


def write_wheel(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, Wheel]:
    """Write a wheel that pip accepts; return its path and what identifies it."""
    path = folder / f"{NAME.replace('-', '_')}-{VERSION}-py3-none-any.whl"
    info = f"{NAME.replace('-', '_')}-{VERSION}.dist-info"
    described = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, **described}.items():
            archive.writestr(name, data)
    data = path.read_bytes()
    return path, Wheel(NAME, VERSION, hashlib.sha256(data).hexdigest(), len(data))
