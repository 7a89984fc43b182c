"""Scenarios that need real servers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from tests.faults.checks.ledger import Entry, State
from tests.faults.cycle import Cycle, work
from tests.faults.processes.api_process import PATIENCE_S, Api
from tests.faults.processes.clients import register_until_known
from tests.faults.processes.failpoints import Failpoint
from tests.faults.processes.servers import ServerWorld, on_disk
from tests.faults.scenarios.crashes import (
    collectors,
    crashes,
    keep_objects,
    older_backup,
    races,
    replicas,
    start_processes,
)
from tests.support.fault_proxy import Fault
from tests.support.small_disk import small_disk

FAULTS = [fault for fault in Fault if fault not in (Fault.NONE, Fault.SWALLOW)]
# A burst of refusals is longer than the retries of one call.
BURST = 8
DISK_MB = 96
# The space that is allocated already, in its files and log, can last for some requests.
MOST_ROUNDS = 10
NO_SPACE = "No space left on device"
GIVES_UP = 0.3
STALL_S = 60.0
# The server ends a transaction that is idle for 10 s; requests that waited for its lock may have to be retried.
LOCKED_S = 25.0


def bad_network(cycle: Cycle) -> None:
    """Let the network to the object store flip bits, cut, slow down, refuse and drop; then repair it."""
    world = _servers(cycle)
    actors = cycle.actors(3)
    faults = world.servers.proxy.faults
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, deadline_s=2.0)
        for _ in range(2):
            for _ in range(cycle.rng.randint(4, 16)):
                kind = cycle.rng.choice(FAULTS)
                faults.extend([kind] * (BURST if kind is Fault.SLOW_DOWN else 1))
                faults.extend([Fault.NONE] * cycle.rng.randint(0, 4))
            work(actors, apis, 6)
            faults.clear()
            work(actors, apis, 3)
    cycle.struck += world.network_faults()
    cycle.recover()


def black_hole(cycle: Cycle) -> None:
    """Let the object store accept requests without responding, for a while."""
    world = _servers(cycle)
    actors = cycle.actors(3)
    faults = world.servers.proxy.faults
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, deadline_s=2.0, s3_timeout_s=0.3)
        work(actors, apis, 3)
        faults.extend([Fault.NONE] * cycle.rng.randint(0, 6) + [Fault.SWALLOW] * cycle.rng.randint(3, 15))
        since = time.monotonic()
        work(actors, apis, 6)
        cycle.ledger.expect(time.monotonic() - since < PATIENCE_S, "a request waits for a store that never answers")
        faults.clear()
        work(actors, apis, 3)
    cycle.struck += world.network_faults()
    cycle.recover()


def killed_server(cycle: Cycle) -> None:
    """Kill PostgreSQL while it works, and restart it."""
    world = _servers(cycle)

    def fault() -> None:
        world.servers.postgres.kill()
        time.sleep(cycle.rng.uniform(0.0, 0.5))
        world.servers.postgres.start()

    _run_clients(cycle, fault)


def full_database_disk(cycle: Cycle) -> None:
    """Fill PostgreSQL's disk, and free it again; the server may have stopped in between."""
    world, actors = _servers(cycle), cycle.actors(3)
    with small_disk(DISK_MB) as disk, on_disk(world, disk) as postgres:
        with ExitStack() as ending:
            apis = start_processes(cycle, ending, deadline_s=2.0)
            work(actors, apis, 4)
            disk.fill()
            for _ in range(MOST_ROUNDS):
                work(actors, apis, 6)
                if NO_SPACE in postgres.log.read_text():
                    cycle.struck.append("postgresql.no_space")
                    break
            disk.free()
            if cycle.rng.random() < GIVES_UP or not postgres.alive:
                postgres.kill()
                postgres.start()
            work(actors, apis, 3)
        cycle.recover()


def stalled_for_a_minute(cycle: Cycle) -> None:
    """Freeze a process in a transaction that holds the write lock; the others must not wait for it."""
    actors = cycle.actors(3)
    cycle.live(actors, acts=6)
    stall = Failpoint("sql.write", cycle.rng.randint(1, 6), signal.SIGSTOP)
    with ExitStack() as ending:
        (sleeper,) = start_processes(cycle, ending, failpoint=stall, deadline_s=2.0)
        (awake,) = start_processes(cycle, ending, deadline_s=2.0)
        sleeping = threading.Thread(target=work, args=(actors[:1], [sleeper], 20))
        sleeping.start()
        while sleeper.struck is None and sleeping.is_alive():
            time.sleep(0.01)
        wakes = time.monotonic() + STALL_S
        _check_others_continue(cycle, awake)
        work(actors[1:], [awake], 12)
        time.sleep(max(0.0, wakes - time.monotonic()))
        sleeper.thaw()
        sleeping.join()
        work(actors, [awake], 4)
        cycle.note(sleeper)
    cycle.recover()


def _check_others_continue(cycle: Cycle, awake: Api) -> None:
    """Check that a registration succeeds as soon as the database has released the frozen process's lock."""
    entry = Entry("next-to-a-sleeper", "hues", cycle.rng.randrange(2**31))
    cycle.ledger.entries.append(entry)
    give_up = time.monotonic() + LOCKED_S
    while not entry.is_certainly(State.ACTIVE) and time.monotonic() < give_up:
        register_until_known(awake.door, entry, cycle.ledger)
    cycle.ledger.expect(entry.is_certainly(State.ACTIVE), "one process that stands still holds up the others")


def cut_connections(cycle: Cycle) -> None:
    """Close PostgreSQL's connections repeatedly, also at commits."""
    world = _servers(cycle)

    def fault() -> None:
        for _ in range(8):
            world.cut_connections()
            time.sleep(cycle.rng.uniform(0.0, 0.05))

    _run_clients(cycle, fault)


def backup_put_back_under_way(cycle: Cycle) -> None:
    """Restore the database to an earlier state while a process with a newer index runs."""
    world = _servers(cycle)
    actors = cycle.actors(2)
    cycle.live(actors, acts=8)
    with ExitStack() as ending:
        (api,) = start_processes(cycle, ending)
        cycle.check([api.door])
    backup, known = world.backup(), cycle.ledger.known()
    keep_objects(actors)
    with ExitStack() as ending:
        apis = start_processes(cycle, ending)
        work(actors, apis, 6)
        world.restore(backup)
        cycle.ledger.reset_to(known)
        cycle.check([api.door for api in apis])
    cycle.recover()


def no_access(cycle: Cycle) -> None:
    """Run with expired credentials or a missing bucket; nothing acknowledged may be lost."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=6)
    cycle.live(actors, acts=8, **cycle.rng.choice(({"secret_key": "expired"}, {"bucket": "no-such-bucket"})))
    cycle.recover()


def _run_clients(cycle: Cycle, fault: Callable[[], None]) -> None:
    """Run clients, clients with a concurrent fault, and clients again."""
    actors = cycle.actors(3)
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, deadline_s=2.0)
        # The fault runs in this thread, because servers that it starts end with the thread that started them.
        working = threading.Thread(target=work, args=(actors, apis, 10))
        working.start()
        time.sleep(cycle.rng.uniform(0.0, 0.3))
        fault()
        working.join()
        work(actors, apis, 3)
    cycle.recover()


def _servers(cycle: Cycle) -> ServerWorld:
    assert isinstance(cycle.world, ServerWorld)
    return cycle.world


# Slow scenarios, which run only if requested by name.
LONG: Mapping[Callable[[Cycle], None], int] = {stalled_for_a_minute: 1}
# Relative frequency of each scenario.
ON_SERVERS: Mapping[Callable[[Cycle], None], int] = {
    crashes: 6,
    bad_network: 4,
    black_hole: 1,
    killed_server: 1,
    full_database_disk: 1,
    cut_connections: 3,
    older_backup: 1,
    backup_put_back_under_way: 1,
    no_access: 1,
    collectors: 2,
    replicas: 1,
    races: 1,
}
