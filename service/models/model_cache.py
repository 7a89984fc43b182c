"""A folder of models that this machine made or fetched: each is made once, checked, and used by many processes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlibrary.domain.errors import ModelUnavailable
from vlibrary.models.wheels import sha256_of

SUMS = "SHA256SUMS"  # in the format of sha256sum
_SPACE = "Free space on that disk, or set VLIBRARY_CACHE_DIR to a folder on another one."


class ModelCache:
    """Model folders below one root, which is created when it is needed. Processes may share it.

    A folder appears atomically under its name, complete and with the digests of its files. What an interrupted process
    leaves has a hidden name, and the next one that makes the same folder deletes it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str) -> Path | None:
        """Return the folder if it is there; its files are not read."""
        folder = self.root / name
        return folder if (folder / SUMS).is_file() else None

    def make(
        self,
        name: str,
        build: Callable[[Path], object],
        *,
        size: int,
        notify: Callable[[str], object] = lambda _: None,
    ) -> Path:
        """Return the folder; if it is missing or damaged, `build` makes it in an empty folder that is then renamed.

        size: bytes that `build` needs on the disk. notify: called with a sentence if another process is making the same
        folder, and if the folder is damaged.
        Raises ModelUnavailable if the cache cannot be written or is full, and what `build` raises.
        """
        folder = self.root / name
        # Without the lock, which needs write permission: the cache may be part of a read-only image.
        if find_damage(folder) is None:
            return folder
        with self._as_unavailable():
            self.root.mkdir(parents=True, exist_ok=True)
            with self._lock(name, notify):
                if folder.exists():
                    damaged = find_damage(folder)
                    if damaged is None:
                        return folder
                    notify(f"{folder / damaged} is missing or damaged. The folder is assembled again.")
                self._delete_remains(name)
                self._check_space(size)
                try:
                    self._build(name, build)
                finally:
                    self._delete_remains(name)
        return folder

    def _build(self, name: str, build: Callable[[Path], object]) -> None:
        staging, folder = self.root / f".{name}.new", self.root / name
        staging.mkdir()
        build(staging)
        sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(staging.iterdir())]
        (staging / SUMS).write_text("".join(sums))
        if folder.exists():  # damaged; processes that have its files open keep them
            folder.rename(self.root / f".{name}.old")
        staging.rename(folder)

    def _delete_remains(self, name: str) -> None:
        for remains in (f".{name}.new", f".{name}.old"):
            shutil.rmtree(self.root / remains, ignore_errors=True)

    @contextmanager
    def _lock(self, name: str, notify: Callable[[str], object]) -> Iterator[None]:
        lock = FileLock(self.root / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notify(f"Another process is assembling {self.root / name}; waiting for it.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _check_space(self, size: int) -> None:
        if (free := shutil.disk_usage(self.root).free) < size:
            raise ModelUnavailable(
                f"The model cache {self.root} needs {size / 1e6:.0f} MB of free space and has {free / 1e6:.0f} MB.",
                _SPACE,
            )

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ModelUnavailable(f"The disk of the model cache {self.root} is full.", _SPACE) from error
            if self.root not in Path(error.filename or self.root / SUMS).parents and error.filename != str(self.root):
                raise  # another file, such as one that `build` reads
            raise ModelUnavailable(
                f"The model cache {self.root} cannot be written: {error.strerror or error}.",
                "Check the folder's permissions, or set VLIBRARY_CACHE_DIR to another folder.",
            ) from error


def find_damage(folder: Path) -> str | None:
    """Return the name of the first file that is missing or differs from its digest, if there is one."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return SUMS
    if not lines:
        return SUMS
    for line in lines:
        digest, _, name = line.partition("  ")
        try:
            if sha256_of(folder / name) != digest:
                return name
        except OSError:
            return name
    return None
