"""Scenarios on local stores; each is a function of the cycle that ends with its recovery."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http import HTTPStatus

from tests.faults.checks.ledger import Entry, Pointer
from tests.faults.cycle import Cycle, work
from tests.faults.processes.api_process import Api, Door
from tests.faults.processes.clients import Actor, register
from tests.faults.processes.failpoints import Failpoint
from vlibrary.client import ServiceError

RACERS = 64
LONGEST_CYCLE_S = 300.0
# Statuses of requests that come too late.
LOST = (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.SERVICE_UNAVAILABLE)
# Where a collector can stall: before, between and after its reads and removals.
COLLECTOR_STEPS = (
    "catalogue.registrations.list_expired.after",
    "catalogue.registrations.release.before",
    "catalogue.registrations.find_referenced.before",
    "catalogue.registrations.find_referenced.after",
    "catalogue.audit_log.append.after",
    "artifacts.list.after",
    "artifacts.delete.before",
)


def crashes(cycle: Cycle) -> None:
    """Send SIGKILL at a step, one to three times."""
    actors = cycle.actors(cycle.rng.choice((1, 1, 3)))
    for _ in range(cycle.rng.randint(1, 3)):
        cycle.live(actors, acts=cycle.rng.randint(8, 24))
    cycle.recover()


def full_disk(cycle: Cycle) -> None:
    """Run with a full disk, and again with free space."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=6)
    cycle.live(actors, acts=10, largest_file=cycle.rng.randrange(4_096, 400_000))
    cycle.recover()


def replicas(cycle: Cycle) -> None:
    """Run two processes on the same stores; freeze one for a while."""
    actors = cycle.actors(3)
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, count=2, deadline_s=0.3)
        freezer = threading.Thread(target=_freeze, args=(apis[1], cycle.rng.uniform(0.0, 0.2)))
        freezer.start()
        work(actors, apis, cycle.rng.randint(4, 12))
        freezer.join()
        work(actors, apis, 4)
    cycle.recover(replicas=2)


def collectors(cycle: Cycle) -> None:
    """Freeze a collector in the middle of its work, run another one, and resume the first."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=8)
    stall = Failpoint(cycle.rng.choice(COLLECTOR_STEPS), cycle.rng.choice((1, 1, 2)), signal.SIGSTOP)
    with ExitStack() as ending:
        (sleeper,) = start_processes(cycle, ending, failpoint=stall)
        (awake,) = start_processes(cycle, ending, deadline_s=0.3)
        sleeping = threading.Thread(target=_collect, args=(sleeper.door,))
        sleeping.start()
        work(actors, [awake], 8)
        time.sleep(0.3)
        _collect(awake.door)
        work(actors, [awake], 4)
        sleeper.thaw()
        sleeping.join()
        work(actors, [awake], 4)
        cycle.note(sleeper)
    cycle.recover()


def older_backup(cycle: Cycle) -> None:
    """Restore the database to an earlier state than objects and snapshots."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=10)
    with ExitStack() as ending:
        (api,) = start_processes(cycle, ending)
        cycle.check([api.door])
    backup = cycle.world.backup()
    known = cycle.ledger.known()
    keep_objects(actors)
    cycle.live(actors, acts=10)
    cycle.world.restore(backup)
    cycle.ledger.reset_to(known)
    cycle.recover()


def races(cycle: Cycle) -> None:
    """Let many clients compete for one idempotency key, one name and one alias, on two replicas."""
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, count=2)
        doors = [api.door for api in apis]
        entry = Entry("shared", "raced", cycle.rng.randrange(2**31))
        cycle.ledger.entries.append(entry)
        _one_key(cycle, doors, entry)
        others = [Entry(f"own-{number}", "raced", number) for number in range(RACERS)]
        cycle.ledger.entries += others
        _race(len(others), doors, lambda number, door: register(door, others[number]))
        cycle.ledger.expect(all(one.vector_id for one in others), "a registration without interference has failed")
        _one_alias(cycle, doors, [one.vector_id for one in others if one.vector_id])
    cycle.recover()


def keep_objects(actors: Sequence[Actor]) -> None:
    """Keep objects purged since the backup from now on, as a longer grace period would."""
    for actor in actors:
        actor.purged_s = LONGEST_CYCLE_S


def _one_key(cycle: Cycle, doors: Sequence[Door], entry: Entry) -> None:
    def act(_: int, door: Door) -> str:
        return door.register(entry.artifact, entry.card, idempotency_key=entry.key).id

    answers = _race(RACERS, doors, act)
    cycle.ledger.expect(len(answers) == 1, f"one idempotency key has made {answers}")
    entry.vector_id = next(iter(answers), None)
    entry.become_active()


def _one_alias(cycle: Cycle, doors: Sequence[Door], vector_ids: Sequence[str]) -> None:
    pointer = Pointer("raced", "wanted")
    cycle.ledger.pointers.append(pointer)

    def act(number: int, door: Door) -> str:
        wanted = vector_ids[number % len(vector_ids)]
        door.set_alias(pointer.name, pointer.alias, wanted)
        return f"{wanted} by {number}"

    answers = _race(RACERS, doors, act)
    cycle.ledger.expect(len(answers) == 1, f"one alias was taken by {answers}")
    pointer.possible = {answer.partition(" ")[0] for answer in answers}


def _race(count: int, doors: Sequence[Door], act: Callable[[int, Door], str | None]) -> set[str]:
    """Return the responses to this many simultaneous clients, without conflicts and missing ones."""
    start = threading.Barrier(count)

    def run(number: int) -> str | None:
        start.wait()
        try:
            return act(number, doors[number % len(doors)])
        except ServiceError as error:
            if error.status not in LOST:
                raise
            return None

    with ThreadPoolExecutor(count) as pool:
        return {answer for answer in pool.map(run, range(count)) if answer is not None}


def start_processes(cycle: Cycle, ending: ExitStack, count: int = 1, **how: object) -> list[Api]:
    """Start this many processes, which end with the stack."""
    apis = []
    for _ in range(count):
        apis.append(Api(cycle.world.life(**how), patience_s=5.0))
        ending.callback(apis[-1].kill)
    return apis


def _freeze(api: Api, after_s: float, for_s: float = 0.5) -> None:
    time.sleep(after_s)
    api.freeze()
    time.sleep(for_s)
    api.thaw()


def _collect(door: Door) -> None:
    with suppress(ServiceError):
        door.collect(grace_s=0.3)


# Relative frequency of each scenario.
LOCAL: Mapping[Callable[[Cycle], None], int] = {
    crashes: 12,
    collectors: 2,
    replicas: 1,
    full_disk: 1,
    older_backup: 1,
    races: 1,
}
