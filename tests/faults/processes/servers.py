"""Stores on real servers: PostgreSQL, and an S3 server behind a proxy that injects network faults."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.faults.processes.app import Life
from tests.faults.processes.world import World
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres_server import NotAvailable as NoPostgres
from tests.support.postgres_server import PostgresServer
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.s3_server import NotAvailable as NoS3
from tests.support.small_disk import SmallDisk
from vlibrary.adapters.artifacts.s3 import S3Artifacts, connect
from vlibrary.adapters.sql.schema import upgrade
from vlibrary.domain.ports.artifacts import Artifacts

REGION = "us-east-1"
LOG_BYTES = 2**20


class NoServers(Exception):
    """The servers cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Servers:
    """Running servers. template: a migrated, empty database. The processes reach S3 through the proxy."""

    postgres: PostgresServer
    template: str
    s3: S3Server
    proxy: FaultProxy

    def world(self, data_dir: Path) -> ServerWorld:
        """Create a new database and new buckets, and repair what an earlier cycle did to the servers."""
        self.proxy.faults.clear()
        self.proxy.struck.clear()
        if not self.postgres.alive:
            self.postgres.start()
        world = ServerWorld(data_dir, self)
        for bucket in (world.bucket, f"{world.bucket}-snapshots"):
            world.client.create_bucket(Bucket=bucket)
        return world


class ServerWorld(World):
    """A database on the PostgreSQL server, and a bucket on the S3 server."""

    def __init__(self, data_dir: Path, servers: Servers) -> None:
        super().__init__(data_dir)
        self.servers = servers
        self.database = servers.postgres.new_database(servers.template)
        self.bucket = f"faults-{uuid.uuid4().hex}"
        self.client: Any = connect(
            region=REGION, endpoint=servers.s3.endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY
        )

    def life(self, *, secret_key: str = SECRET_KEY, bucket: str | None = None, **how: Any) -> Life:
        """secret_key, bucket: replace the correct ones."""
        return super().life(
            database_url=self.database_url,
            artifacts=f"s3://{bucket or self.bucket}",
            snapshots=f"s3://{self.bucket}-snapshots",
            s3_endpoint_url=self.servers.proxy.endpoint,
            environment={
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": secret_key,
                "AWS_DEFAULT_REGION": REGION,
            },
            **how,
        )

    @property
    def database_url(self) -> str:
        return self.servers.postgres.url(self.database)

    @property
    def artifacts(self) -> Artifacts:
        return S3Artifacts(self.client, self.bucket)

    def objects(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {found["Key"] for page in pages for found in page.get("Contents", [])}

    def backup(self) -> str:
        return self.servers.postgres.new_database(self.database)

    def _replace_database(self, backup: str) -> None:
        """Also while processes are running."""
        self.servers.postgres.execute(f"DROP DATABASE {self.database} WITH (FORCE)")
        self.servers.postgres.new_database(backup, name=self.database)

    def move(self, postgres: PostgresServer) -> None:
        """Use a new database on another server."""
        self.servers = replace(self.servers, postgres=postgres)
        self.database = postgres.new_database()

    def network_faults(self) -> list[str]:
        """The network faults that occurred, with repetitions."""
        return [f"network.{fault.name.lower()}" for fault in self.servers.proxy.struck.elements()]

    def cut_connections(self) -> None:
        """Close the connections of all clients immediately."""
        self.servers.postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.database}'"
        )


@contextmanager
def on_disk(world: ServerWorld, disk: SmallDisk) -> Iterator[PostgresServer]:
    """Run the world's database on this disk, with its own server."""
    postgres = PostgresServer.create("--wal-segsize=1", parent=disk.folder)  # so that its log soon needs space
    try:
        disk.reserve(postgres.log, LOG_BYTES)  # so that it can log what is wrong
        world.move(postgres)
        yield postgres
    finally:
        postgres.stop()


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Run the servers during the block. Raises NoServers if this machine cannot run them."""
    with ExitStack() as ending:
        try:
            postgres = PostgresServer.create()
            ending.callback(postgres.stop)
            s3 = S3Server.start(Path(ending.enter_context(tempfile.TemporaryDirectory())))
            ending.callback(s3.stop)
        except (NoPostgres, NoS3) as reason:
            raise NoServers(str(reason)) from reason
        template = postgres.new_database()
        upgrade(postgres.url(template))
        yield Servers(postgres, template, s3, ending.enter_context(FaultProxy(s3.endpoint)))
