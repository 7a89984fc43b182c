"""Scenarios in which operator commands are killed at any step and rerun."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.util import CommandError

from tests.faults.checks.invariants import check_nothing_is_left
from tests.faults.checks.ledger import Known, Ledger, State
from tests.faults.cycle import Cycle, work
from tests.faults.processes.api_process import Api
from tests.faults.processes.clients import Actor
from tests.faults.processes.failpoints import Failpoint
from tests.faults.processes.operator import vlibrary
from tests.faults.processes.servers import ServerWorld
from tests.faults.processes.world import World
from tests.faults.scenarios.crashes import start_processes
from tests.support.registrations import plain
from vlibrary.adapters.sql.schema import alembic_config
from vlibrary.domain.filters import Filter
from vlibrary.library.publish import DEADLINE

STEPS = ("*", "sql.*", "file.*", "artifacts.*", "catalogue.*")
# A command dies equally often at step 1, step 2, steps 3 to 4, steps 5 to 8 and so on.
DOUBLINGS = 7.0
MOST = 1_000
# Past the deadline of the running clients' registrations, and past every deadline.
GRACE, NONE = timedelta(seconds=1), timedelta(seconds=-2)
EXAMINE = ("doctor", "--deep", "--repair-index")


def backups(cycle: Cycle) -> None:
    """Kill a backup while clients run; complete the next one, and restore it elsewhere in several attempts."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=8)
    folder = cycle.world.data_dir / "backup"
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, deadline_s=0.3)
        with _clients_running(actors, apis):
            _run_killed(cycle, "backup", str(folder))
        before = _back_up(cycle, apis, actors, folder)
    cycle.world = _empty_stores(cycle.world)
    _run_until_complete(cycle, "restore", str(folder))
    if before is not None:
        _take_back(cycle, [before])
    _examine(cycle)
    cycle.recover()


def restorations(cycle: Cycle) -> None:
    """Restore the last complete backup over later changes, while a service runs."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=8)
    folder = str(cycle.world.data_dir / "backup")
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, deadline_s=0.3)
        doors = [api.door for api in apis]
        moments = []
        for run in (_run_until_complete, _run_killed):  # the second one may be completed, too
            cycle.check(doors)
            moments.append((_content(cycle.world), cycle.ledger.known()))
            run(cycle, "backup", folder)
            work(actors, apis, 6)
        lost = cycle.rng.choice((_lose_all_objects, _collect_deleted))
        lost(cycle)
        epoch = _epoch(cycle.world)
        _run_killed(cycle, "restore", "--replace", folder)
        if lost is _collect_deleted or _epoch(cycle.world) != epoch:
            # Either the old library or the restored one, and nothing in between.
            _examine(cycle, "--take-over")
        _check_well(cycle, "restore", "--replace", folder)
        _take_back(cycle, moments)
        cycle.check(doors)
        _examine(cycle)
        for entry in cycle.ledger.entries:
            if entry.is_certainly(State.ABSENT):
                entry.vector_id = None  # it may be registered again, as another vector
        work(actors, apis, 4)
    cycle.recover()


def collections(cycle: Cycle) -> None:
    """Kill the collector while clients run; later, let it remove everything that was deleted."""
    actors = cycle.actors(2)
    for _ in range(2):
        cycle.live(actors, acts=8)
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, deadline_s=0.3)
        with _clients_running(actors, apis):
            _run_until_complete(cycle, "gc", "--grace", "15m", ahead=DEADLINE - GRACE)
        doors = [api.door for api in apis]
        cycle.check(doors)
        _collect_deleted(cycle)
        cycle.check(doors)
        check_nothing_is_left(cycle.world, cycle.ledger)
    cycle.recover()


def examinations(cycle: Cycle) -> None:
    """Kill and rerun doctor; it must find nothing wrong with what killed processes and running clients leave behind."""
    actors = cycle.actors(2)
    _check_well(cycle, "migrate")  # both processes may die before they have created the tables, which doctor does not
    for _ in range(2):
        cycle.live(actors, acts=8)
    _run_until_complete(cycle, *EXAMINE)
    with ExitStack() as ending:
        apis = start_processes(cycle, ending, deadline_s=0.3)
        with _clients_running(actors, apis):
            _run_until_complete(cycle, *EXAMINE)
    cycle.recover()


def migrations(cycle: Cycle) -> None:
    """Create the schema, and migrate a filled library of the previous release, in several attempts."""
    actors = cycle.actors(2)
    _run_until_complete(cycle, "migrate")
    cycle.live(actors, acts=10)
    with ExitStack() as ending:
        (api,) = start_processes(cycle, ending)
        cycle.check([api.door])
    with suppress(CommandError):  # it contains what the previous release does not support
        command.downgrade(alembic_config(cycle.world.database_url), "-1")
    _run_until_complete(cycle, "migrate")
    _examine(cycle)
    cycle.recover()


def _collect_deleted(cycle: Cycle) -> None:
    """Purge all deleted vectors, and remove all unreferenced objects."""
    _run_until_complete(cycle, "gc", "--grace", "15m", "--retention", "0s", ahead=DEADLINE - NONE)
    for entry in cycle.ledger.entries:
        entry.possible = {State.PURGED if state is State.DELETED else state for state in entry.possible}


def _lose_all_objects(cycle: Cycle) -> None:
    artifacts = cycle.world.artifacts
    for found in list(artifacts.list()):
        artifacts.delete(found.key)


def _epoch(world: World) -> str:
    with world.catalogue() as catalogue:
        return catalogue.change_log.position().epoch


def _failpoint(cycle: Cycle) -> Failpoint:
    return Failpoint(cycle.rng.choice(STEPS), int(2 ** cycle.rng.uniform(0.0, DOUBLINGS)))


def _run_killed(cycle: Cycle, *arguments: str, ahead: timedelta = timedelta(0)) -> None:
    """Run the command once or twice, killed at a step each time unless it ends before."""
    for _ in range(cycle.rng.randint(1, 2)):
        _check_well(cycle, *arguments, ahead=ahead, failpoint=_failpoint(cycle))


def _run_until_complete(cycle: Cycle, *arguments: str, ahead: timedelta = timedelta(0)) -> None:
    """Run the command, killed at a step, until it ends."""
    _run_killed(cycle, *arguments, ahead=ahead)
    _check_well(cycle, *arguments, ahead=ahead)


def _check_well(
    cycle: Cycle, *arguments: str, ahead: timedelta = timedelta(0), failpoint: Failpoint | None = None
) -> None:
    """Check that the command succeeds unless it is killed."""
    ended = vlibrary(cycle.world.life(failpoint=failpoint), *arguments, ahead=ahead)
    if ended.struck:
        cycle.struck.append(ended.struck)
    if ended.code is None and ended.struck:
        return
    # A restoration that was killed after its last step prints what to do next.
    if ended.code and arguments[0] == "restore" and "--replace" in " ".join(ended.output.split()):
        ended = vlibrary(cycle.world.life(), *arguments, "--replace")
    cycle.ledger.expect(ended.code == 0, f"vlibrary {' '.join(arguments)} ended with {ended.code}: {ended.output}")


def _examine(cycle: Cycle, *options: str) -> None:
    """Check that nothing is wrong, and that collection is allowed."""
    _check_well(cycle, *EXAMINE, *options)
    _check_well(cycle, "gc", "--dry-run")


def _back_up(cycle: Cycle, apis: list[Api], actors: list[Actor], folder: Path) -> tuple[list[object], Known] | None:
    """Back up the library; half of the time while it is idle, and then return its content, otherwise None."""
    cycle.check([api.door for api in apis])
    known = cycle.ledger.known()
    if cycle.rng.random() < 0.5:
        moment = _content(cycle.world), known
        _check_well(cycle, "backup", str(folder))
        return moment
    with _clients_running(actors, apis):
        _check_well(cycle, "backup", str(folder))
    _forget_since(known, cycle.ledger)
    return None


def _forget_since(known: Known, ledger: Ledger) -> None:
    """Accept any state since this one: what existed exists in some state, and everything else is possible."""
    for entry in ledger.entries:
        was_there = State.ABSENT not in known.entries.get(entry.key, {State.ABSENT})
        entry.possible = set(State) - ({State.ABSENT} if was_there else set())
    for pointer in ledger.pointers:
        pointer.possible = {None, *(entry.vector_id for entry in ledger.entries)}


def _take_back(cycle: Cycle, moments: Sequence[tuple[list[object], Known]]) -> None:
    """Check that the library is in one of these states, and update the ledger."""
    now = _content(cycle.world)
    fitting = [known for content, known in moments if now[: len(content)] == content]
    cycle.ledger.expect(bool(fitting), "what was restored is the library of no moment at which it was backed up")
    if fitting:
        cycle.ledger.reset_to(fitting[-1])


def _content(world: World) -> list[object]:
    """Return what clients can read, except the epoch and the last audit entries, which a restoration adds."""
    with world.catalogue() as catalogue:
        records = [plain(record) for record in catalogue.vectors.page(Filter(status=None), limit=MOST).records]
        log = [(change.seq, change.kind, change.vector_id) for change in catalogue.change_log.read(0, MOST)]
        audit = [entry for entry in catalogue.audit_log.read(0, MOST) if not entry.action.startswith("library.")]
        return [records, log, catalogue.aliases.list(), *audit]


def _empty_stores(world: World) -> World:
    """Return empty stores of the same kind."""
    folder = world.data_dir / "elsewhere"
    folder.mkdir()
    return world.servers.world(folder) if isinstance(world, ServerWorld) else World(folder)


@contextmanager
def _clients_running(actors: list[Actor], apis: list[Api]) -> Iterator[None]:
    """Run clients during the block, or for this many acts."""
    working = threading.Thread(target=work, args=(actors, apis, 12))
    working.start()
    try:
        yield
    finally:
        working.join()


# Relative frequency of each scenario, on any stores.
OPERATORS: Mapping[Callable[[Cycle], None], int] = {
    backups: 2,
    restorations: 2,
    collections: 1,
    examinations: 1,
    migrations: 1,
}
