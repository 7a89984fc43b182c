"""A small disk for tests of full disks: an in-memory file system, which only root can mount."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096


class NotAvailable(Exception):
    """Such a disk cannot be mounted on this machine; the message says why."""


@dataclass(frozen=True)
class SmallDisk:
    """folder: the mount point, which is writable for all users."""

    folder: Path

    def fill(self) -> None:
        """Fill all free space."""
        with self._filler.open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def reserve(self, path: Path, length: int) -> None:
        """Reserve space so that this many bytes can be appended to the file even if the disk is full."""
        subprocess.run(["fallocate", "--keep-size", "--length", str(length), str(path)], check=True)

    def free(self) -> None:
        """Free the space that `fill` took."""
        self._filler.unlink()

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of this size during the block. Raises NotAvailable."""
    with tempfile.TemporaryDirectory(prefix="disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            raise NotAvailable(f"a disk of its own cannot be mounted here: {reason}") from error
        try:
            yield SmallDisk(Path(folder))
        finally:
            # A lazy unmount, because processes of a killed server may still have files open.
            subprocess.run(["umount", "--lazy", folder], check=True)
