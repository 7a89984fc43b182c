"""Failpoints: named steps at which a process of a fault cycle dies or freezes.

Steps are named after calls: `catalogue.registrations.publish.before`,
`artifacts.put.after`, `sql.statement`, `sql.write` (a statement that changes rows), `sql.commit`, `file.link.before`.
The service has no code for them: ports are wrapped, and SQLAlchemy and the os module are patched from outside.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from tests.support.ports import wrap_ports
from vlibrary.domain.ports.catalogue import Catalogue

FILE_CALLS = ("fsync", "link", "rename", "replace", "unlink", "mkdir", "rmdir")


@dataclass(frozen=True)
class Failpoint:
    """at: glob over step names. hit: which matching step, from 1. signal: SIGKILL, or SIGSTOP to freeze there."""

    at: str
    hit: int = 1
    signal: signal.Signals = signal.SIGKILL


class Steps:
    """Counts the steps of this process, and signals it at the failpoint. struck: file that records the step."""

    def __init__(self, failpoint: Failpoint | None, struck: Path) -> None:
        self._failpoint = failpoint
        self._struck = struck
        self._hits = 0
        self._counting = threading.Lock()

    def reached(self, step: str) -> None:
        failpoint = self._failpoint
        if failpoint is None or not fnmatchcase(step, failpoint.at):
            return
        with self._counting:
            self._hits += 1
            strikes = self._hits == failpoint.hit
        if strikes:
            self._struck.write_text(step)
            os.kill(os.getpid(), failpoint.signal)

    def watch_port(self, port: Any, name: str) -> Any:
        """Return the port with a step before and after each call."""
        return _Watched(port, name, self.reached)

    def watch_catalogue(self, catalogue: Catalogue) -> Catalogue:
        """Return the catalogue with watched ports."""
        return wrap_ports(catalogue, lambda port, name: self.watch_port(port, f"catalogue.{name}"))

    def watch_sql(self) -> None:
        """Add a step before each statement and commit of every engine in this process."""
        event.listen(Engine, "before_cursor_execute", self._before_statement)
        event.listen(Engine, "commit", lambda *_: self.reached("sql.commit"))

    def _before_statement(self, connection: object, cursor: object, statement: str, *_: object) -> None:
        self.reached("sql.statement")
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            self.reached("sql.write")

    def watch_files(self) -> None:
        """Add a step before and after each call that changes or syncs files."""
        for name in FILE_CALLS:
            setattr(os, name, _stepping(getattr(os, name), f"file.{name}", self.reached))


class _Watched:
    def __init__(self, port: Any, name: str, reached: Callable[[str], None]) -> None:
        self._port = port
        self._name = name
        self._reached = reached

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._port, attribute)
        return _stepping(found, f"{self._name}.{attribute}", self._reached) if callable(found) else found


def _stepping(act: Callable[..., Any], name: str, reached: Callable[[str], None]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        reached(f"{name}.before")
        result = act(*given, **named)
        reached(f"{name}.after")
        return result

    return call
