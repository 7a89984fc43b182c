"""What several contract suites run on."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from service.adapters.artifacts_s3 import S3Artifacts, connect
from service.adapters.catalogue_sql import SqlCatalogue
from service.adapters.catalogue_sql import connect as connect_database
from service.adapters.memory import MemoryCatalogue
from service.adapters.schema import upgrade
from service.domain.ports import Catalogue
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, NotAvailable, S3Server


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as Alembic makes it."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def database_url(empty_database: Path, tmp_path: Path) -> str:
    """A database of this test's own: empty, up to date."""
    path = tmp_path / "catalogue.db"
    shutil.copy(empty_database, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["memory", "sqlite"])
def catalogue(request: pytest.FixtureRequest) -> Iterator[Catalogue]:
    if request.param == "memory":
        yield MemoryCatalogue()
        return
    engine = connect_database(request.getfixturevalue("database_url"))
    yield SqlCatalogue(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, started once; skips, and says why, where none can be had."""
    try:
        server = S3Server.start(tmp_path_factory.mktemp("s3"))
    except NotAvailable as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_client(s3_server: S3Server) -> S3Client:
    return connect(region="us-east-1", endpoint=s3_server.endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY)


@pytest.fixture
def bucket(s3_client: S3Client) -> str:
    """A new, empty bucket on the real server."""
    name = f"test-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_artifacts(s3_client: S3Client, bucket: str) -> Callable[..., S3Artifacts]:
    """Makes stores in one bucket, reached directly or through another client (of a proxy)."""

    def make(client: S3Client = s3_client, *, deadline: float = 30.0) -> S3Artifacts:
        return S3Artifacts(client, bucket, prefix="vectors/", pause=0.01, deadline=deadline)

    return make
