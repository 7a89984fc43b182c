"""What happens in a cycle on real servers, beside what happens on SQLite and a folder."""

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
from tests.faults.scenarios.crashes import collectors, crashes, keep_objects, older_backup, races, replicas, started
from tests.support.fault_proxy import Fault
from tests.support.small_disk import small_disk

FAULTS = [fault for fault in Fault if fault not in (Fault.NONE, Fault.SWALLOW)]
# A burst of refusals is longer than the tries of one call.
BURST = 8
DISK_MB = 96
# What it already has room for, in its files and its log, may last for some requests.
MOST_ROUNDS = 10
NO_SPACE = "No space left on device"
GIVES_UP = 0.3
STALL_S = 60.0
# A transaction that stands still for 10 s is ended; whoever waited for its lock may have to ask again.
LOCKED_S = 25.0


def bad_network(cycle: Cycle) -> None:
    """The way to the object store flips, cuts, drips, refuses and forgets; then it is well again."""
    world = _servers(cycle)
    actors = cycle.actors(3)
    faults = world.servers.proxy.faults
    with ExitStack() as ending:
        apis = started(cycle, ending, deadline_s=2.0)
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
    """The object store takes requests and never answers, for a while."""
    world = _servers(cycle)
    actors = cycle.actors(3)
    faults = world.servers.proxy.faults
    with ExitStack() as ending:
        apis = started(cycle, ending, deadline_s=2.0, s3_timeout_s=0.3)
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
    """PostgreSQL loses its power in the middle of the work, and comes back."""
    world = _servers(cycle)

    def fault() -> None:
        world.servers.postgres.kill()
        time.sleep(cycle.rng.uniform(0.0, 0.5))
        world.servers.postgres.start()

    _worked(cycle, fault)


def full_database_disk(cycle: Cycle) -> None:
    """PostgreSQL's disk is full, and has room again; it may have given up in between."""
    world, actors = _servers(cycle), cycle.actors(3)
    with small_disk(DISK_MB) as disk, on_disk(world, disk) as postgres:
        with ExitStack() as ending:
            apis = started(cycle, ending, deadline_s=2.0)
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
    """A process stands still in a transaction with everybody's lock; the others must not wait for it."""
    actors = cycle.actors(3)
    cycle.live(actors, acts=6)
    stall = Failpoint("sql.write", cycle.rng.randint(1, 6), signal.SIGSTOP)
    with ExitStack() as ending:
        (sleeper,) = started(cycle, ending, failpoint=stall, deadline_s=2.0)
        (awake,) = started(cycle, ending, deadline_s=2.0)
        sleeping = threading.Thread(target=work, args=(actors[:1], [sleeper], 20))
        sleeping.start()
        while sleeper.struck is None and sleeping.is_alive():
            time.sleep(0.01)
        wakes = time.monotonic() + STALL_S
        _others_go_on(cycle, awake)
        work(actors[1:], [awake], 12)
        time.sleep(max(0.0, wakes - time.monotonic()))
        sleeper.thaw()
        sleeping.join()
        work(actors, [awake], 4)
        cycle.note(sleeper)
    cycle.recover()


def _others_go_on(cycle: Cycle, awake: Api) -> None:
    """A registration is answered as soon as the database has taken the sleeper's lock away."""
    entry = Entry("beside-a-sleeper", "hues", cycle.rng.randrange(2**31))
    cycle.ledger.entries.append(entry)
    give_up = time.monotonic() + LOCKED_S
    while not entry.surely(State.ACTIVE) and time.monotonic() < give_up:
        register_until_known(awake.door, entry, cycle.ledger)
    cycle.ledger.expect(entry.surely(State.ACTIVE), "one process that stands still holds up the others")


def cut_connections(cycle: Cycle) -> None:
    """PostgreSQL ends its clients' connections again and again, at commits too."""
    world = _servers(cycle)

    def fault() -> None:
        for _ in range(8):
            world.cut_connections()
            time.sleep(cycle.rng.uniform(0.0, 0.05))

    _worked(cycle, fault)


def backup_put_back_under_way(cycle: Cycle) -> None:
    """The database is put back to an earlier state while a process runs, whose index knows better."""
    world = _servers(cycle)
    actors = cycle.actors(2)
    cycle.live(actors, acts=8)
    with ExitStack() as ending:
        (api,) = started(cycle, ending)
        cycle.check([api.door])
    backup, known = world.backup(), cycle.ledger.known()
    keep_objects(actors)
    with ExitStack() as ending:
        apis = started(cycle, ending)
        work(actors, apis, 6)
        world.restore(backup)
        cycle.ledger.forget_all_but(known)
        cycle.check([api.door for api in apis])
    cycle.recover()


def no_access(cycle: Cycle) -> None:
    """The credentials have expired, or the bucket is missing: nothing that is promised then is kept badly."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=6)
    cycle.live(actors, acts=8, **cycle.rng.choice(({"secret_key": "expired"}, {"bucket": "no-such-bucket"})))
    cycle.recover()


def _worked(cycle: Cycle, fault: Callable[[], None]) -> None:
    """Clients at work, a fault that strikes beside them, clients again."""
    actors = cycle.actors(3)
    with ExitStack() as ending:
        apis = started(cycle, ending, deadline_s=2.0)
        # The fault in this thread: servers that it starts end with the thread that started them.
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


# These take long, and come only when they are asked for by name.
LONG: Mapping[Callable[[Cycle], None], int] = {stalled_for_a_minute: 1}
# How often each of them comes.
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
