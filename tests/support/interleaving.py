"""Run several actions step by step in an order that a seed decides: one port call at a time.

Every call on a gated port waits for its turn. A run is one interleaving of the calls, the same for the same seed; a
stalled worker is one that is not chosen for a long time.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any


class Interleaving:
    """Threads that take turns; `gate` wraps what they share."""

    def __init__(self, seed: int) -> None:
        self._choice = random.Random(seed)
        self._waiting: dict[str, threading.Event] = {}
        self._changed = threading.Condition()
        self._running = 0

    def gate(self, port: Any) -> Any:
        """Return the port with every call from one of the threads as a step."""
        return _Gated(port, self._pause)

    def run(self, *works: Callable[[], None], between: Callable[[], None] = lambda: None) -> None:
        """Run all actions to their ends. between: called before every step. Raises the first exception of an action."""
        failures: list[BaseException] = []
        threads = [
            threading.Thread(target=self._body, args=(work, failures), name=f"{number:03}")
            for number, work in enumerate(works)
        ]
        self._running = len(threads)
        for thread in threads:
            thread.start()
        while self._settled():
            between()
            self._wake(self._choice.choice(sorted(self._waiting)))
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _settled(self) -> bool:
        """Wait until every remaining thread waits for its turn; return False when none remains."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._waiting) == self._running, timeout=60)
            return bool(self._waiting)

    def _wake(self, thread: str) -> None:
        with self._changed:
            self._waiting.pop(thread).set()

    def _pause(self) -> None:
        turn = threading.Event()
        with self._changed:
            self._waiting[threading.current_thread().name] = turn
            self._changed.notify_all()
        turn.wait()

    def _body(self, work: Callable[[], None], failures: list[BaseException]) -> None:
        try:
            self._pause()
            work()
        except BaseException as error:  # noqa: BLE001  handed on by `run`
            failures.append(error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


class _Gated:
    def __init__(self, port: Any, pause: Callable[[], None]) -> None:
        self._port = port
        self._pause = pause

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            self._pause()
            return method(*args, **kwargs)

        return step
