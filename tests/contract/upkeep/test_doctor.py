"""`vlibrary doctor --deep` on damaged libraries: damage is reported with its cure, and distinguished from waste."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from typer.testing import CliRunner

from tests.faults.processes.app import Life
from tests.faults.processes.failpoints import Failpoint
from tests.faults.processes.operator import vlibrary
from tests.support.memory.catalogue import memory_catalogue
from tests.support.registrations import direction, key
from tests.support.upkeep import DATA, RealLibrary
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.cli import app, output
from vlibrary.config import Settings
from vlibrary.domain.errors import CollectorPaused, InvalidInput
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding
from vlibrary.upkeep.collector_guard import pause_collection, update_markers
from vlibrary.worker.bootstrap import open_embedder


@pytest.fixture
def library(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealLibrary:
    """The library at the default locations, with vectors and an alias."""
    shutil.copy(empty_database, tmp_path / "catalogue.db")
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path))
    library = RealLibrary(f"sqlite:///{tmp_path / 'catalogue.db'}", tmp_path / "artifacts")
    for _ in range(3):
        library.publish()
    library.catalogue.aliases.set("colours", "production", f"{1:026}", expected=0)
    return library


def doctor(*options: str) -> tuple[int, dict[str, Any]]:
    """Run `vlibrary doctor --deep`; return its exit code and report."""
    with capture_logs():  # a separate process would print them to standard error
        result = CliRunner().invoke(app, ["doctor", "--deep", "--json", *options])
    return result.exit_code, json.loads(result.stdout)


def _file(library: RealLibrary) -> Path:
    """Return the artifact of the vector that the alias refers to."""
    return library.folder / library.catalogue.vectors.get(f"{1:026}").object_key


def _sql(library: RealLibrary, statement: str) -> None:
    with library.engine.begin() as connection:
        connection.execute(text(statement))


def _kill_restoration(library: RealLibrary) -> None:
    library.artifacts.put("collector/restoring.KILLED", b"", hashlib.sha256(b"").hexdigest())


def _lose(library: RealLibrary) -> None:
    _file(library).unlink()


def _shorten(library: RealLibrary) -> None:
    _file(library).write_bytes(DATA[:-1])


def _flip(library: RealLibrary) -> None:
    _file(library).write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])


def _forget_change(library: RealLibrary) -> None:
    _sql(library, "DELETE FROM changes WHERE seq = 2")


def _forget_row(library: RealLibrary) -> None:
    """Remove a vector's row but not its change log entry, so that its object is unreferenced."""
    _sql(library, f"DELETE FROM vectors WHERE id = '{2:026}'")
    library.age()


def _delete_behind(library: RealLibrary) -> None:
    _sql(library, f"UPDATE vectors SET status = 'deleted' WHERE id = '{1:026}'")


def _leave_object(library: RealLibrary) -> None:
    library.catalogue.registrations.release(library.store())
    library.age()


def _leave_upload(library: RealLibrary) -> None:
    library.reserve(deadline=timedelta(0))


RESTORE, COLLECT = "vlibrary restore", "vlibrary gc"
LOG_CURE = "Restore the catalogue"
SOUND = {"sound": True, "findings": [], "collector_cleared": False}


@pytest.mark.parametrize(
    ("harm", "code", "kinds", "cure"),
    [
        (_lose, 1, ["object-missing"], RESTORE),
        (_shorten, 1, ["object-size"], RESTORE),
        (_flip, 1, ["object-damaged"], RESTORE),
        (_forget_change, 1, ["log-gap", "log-differs"], LOG_CURE),
        (_forget_row, 1, ["log-differs", "orphans"], LOG_CURE),
        (_delete_behind, 1, ["log-differs", "alias-dangling"], LOG_CURE),
        (_leave_object, 0, ["orphans"], COLLECT),
        (_leave_upload, 0, ["upload-stuck"], COLLECT),
    ],
)
def test_each_kind_of_damage_is_named_with_its_cure(
    library: RealLibrary, harm: Callable[[RealLibrary], None], code: int, kinds: list[str], cure: str
) -> None:
    assert doctor("--no-index") == (0, SOUND)
    harm(library)
    ended, report = doctor("--no-index")
    assert (ended, report["sound"]) == (code, code == 0)
    assert [finding["kind"] for finding in report["findings"]] == kinds
    assert cure in report["findings"][0]["cure"]
    shown = CliRunner().invoke(app, ["doctor", "--deep", "--no-index"], env={"COLUMNS": "200"})
    assert (shown.exit_code, kinds[0] in shown.stdout) == (code, True)


def test_collection_removes_waste_but_not_damage(library: RealLibrary) -> None:
    for harm in (_leave_object, _leave_upload, _lose):
        harm(library)
    assert CliRunner().invoke(app, ["gc"]).exit_code == 0
    assert [finding["kind"] for finding in doctor("--no-index")[1]["findings"]] == ["object-missing"]


def test_only_the_sampled_share_of_objects_is_read(library: RealLibrary) -> None:
    _flip(library)
    assert doctor("--no-index", "--sample", "0")[0] == 0
    assert doctor("--no-index", "--sample", "1")[0] == 1


@pytest.mark.parametrize("small", [("--sample", "0"), ("--sample", "0.99"), ("--cursor", "objects:")])
def test_a_partial_examination_ends_no_pause_and_says_so(library: RealLibrary, small: tuple[str, str]) -> None:
    pause_collection(library.artifacts)
    errors = CliRunner().invoke(app, ["doctor", "--deep", "--no-index", *small]).stderr
    assert "stays paused" in errors
    with pytest.raises(CollectorPaused):
        library.collect()
    assert doctor("--no-index")[1]["collector_cleared"]
    assert "paused" not in CliRunner().invoke(app, ["doctor", "--deep", "--no-index", *small]).stderr


def test_a_store_with_a_marker_of_another_library_is_paused_until_claimed(library: RealLibrary) -> None:
    other = memory_catalogue()
    update_markers(other, library.artifacts)
    code, report = doctor("--no-index")
    assert (code, report["sound"], report["collector_cleared"]) == (1, False, False)
    (finding,) = report["findings"]
    assert (finding["kind"], finding["subject"]) == ("other-library", other.change_log.position().epoch)
    assert "--take-over" in finding["cure"]
    code, report = doctor("--no-index", "--take-over")
    assert (code, report["sound"], report["collector_cleared"]) == (0, True, True)
    assert [finding["kind"] for finding in report["findings"]] == ["other-library"]
    entry = library.catalogue.audit_log.read(0, 100)[-1]
    assert entry.detail == {"other-library": 1, "cleared": True, "take_over": True}
    assert library.collect().removed == 0
    assert doctor("--no-index") == (0, SOUND)


def test_an_unfinished_restoration_is_found_and_can_be_abandoned(library: RealLibrary) -> None:
    _kill_restoration(library)
    code, report = doctor("--no-index")
    assert (code, report["collector_cleared"]) == (1, False)
    (finding,) = report["findings"]
    assert finding["kind"] == "restoration-unfinished"
    assert RESTORE in finding["cure"]
    assert doctor("--no-index", "--take-over")[1]["collector_cleared"]
    assert library.collect().removed == 0


def test_a_store_cannot_be_claimed_while_something_else_is_wrong(library: RealLibrary) -> None:
    _kill_restoration(library)
    _lose(library)
    code, report = doctor("--no-index", "--take-over")
    assert (code, report["sound"], report["collector_cleared"]) == (1, False, False)
    with pytest.raises(CollectorPaused):
        library.collect()


@pytest.mark.parametrize("small", [("--sample", "0.5"), ("--cursor", "objects:")])
def test_only_a_complete_examination_can_claim_a_store(library: RealLibrary, small: tuple[str, str]) -> None:
    refused = CliRunner().invoke(app, ["doctor", "--deep", "--no-index", "--take-over", *small])
    assert isinstance(refused.exception, InvalidInput)


def test_an_examination_skips_everything_before_the_cursor(library: RealLibrary) -> None:
    _lose(library)
    _leave_object(library)
    code, report = doctor("--no-index", "--cursor", "objects:")
    assert (code, [finding["kind"] for finding in report["findings"]]) == (0, ["orphans"])
    last = library.keys()[-1]
    assert doctor("--no-index", "--cursor", f"objects:{last}")[1]["findings"] == []
    for cursor in ("somewhere", "vectors:nowhere"):
        refused = CliRunner().invoke(app, ["doctor", "--deep", "--no-index", "--cursor", cursor])
        assert cursor in str(refused.exception)


def test_an_interrupted_examination_prints_its_cursor(library: RealLibrary, tmp_path: Path) -> None:
    _lose(library)
    at_the_objects = Failpoint("artifacts.now.before", signal=signal.SIGINT)
    ended = vlibrary(Life(tmp_path, "broken-off", failpoint=at_the_objects), "doctor", "--deep", "--no-index")
    assert ended.code not in (0, None)
    assert "object-missing" in ended.output
    assert "resume with --cursor uploads:" in ended.output
    assert doctor("--no-index", "--cursor", "uploads:")[0] == 0


def test_progress_lines_contain_the_cursor(library: RealLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LINE_INTERVAL_S", 0.0)
    lines = CliRunner().invoke(app, ["doctor", "--deep", "--no-index"]).stderr.splitlines()
    assert "aliases: 1; 0 findings; resume with --cursor aliases:" in lines
    assert [line for line in lines if "resume with --cursor objects:" in line]


def test_an_index_that_differs_from_the_catalogue_is_found_and_repaired(library: RealLibrary) -> None:
    spec = open_embedder(Settings()).spec
    rng = np.random.default_rng(0)
    for _ in range(5):
        part = TaskEmbedding(image=direction(rng, spec.image_size), text=direction(rng, spec.text_size))
        library.publish(keys=(key(part),), embedder=spec.fingerprint)
    _keep_empty_snapshot(library, spec)
    code, report = doctor()
    assert (code, [finding["kind"] for finding in report["findings"]]) == (1, ["index-differs"])
    assert "--repair-index" in report["findings"][0]["cure"]
    assert doctor("--repair-index")[0] == 0
    assert doctor() == (0, SOUND)


def _keep_empty_snapshot(library: RealLibrary, spec: EmbedderSpec) -> None:
    """Save an empty snapshot at the position of the change log's end."""
    index = FaissIndex(spec)
    index.reset(library.catalogue.change_log.position().epoch, replacing=index.position)
    for change in library.catalogue.change_log.read(0, 100):
        index.apply([replace(change, keys=())])
    index.save(FolderSnapshots(Settings().snapshots_cache))
