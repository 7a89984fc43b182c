"""A disk that is soon full: a file system of its own in memory, which only root can have."""

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
    """This machine cannot have such a disk; the message says why."""


@dataclass(frozen=True)
class SmallDisk:
    """folder: where it is; everybody may write there."""

    folder: Path

    def fill(self) -> None:
        """Leave no room on it."""
        with self._filler.open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def reserve(self, path: Path, length: int) -> None:
        """So many bytes can be appended to this file, even when there is no room for anything else."""
        subprocess.run(["fallocate", "--keep-size", "--length", str(length), str(path)], check=True)

    def free(self) -> None:
        """Give back the room that `fill` took."""
        self._filler.unlink()

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """One of this size, gone after the `with`. Raises NotAvailable."""
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
            # Lazily: what a killed server has open goes when its last process does.
            subprocess.run(["umount", "--lazy", folder], check=True)
