"""The collector on real stores: beside publishers, and killed at every step."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.domain.errors import UploadExpired
from service.library.collect import Rules
from tests.support.upkeep import DATA, SHA256, RealLibrary, drafted

# Collects like the command, and dies when it is about to remove the object of this number, or has just done so.
KILLED = """
import os, signal, sys
from pathlib import Path
from service.adapters.artifacts_folder import FolderArtifacts
from service.adapters.catalogue_sql import SqlCatalogue
from service.adapters.database import connect
from service.library.collect import Rules, collect

class Deadly(FolderArtifacts):
    left = int(sys.argv[3])
    def delete(self, key):
        if key.startswith("collector/"):
            return super().delete(key)
        self.left -= 1
        if self.left < 0 and sys.argv[4] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().delete(key)
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

catalogue = SqlCatalogue(connect(sys.argv[1]))
list(collect(catalogue, Deadly(Path(sys.argv[2])), Rules(), actor="killed"))
"""


@pytest.fixture
def library(database_url: str, tmp_path: Path) -> Iterator[RealLibrary]:
    library = RealLibrary(database_url, tmp_path / "artifacts")
    yield library
    library.engine.dispose()


def test_only_what_nobody_can_need_any_more_is_removed(library: RealLibrary) -> None:
    active, deleted, purged = (library.publish() for _ in range(3))
    for record in (deleted, purged):
        library.catalogue.delete(record.id)
    library.catalogue.purge(purged.id)
    open_still, expired = library.store(), library.store(deadline=timedelta(0))
    library.age()
    young = library.store(deadline=timedelta(0))
    done = library.collect()
    assert (done.removed, done.young, done.released) == (2, 1, 2)
    kept = [active.object_key, deleted.object_key, open_still.object_key, young.object_key]
    assert library.keys() == sorted(kept)
    assert library.catalogue.publish(open_still, drafted(open_still)).version == 4
    with pytest.raises(UploadExpired):
        library.catalogue.publish(expired, drafted(expired))


def test_a_database_put_back_finds_the_objects_of_what_was_purged_since(library: RealLibrary) -> None:
    record = library.publish()
    library.age()
    library.catalogue.delete(record.id)
    library.catalogue.purge(record.id)
    assert library.collect().removed == 0
    assert library.artifacts.get(record.object_key, SHA256) == DATA
    library.age()
    assert library.collect().removed == 1


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("removed", [0, 3])
def test_a_collector_that_is_killed_loses_nothing_and_the_next_one_ends_its_work(
    library: RealLibrary, removed: int, moment: str
) -> None:
    records = [library.publish() for _ in range(3)]
    for _ in range(5):
        library.store(deadline=timedelta(0))
    library.age()
    arguments = [library.engine.url.render_as_string(hide_password=False), str(library.folder), str(removed), moment]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(library.keys()) == 3 + 5 - removed - (moment == "after")
    library.collect()
    assert library.keys() == sorted(record.object_key for record in records)
    assert all(library.artifacts.get(record.object_key, SHA256) == DATA for record in records)
    log = [entry for entry in library.catalogue.audit(0, 100) if entry.action == "collector.remove"]
    assert len({key for entry in log for key in entry.detail["objects"]}) == 5
    assert library.collect(Rules(dry_run=True)).removed == 0
