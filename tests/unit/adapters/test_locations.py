"""The artifacts' place must not be part of another store's, nor the other of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.memory.worker import MemoryWorker
from vlibrary.adapters.locations import check_disjoint, create_folder
from vlibrary.api.bootstrap import open_app
from vlibrary.bootstrap import open_operator_stores
from vlibrary.config import Settings
from vlibrary.domain.errors import InvalidInput

APART = [
    ("s3://library/vectors", "s3://library/snapshots"),
    ("s3://library/vectors", "s3://library/vectors-of-the-index"),
    ("s3://library", "s3://snapshots"),
    ("s3://library", "/data/snapshots"),
    ("/data/artifacts", "/data/snapshots"),
    ("/data/artifacts", "sqlite:////data/catalogue.db"),
    ("/data/artifacts", "postgresql+psycopg://me@here/data"),
]
NOT_APART = [
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


@pytest.mark.parametrize(("artifacts", "other"), APART)
def test_places_that_share_nothing_are_fine(artifacts: str, other: str) -> None:
    check_disjoint(artifacts, [other])


@pytest.mark.parametrize(("artifacts", "other"), NOT_APART)
def test_places_of_which_one_is_part_of_the_other_are_refused(artifacts: str, other: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_disjoint(artifacts, ["/elsewhere", other])
    assert other in refused.value.detail
    assert "VLIBRARY_SNAPSHOTS" in refused.value.cure


@pytest.mark.parametrize("artifacts", ["{}", "{}/snapshots", "{}/kept"])
def test_neither_the_service_nor_the_operator_s_commands_begin(
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


def test_a_folder_that_cannot_be_made_is_refused_by_the_name_of_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    create_folder(tmp_path / "new" / "below", "VLIBRARY_DATA_DIR")
    create_folder(tmp_path / "new" / "below", "VLIBRARY_DATA_DIR")
    with pytest.raises(InvalidInput, match="VLIBRARY_DATA_DIR"):
        create_folder(tmp_path / "file" / "below", "VLIBRARY_DATA_DIR")


def test_a_service_starts_without_its_store_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "any")
    settings = Settings(data_dir=tmp_path, artifacts="s3://bucket", s3_endpoint_url="http://127.0.0.1:9")
    with capture_logs() as logs:
        open_app(settings, lambda artifacts, *_: MemoryWorker(artifacts))
    (warned,) = [entry for entry in logs if entry["event"] == "heartbeat.store_unavailable"]
    assert "EndpointConnectionError" in warned["detail"]
