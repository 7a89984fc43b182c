"""One fault cycle: random clients, a fault, a restart, and the invariants. The seed determines all of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.faults.checks.invariants import check, check_nothing_is_left
from tests.faults.checks.ledger import Ledger, State
from tests.faults.processes.api_process import Api, Died, Door
from tests.faults.processes.clients import Actor, register_until_known
from tests.faults.processes.failpoints import FILE_CALLS, Failpoint
from tests.faults.processes.world import World

PORT_STEPS = (
    *(f"catalogue.registrations.{call}" for call in ("reserve", "publish", "release", "find_referenced")),
    *(f"catalogue.vectors.{call}" for call in ("delete", "restore", "purge")),
    *(f"catalogue.aliases.{call}" for call in ("set", "drop")),
    *(f"catalogue.change_log.{call}" for call in ("position", "read")),
    "catalogue.vectors.get_many",
    "catalogue.audit_log.append",
    *(f"artifacts.{call}" for call in ("put", "get", "delete", "list")),
    *(f"index.{call}" for call in ("apply", "reset", "search")),
)
# Roughly how often a process reaches such a step.
PORT_HITS, FILE_HITS, COMMIT_HITS, STATEMENT_HITS = 2, 3, 12, 80
DEADLINES_S = (0.05, 0.3, 0.3, 0.3)
KNOWN_BY_REPEAT = 0.5


@dataclass
class Cycle:
    """The state of one cycle.

    struck: the steps at which failpoints and other faults struck. skipped: why this machine cannot run the cycle.
    logs: log excerpts of its processes, for cycles with violations.
    """

    scenario: str
    world: World
    rng: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    struck: list[str] = field(default_factory=list)
    skipped: str | None = None
    logs: str = ""

    def actors(self, count: int) -> list[Actor]:
        return [Actor(f"c{number}", random.Random(self.rng.random()), self.ledger) for number in range(count)]

    def failpoint(self) -> Failpoint | None:
        """Return a random step to die at; None to be killed at a random time instead."""
        match self.rng.randrange(10):
            case 0 | 1:
                return None
            case 2 | 3:
                return Failpoint("sql.statement", self._hit(STATEMENT_HITS))
            case 4:
                return Failpoint("sql.commit", self._hit(COMMIT_HITS))
            case 5 | 6:
                return Failpoint(f"file.{self.rng.choice(FILE_CALLS)}.{self._side()}", self._hit(FILE_HITS))
            case _:
                return Failpoint(f"{self.rng.choice(PORT_STEPS)}.{self._side()}", self._hit(PORT_HITS))

    def live(self, actors: Sequence[Actor], acts: int, **how: object) -> None:
        """Run one process from its start to its end by SIGKILL."""
        failpoint = self.failpoint()
        deadline_s = self.rng.choice(DEADLINES_S)
        kill_after_s = self.rng.uniform(0.05, 0.4) if failpoint is None else 10.0
        try:
            api = Api(self.world.life(failpoint=failpoint, deadline_s=deadline_s, **how))
        except Died:
            self.struck.append("at start")
            return
        with ExitStack() as ending:
            ending.callback(self.note, api)
            ending.callback(api.kill)
            killer = threading.Timer(kill_after_s, api.send_kill)
            killer.start()
            ending.callback(killer.join)
            ending.callback(killer.cancel)
            work(actors, [api], acts)

    def note(self, api: Api) -> None:
        """Record where the failpoint struck, if it did."""
        if api.struck:
            self.struck.append(api.struck)

    def check(self, doors: Sequence[Door]) -> None:
        check(self.world, doors, self.ledger, self.rng)

    def recover(self, replicas: int = 1) -> None:
        """Restart the service and check all invariants; twice, with a collection in between."""
        with ExitStack() as ending:
            apis = [Api(self.world.life()) for _ in range(replicas)]
            for api in apis:
                ending.callback(api.kill)
            doors = [api.door for api in apis]
            deadlines_over = time.monotonic() + self.world.longest_s
            for entry in self.ledger.entries:
                if entry.possible == {State.ABSENT, State.ACTIVE} and self.rng.random() < KNOWN_BY_REPEAT:
                    while not register_until_known(doors[0], entry, self.ledger) and time.monotonic() < deadlines_over:
                        time.sleep(0.05)
            self.check(doors)
            time.sleep(max(0.0, deadlines_over - time.monotonic()))
            doors[0].collect(grace_s=-2.0)
            check_nothing_is_left(self.world, self.ledger)
            self.check(doors)

    def _hit(self, mean: float) -> int:
        return 1 + int(self.rng.expovariate(1 / mean))

    def _side(self) -> str:
        return self.rng.choice(("before", "after"))


def work(actors: Sequence[Actor], apis: Sequence[Api], acts: int) -> None:
    """Run all actors concurrently, with this many acts each."""
    doors = [api.door for api in apis]
    with ThreadPoolExecutor(len(actors)) as pool:
        list(pool.map(lambda actor: actor.work(doors, acts), actors))
