"""The operator commands on a real S3 server, each in its own process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mypy_boto3_s3 import S3Client

from tests.faults.processes.app import Life
from tests.faults.processes.operator import vlibrary
from tests.support.library import memory_library
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.upkeep import DATA, SHA256, Registrar
from vlibrary.adapters.artifacts.s3 import S3Artifacts
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect

pytestmark = pytest.mark.real

PREFIX = "vectors/"
DAYS = timedelta(days=3)
# What doctor reports on S3, by the damage to an artifact.
HARMS: list[tuple[str, bytes | None]] = [
    ("object-missing", None),
    ("object-size", DATA[:-1]),
    ("object-damaged", bytes([DATA[0] ^ 1]) + DATA[1:]),
]


class Place(Registrar):
    """A library on the server, and its operator commands."""

    def __init__(self, life: Callable[[str], Life], url: str, client: S3Client, bucket: str) -> None:
        self.engine = connect(url)
        self._life = life
        self._client, self._bucket = client, bucket
        self._names = (f"command{number}" for number in itertools.count())
        stores = memory_library(S3Artifacts(client, bucket, prefix=PREFIX))
        super().__init__(replace(stores, catalogue=sql_catalogue(self.engine)))

    def command(self, *arguments: str, code: int = 0, later: timedelta = timedelta(0)) -> dict[str, Any]:
        """Run the command and return its report. later: how far the store's clock is ahead."""
        ended = vlibrary(self._life(next(self._names)), *arguments, "--json", ahead=later)
        assert ended.code == code, ended.output
        report: dict[str, Any] = json.JSONDecoder().raw_decode(ended.output[ended.output.index("{\n") :])[0]
        return report

    def harm(self, key: str, data: bytes | None) -> None:
        """Replace the bytes of an object, or delete it."""
        if data is None:
            self._client.delete_object(Bucket=self._bucket, Key=PREFIX + key)
        else:
            self._client.put_object(Bucket=self._bucket, Key=PREFIX + key, Body=data)


@pytest.fixture
def library(
    s3_server: S3Server, s3_client: S3Client, bucket: str, new_sqlite: Callable[[], str], tmp_path: Path
) -> Place:
    url = new_sqlite()
    credentials = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def life(name: str) -> Life:
        return Life(
            tmp_path,
            name,
            database_url=url,
            artifacts=f"s3://{bucket}/{PREFIX}",
            snapshots=f"s3://{bucket}/snapshots",
            s3_endpoint_url=s3_server.endpoint,
            environment=credentials,
        )

    return Place(life, url, s3_client, bucket)


def test_gc_counts_and_then_removes_unreferenced_objects(library: Place) -> None:
    kept, deleted = library.publish(), library.publish()
    library.catalogue.vectors.delete(deleted.id)
    library.catalogue.registrations.release(library.store())
    library.store(deadline=timedelta(0))
    assert library.command("gc")["young"] == 4
    counted = library.command("gc", "--dry-run", "--retention", "0s", later=DAYS)
    assert (counted["removed"], counted["freed"], counted["purged"]) == (2, 2 * len(DATA), 1)
    assert len(library.keys()) == 4
    done = library.command("gc", "--rate", "100", later=DAYS)
    assert (done["removed"], done["seen"], done["purged"]) == (2, 4, 0)
    assert library.keys() == sorted([kept.object_key, deleted.object_key])
    assert library.command("gc", "--retention", "30d", later=DAYS)["purged"] == 0
    assert library.command("gc", "--retention", "0s", later=DAYS)["purged"] == 1
    assert library.artifacts.get(kept.object_key, SHA256) == DATA


def test_gc_resumes_after_a_key(library: Place) -> None:
    for _ in range(3):
        library.catalogue.registrations.release(library.store())
    first, *_ = library.keys()
    done = library.command("gc", "--after", first, later=DAYS)
    assert (done["seen"], library.keys()) == (2, [first])


@pytest.mark.parametrize(("kind", "data"), HARMS)
def test_doctor_finds_damaged_objects_and_a_backup_restores_them(
    library: Place, tmp_path: Path, kind: str, data: bytes | None
) -> None:
    record, _ = library.publish(), library.publish()
    folder = str(tmp_path / "backup")
    assert library.command("backup", folder)["copied"] == 2
    library.harm(record.object_key, data)
    report = library.command("doctor", "--deep", code=1)
    assert [(one["kind"], one["subject"]) for one in report["findings"]] == [(kind, record.id)]
    assert "vlibrary restore" in report["findings"][0]["cure"]
    assert library.command("restore", "--replace", folder)["copied"] == 1
    assert library.command("doctor", "--deep")["collector_cleared"]
    assert library.artifacts.get(record.object_key, SHA256) == DATA
    assert library.command("gc", later=DAYS)["removed"] == 0
