"""The stores of one cycle, as its processes and the checks use them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.processes.app import Life
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.upkeep.collector_guard import allow_collection, list_markers

LOG_END = 4_000


class World:
    """SQLite and a folder in data_dir. longest_s: the longest registration deadline of its killed processes."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.longest_s = 0.0
        self._lives = 0

    def life(self, **how: Any) -> Life:
        """Return the configuration of the next process."""
        self._lives += 1
        self.longest_s = max(self.longest_s, how.get("deadline_s", 0.0))
        return Life(self.data_dir, f"life{self._lives}", **how)

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.data_dir / 'catalogue.db'}"

    @property
    def artifacts(self) -> Artifacts:
        """The artifact store, accessed directly."""
        return FolderArtifacts(self._folder)

    @contextmanager
    def catalogue(self) -> Iterator[Catalogue]:
        """Open the catalogue directly."""
        engine = connect(self.database_url)
        try:
            yield sql_catalogue(engine)
        finally:
            engine.dispose()

    def objects(self) -> set[str]:
        """Return the keys of everything in the artifact store, including partial files."""
        return {str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if path.is_file()}

    def backup(self) -> str:
        """Copy the database while no process uses it; return the name of the copy."""
        copy = tempfile.mkdtemp(dir=self.data_dir)
        for path in self.data_dir.glob("catalogue.db*"):
            shutil.copy(path, copy)
        return copy

    def restore(self, backup: str) -> None:
        """Replace the database by the copy, as an operator would, while no process uses it."""
        self._replace_database(backup)
        with self.catalogue() as catalogue:
            # As doctor does when it finds nothing wrong: the objects of the lost vectors may be collected.
            allow_collection(
                self.artifacts,
                catalogue.change_log.renew_epoch(actor="faults"),
                instead_of=list_markers(self.artifacts),
            )

    def logs(self) -> str:
        """Return the ends of the process logs that contain errors."""
        output = {path.name: path.read_text(errors="replace") for path in sorted(self.data_dir.glob("*.log"))}
        return "\n".join(f"{name}: ... {log[-LOG_END:]}" for name, log in output.items() if "Traceback" in log)

    def _replace_database(self, backup: str) -> None:
        for path in self.data_dir.glob("catalogue.db*"):
            path.unlink()
        for path in Path(backup).iterdir():
            shutil.copy(path, self.data_dir)

    @property
    def _folder(self) -> Path:
        return self.data_dir / "artifacts"
