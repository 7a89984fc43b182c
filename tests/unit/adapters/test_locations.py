"""The location of the artifacts must not overlap another store's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.memory.worker import MemoryWorker
from vlibrary.adapters.locations import check_disjoint, create_folder
from vlibrary.api.bootstrap import open_app
from vlibrary.bootstrap import open_operator_stores
from vlibrary.config import Settings
from vlibrary.domain.errors import InvalidInput

SEPARATE = [
    ("s3://library/vectors", "s3://library/snapshots"),
    ("s3://library/vectors", "s3://library/vectors-of-the-index"),
    ("s3://library", "s3://snapshots"),
    ("s3://library", "/data/snapshots"),
    ("/data/artifacts", "/data/snapshots"),
    ("/data/artifacts", "sqlite:////data/catalogue.db"),
    ("/data/artifacts", "postgresql+psycopg://me@here/data"),
]
OVERLAPPING = [
    ("s3://library/vectors", "s3://library/vectors"),
    ("s3://library/vectors/", "s3://library//vectors/snapshots"),
    ("s3://library", "s3://library/snapshots"),
    ("s3://library/vectors", "s3://library"),
    ("/data", "/data/snapshots"),
    ("/data/artifacts/../snapshots", "/data/snapshots"),
    ("/data", "sqlite:////data/catalogue.db?timeout=5"),
    ("/data", "sqlite+pysqlite:////data/catalogue.db"),
    ("/data", "sqlite:///file:/data/catalogue.db?uri=true"),
]


@pytest.mark.parametrize(("artifacts", "other"), SEPARATE)
def test_separate_locations_are_accepted(artifacts: str, other: str) -> None:
    check_disjoint(artifacts, [other])


@pytest.mark.parametrize(("artifacts", "other"), OVERLAPPING)
def test_overlapping_locations_raise(artifacts: str, other: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_disjoint(artifacts, ["/elsewhere", other])
    assert other in refused.value.detail
    assert "VLIBRARY_SNAPSHOTS" in refused.value.cure


@pytest.mark.parametrize("artifacts", ["{}", "{}/snapshots", "{}/kept"])
def test_neither_the_service_nor_the_commands_start_with_overlapping_locations(
    artifacts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        data_dir=tmp_path / "new",
        artifacts=artifacts.format(tmp_path / "new"),
        snapshots=str(tmp_path / "new" / "kept"),
    )
    with pytest.raises(InvalidInput, match="overlaps"):
        open_app(settings, lambda artifacts, *_: MemoryWorker(artifacts))
    for name in ("data_dir", "artifacts", "snapshots"):
        monkeypatch.setenv(f"VLIBRARY_{name.upper()}", str(getattr(settings, name)))
    with pytest.raises(InvalidInput, match="overlaps"):
        open_operator_stores(create=True)
    assert not settings.data_dir.exists()


def test_a_folder_that_cannot_be_created_raises_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    create_folder(tmp_path / "new" / "below", "VLIBRARY_DATA_DIR")
    create_folder(tmp_path / "new" / "below", "VLIBRARY_DATA_DIR")
    with pytest.raises(InvalidInput, match="VLIBRARY_DATA_DIR"):
        create_folder(tmp_path / "file" / "below", "VLIBRARY_DATA_DIR")
