"""Whether a service can answer, found by checks in threads of their own: a part that hangs delays no probe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlibrary.domain.errors import VLibraryError
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up

INTERVAL_S = 5.0
# Without an answer for so long, a part counts as unavailable.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Check:
    """The last result for one part. needed: no answer is possible without the part."""

    name: str
    ok: bool
    detail: str
    needed: bool


class Readiness:
    """Checks each part every interval_s seconds, and when it is asked. checks: return a detail or raise VLibraryError.

    optional: names of parts without which answers work. A part that has not responded for patience_s is not ok.
    """

    def __init__(
        self,
        checks: Mapping[str, Callable[[], str]],
        optional: frozenset[str] = frozenset(),
        *,
        interval_s: float = INTERVAL_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._parts = [
            _Part(name, check, interval_s, patience_s, needed=name not in optional) for name, check in checks.items()
        ]

    def ask(self) -> float:
        """Start all checks now, unless they run; return the time, for `is_newer`."""
        asked = time.monotonic()
        for part in self._parts:
            part.ask()
        return asked

    def is_newer(self, asked: float) -> bool:
        """Return whether all results are of checks that began at this time or later."""
        return all(part.began >= asked for part in self._parts)

    def results(self) -> list[Check]:
        """Return the last result of each part, without waiting."""
        return [part.result() for part in self._parts]

    def close(self) -> None:
        """End the threads; one that hangs ends with the process."""
        for part in self._parts:
            part.close()


def readiness_of(library: Library) -> Readiness:
    """Return the readiness of a service; the artifact store is optional, since answers work from cached vectors."""

    def check_artifacts() -> str:
        library.artifacts.check()
        return "readable"

    checks = {
        "catalogue": lambda: f"at sequence number {library.catalogue.change_log.position().seq}",
        "artifacts": check_artifacts,
        "index": lambda: f"applied up to sequence number {catch_up(library.catalogue.change_log, library.index).seq}",
        "worker": lambda: f"serves {', '.join(info.model.model_id for info in library.worker.models())}",
    }
    return Readiness(checks, frozenset({"artifacts"}))


class _Part:
    """One part and the thread that checks it, which starts when it is first asked. began: when its last check did."""

    def __init__(
        self, name: str, check: Callable[[], str], interval_s: float, patience_s: float, *, needed: bool
    ) -> None:
        self._name = name
        self._check = check
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._needed = needed
        self._wanted = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._result = Check(name, False, "not checked yet", needed)
        self.began = -1.0
        self._waiting_since: float | None = None

    def ask(self) -> None:
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"readiness {self._name}", daemon=True)
            self._thread.start()

    def result(self) -> Check:
        since = self._waiting_since
        waited = 0.0 if since is None else time.monotonic() - since
        if waited > self._patience_s:
            return Check(self._name, False, f"no response for {waited:.0f} seconds", self._needed)
        return self._result

    def close(self) -> None:
        self._closed = True
        self._wanted.set()

    def _run(self) -> None:
        while not self._closed:
            self._wanted.clear()
            began = self._waiting_since = time.monotonic()
            try:
                result = Check(self._name, True, self._check(), self._needed)
            except VLibraryError as error:
                result = Check(self._name, False, str(error), self._needed)
            except Exception as error:  # noqa: BLE001  the thread must go on
                result = Check(self._name, False, f"the check failed ({type(error).__name__})", self._needed)
            self._result, self.began, self._waiting_since = result, began, None
            self._wanted.wait(self._interval_s)
