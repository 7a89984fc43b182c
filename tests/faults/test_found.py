"""What fault cycles found once, made small."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.adapters.artifacts_folder import FolderArtifacts
from service.adapters.memory_catalogue import MemoryCatalogue
from service.library.collect import Rules, collect
from service.library.publish import DEADLINE
from tests.faults.library import LaterFolder


def test_a_collector_that_was_killed_while_it_wrote_its_mark_does_not_stop_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    catalogue = MemoryCatalogue()
    collection = collect(catalogue, FolderArtifacts(tmp_path), Rules(), actor="first")
    with monkeypatch.context() as dying:
        dying.setattr("os.link", die)
        dying.setattr("os.unlink", die)
        with pytest.raises(KeyboardInterrupt):
            next(collection)
    list(collect(catalogue, LaterFolder(tmp_path), Rules(grace=DEADLINE), actor="second"))
    marks = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(marks) == 1, "the half-written mark is left behind"
