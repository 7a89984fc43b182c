"""What happens in a cycle on real servers, beside what happens on SQLite and a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from tests.faults.cycle import Cycle, work
from tests.faults.scenarios import collectors, crashes, older_backup, races, replicas, started
from tests.faults.servers import ServerWorld
from tests.support.fault_proxy import Fault

FAULTS = [fault for fault in Fault if fault is not Fault.NONE]
# A burst of refusals is longer than the tries of one call.
BURST = 8


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
    cycle.recover()


def killed_server(cycle: Cycle) -> None:
    """PostgreSQL loses its power in the middle of the work, and comes back."""
    world = _servers(cycle)

    def fault() -> None:
        world.servers.postgres.kill()
        time.sleep(cycle.rng.uniform(0.0, 0.5))
        world.servers.postgres.start()

    _worked(cycle, fault)


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


# How often each of them comes.
ON_SERVERS: Mapping[Callable[[Cycle], None], int] = {
    crashes: 6,
    bad_network: 4,
    killed_server: 1,
    cut_connections: 3,
    older_backup: 1,
    backup_put_back_under_way: 1,
    no_access: 1,
    collectors: 2,
    replicas: 1,
    races: 1,
}
