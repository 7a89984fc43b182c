"""The operator commands on SQLite and a folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from tests.support.registrations import EMBEDDER, embedding, key
from tests.support.upkeep import DATA, SHA256, RealLibrary
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.bootstrap import open_operator_stores
from vlibrary.cli import app
from vlibrary.cli.upkeep import parse_duration
from vlibrary.domain.errors import (
    BackupAhead,
    CatalogueUnavailable,
    CollectorPaused,
    InvalidInput,
    NotEmpty,
    VLibraryError,
)
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.library.reindex import catch_up
from vlibrary.upkeep.index_check import check_index

EMPTY = partial(FaissIndex, EMBEDDER)


@pytest.fixture
def library(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealLibrary:
    """The library at the default locations."""
    shutil.copy(empty_database, tmp_path / "catalogue.db")
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path))
    return RealLibrary(f"sqlite:///{tmp_path / 'catalogue.db'}", tmp_path / "artifacts")


def vlibrary(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = vlibrary(*arguments, "--json")
    assert result.exit_code == code, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def refusal(*arguments: str) -> VLibraryError:
    error = vlibrary(*arguments).exception
    assert isinstance(error, VLibraryError), error
    return error


def test_gc_counts_in_a_dry_run_and_then_removes(library: RealLibrary) -> None:
    record = library.publish()
    library.catalogue.registrations.release(library.store())
    library.age()
    counted = answer("gc", "--dry-run")
    assert (counted["removed"], counted["seen"], counted["dry_run"]) == (1, 2, True)
    assert len(library.keys()) == 2
    assert answer("gc", "--rate", "1000", "--actor", "mary")["removed"] == 1
    assert library.keys() == [record.object_key]
    assert [entry.actor for entry in library.catalogue.audit_log.read(0, 100)][-1] == "mary"
    assert "0 of 1 objects removed" in vlibrary("gc", "--grace", "7d", "--retention", "30d").stdout


def test_gc_reports_foreign_objects(library: RealLibrary) -> None:
    assert "foreign" not in vlibrary("gc").stdout
    library.artifacts.put("notes/today.txt", DATA, SHA256)
    assert "1 foreign objects" in vlibrary("gc").stdout
    assert library.keys() == ["notes/today.txt"]


@pytest.mark.parametrize("actor", ["", " ", "a" * 129, "é", "a\n"])
def test_an_unprintable_actor_is_an_error(library: RealLibrary, actor: str) -> None:
    library.publish()
    assert isinstance(refusal("gc", "--actor", actor), InvalidInput)
    assert [entry.action for entry in library.catalogue.audit_log.read(0, 100)] == ["vector.publish"]


def test_an_invalid_or_too_short_grace_period_is_an_error(library: RealLibrary) -> None:
    assert "15" in refusal("gc", "--grace", "14m").cure
    assert isinstance(refusal("gc", "--grace", "tomorrow"), InvalidInput)


def test_durations_are_parsed() -> None:
    assert [parse_duration(text).total_seconds() for text in ("90s", "15m", "24h", "30d")] == [
        90,
        900,
        86_400,
        2_592_000,
    ]


def test_a_library_is_backed_up_and_restored_elsewhere(
    library: RealLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = library.publish()
    assert answer("backup", str(tmp_path / "backup")) == {"copied": 1, "there": 0, "bytes": record.size, "lost": []}
    assert isinstance(refusal("restore", str(tmp_path / "backup")), NotEmpty)
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path / "new"))
    assert answer("restore", str(tmp_path / "backup"))["copied"] == 1
    restored = sql_catalogue(connect(f"sqlite:///{tmp_path / 'new' / 'catalogue.db'}"))
    assert restored.vectors.get(record.id).sha256 == record.sha256
    assert isinstance(refusal("gc"), CollectorPaused)
    examined = answer("doctor", "--deep", "--no-index")
    assert examined == {"sound": True, "findings": [], "collector_cleared": True}
    assert answer("gc")["removed"] == 0
    actions = [entry.action for entry in restored.audit_log.read(0, 100)]
    operations = ["library.restore", "library.examine", "collector.run"]
    assert actions == ["vector.publish", "catalogue.renew_epoch", *operations]


def test_an_empty_library_replaces_a_backup_only_on_request(
    library: RealLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.publish()
    answer("backup", str(tmp_path / "backup"))
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path / "wrong"))
    answer("migrate")
    error = refusal("backup", str(tmp_path / "backup"))
    assert isinstance(error, BackupAhead)
    assert "VLIBRARY_DATA_DIR" in error.cure
    assert answer("backup", "--replace", str(tmp_path / "backup"))["there"] == 0


def test_doctor_finds_damage_and_keeps_collection_paused(library: RealLibrary) -> None:
    lost, hidden = library.publish(), library.publish()
    library.artifacts.delete(lost.object_key)
    library.collect()
    library.catalogue.change_log.renew_epoch()
    with library.engine.begin() as connection:
        connection.execute(text("DELETE FROM changes WHERE seq = 2"))
    report = answer("doctor", "--deep", "--no-index", code=1)
    kinds = {(finding["kind"], finding["subject"]) for finding in report["findings"]}
    assert kinds == {("object-missing", lost.id), ("log-gap", "2-2"), ("log-differs", hidden.id)}
    assert not report["sound"]
    assert not report["collector_cleared"]
    assert isinstance(refusal("gc"), CollectorPaused)
    shown = vlibrary("doctor", "--deep", "--no-index")
    assert shown.exit_code == 1
    assert "Something is wrong" in shown.stdout


def test_doctor_rejects_options_without_effect(library: RealLibrary) -> None:
    for option in (("--sample", "0.5"), ("--take-over",)):
        assert "--deep" in refusal("doctor", *option).cure


class TestMigrate:
    def test_migrate_reports_the_revisions_before_and_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path))
        assert answer("migrate", "--check", code=1)["after"] is None
        assert "vlibrary migrate" in refusal("gc").cure
        done = answer("migrate")
        assert (done["before"], done["after"]) == (None, done["needed"])
        assert answer("migrate", "--check")["before"] == done["needed"]
        answer("migrate")  # nothing to migrate, so no audit entry
        (noted,) = open_operator_stores().catalogue.audit_log.read(0, 100)
        assert (noted.action, noted.subject, noted.detail) == ("library.migrate", done["needed"], {"from": None})

    def test_a_database_of_a_newer_release_is_an_error(self, library: RealLibrary) -> None:
        with library.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for command in (["migrate"], ["migrate", "--check"], ["gc"], ["backup", "nowhere"]):
            error = refusal(*command)
            assert isinstance(error, CatalogueUnavailable)
            assert "9999" in error.detail


class TestIndex:
    @pytest.fixture
    def catalogue(self, library: RealLibrary) -> Catalogue:
        rng = np.random.default_rng(0)
        for _ in range(20):
            keys = (key(embedding(rng)), key(embedding(rng, image=False)))
            library.publish(keys=keys, embedder=EMBEDDER.fingerprint)
        return library.catalogue

    def test_an_index_from_a_correct_snapshot_agrees_with_the_log(self, catalogue: Catalogue, tmp_path: Path) -> None:
        snapshots = FolderSnapshots(tmp_path / "snapshots")
        assert check_index(catalogue, snapshots, EMPTY).loaded is None
        made = check_index(catalogue, snapshots, EMPTY, repair=True)
        assert made.loaded == made.expected
        assert made.expected.keys == 40
        catalogue.vectors.delete(catalogue.vectors.page(limit=1).records[0].id)
        later = check_index(catalogue, snapshots, EMPTY)
        assert later.loaded == later.expected
        assert later.expected.keys == 38
        assert later.findings() == []

    def test_a_snapshot_with_wrong_keys_is_found_and_repaired(self, catalogue: Catalogue, tmp_path: Path) -> None:
        snapshots = FolderSnapshots(tmp_path / "snapshots")
        wrong = FaissIndex(EMBEDDER)
        wrong.reset(catalogue.change_log.position().epoch, replacing=wrong.position)
        for change in catalogue.change_log.read(0, 100):
            # Another vector's keys instead of its own: the number of keys is correct.
            wrong.apply([replace(change, keys=catalogue.change_log.read(0, 1)[0].keys) if change.seq == 3 else change])
        wrong.save(snapshots)
        found = check_index(catalogue, snapshots, EMPTY)
        assert found.loaded is not None
        assert found.loaded.keys == found.expected.keys
        assert [finding.kind for finding in found.findings()] == ["index-differs"]
        assert check_index(catalogue, snapshots, EMPTY, repair=True).findings() == []
        assert check_index(catalogue, snapshots, EMPTY).findings() == []
        wrong.save(snapshots)  # as a service does that stops now
        assert check_index(catalogue, snapshots, EMPTY).findings() == []
        assert catch_up(catalogue.change_log, wrong) == catalogue.change_log.position()
        assert wrong.checksum() == check_index(catalogue, snapshots, EMPTY).expected

    def test_the_order_of_the_segments_does_not_matter(self, catalogue: Catalogue) -> None:
        at_once, one_by_one = FaissIndex(EMBEDDER), FaissIndex(EMBEDDER)
        catch_up(catalogue.change_log, at_once)
        one_by_one.reset(catalogue.change_log.position().epoch, replacing=one_by_one.position)
        for change in catalogue.change_log.read(0, 100):
            one_by_one.apply([change])
        assert at_once.checksum() == one_by_one.checksum()
