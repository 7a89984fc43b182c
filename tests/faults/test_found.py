"""Regression tests for failures that fault cycles have found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.model.library import LaterFolder
from tests.support.memory.catalogue import memory_catalogue
from tests.support.registrations import register
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.library.publish import DEADLINE
from vlibrary.upkeep.collector import Rules, collect
from vlibrary.upkeep.collector_guard import check_collection_allowed, update_markers


def test_a_collector_killed_while_writing_a_marker_does_not_stop_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    catalogue = memory_catalogue()
    update_markers(catalogue, FolderArtifacts(tmp_path))
    register(catalogue)  # so that there is a later position to record
    collection = collect(catalogue, FolderArtifacts(tmp_path), Rules(), actor="first")
    with monkeypatch.context() as dying:
        dying.setattr("os.link", die)
        dying.setattr("os.unlink", die)
        with pytest.raises(KeyboardInterrupt):
            next(collection)
    list(collect(catalogue, LaterFolder(tmp_path), Rules(grace=DEADLINE), actor="second"))
    marks = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(marks) == 1, "the half-written mark is left behind"


def test_a_first_start_killed_while_writing_a_marker_pauses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    catalogue, artifacts = memory_catalogue(), FolderArtifacts(tmp_path)
    with monkeypatch.context() as dying:
        dying.setattr("os.link", die)
        dying.setattr("os.unlink", die)
        with pytest.raises(KeyboardInterrupt):
            update_markers(catalogue, artifacts)
    update_markers(catalogue, artifacts)
    register(catalogue)
    assert check_collection_allowed(catalogue, artifacts) == catalogue.change_log.position()
