"""What several contract suites run on."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client
from sqlalchemy import Engine

from tests.support.memory.catalogue import memory_catalogue
from tests.support.postgres_server import NotAvailable as NoPostgres
from tests.support.postgres_server import PostgresServer
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, NotAvailable, S3Server
from vlibrary.adapters.artifacts.s3 import S3Artifacts, connect
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect as connect_database
from vlibrary.adapters.sql.schema import upgrade
from vlibrary.domain.ports.catalogue import Catalogue


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as Alembic makes it."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def new_sqlite(empty_database: Path, tmp_path: Path) -> Callable[[], str]:
    """Makes SQLite databases, each empty and up to date."""

    def make() -> str:
        path = tmp_path / f"{uuid.uuid4().hex}.db"
        shutil.copy(empty_database, path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture
def sqlite_url(new_sqlite: Callable[[], str]) -> str:
    """A SQLite database of this test's own."""
    return new_sqlite()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, started once; skips, and says why, where none can be had."""
    try:
        server = PostgresServer.create()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a database as Alembic makes it, to be copied."""
    name = postgres.new_database()
    upgrade(postgres.url(name))
    return name


@pytest.fixture
def new_postgres(postgres: PostgresServer, postgres_template: str) -> Callable[[], str]:
    """Makes databases on PostgreSQL, each empty and up to date."""
    return lambda: postgres.url(postgres.new_database(postgres_template))


@pytest.fixture
def postgres_url(new_postgres: Callable[[], str]) -> str:
    """A database on PostgreSQL of this test's own."""
    return new_postgres()


DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.real)]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of this test's own: empty, up to date."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine that is not patient, since tests make it wait."""
    engine = connect_database(database_url, patience=0.2)
    yield engine
    engine.dispose()


@pytest.fixture(params=["memory", *DATABASES])
def catalogue(request: pytest.FixtureRequest) -> Iterator[Catalogue]:
    if request.param == "memory":
        yield memory_catalogue()
        return
    # Patient, since tests let many threads race on a busy machine.
    engine = connect_database(request.getfixturevalue(f"{request.param}_url"), patience=60.0)
    yield sql_catalogue(engine)
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
