"""What happens to a library while its operator's commands are killed at any step and run again."""

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
from tests.faults.scenarios.crashes import started
from tests.support.registrations import plain
from vlibrary.adapters.sql.schema import alembic_config
from vlibrary.domain.filters import Filter
from vlibrary.library.publish import DEADLINE

STEPS = ("*", "sql.*", "file.*", "artifacts.*", "catalogue.*")
# A command dies at its first steps as often as at its second ones, its third and fourth ones, its fifth to eighth ones.
DOUBLINGS = 7.0
MOST = 1_000
# Past the deadline of every registration of the clients at work, and past all of them.
GRACE, NONE = timedelta(seconds=1), timedelta(seconds=-2)
EXAMINE = ("doctor", "--deep", "--repair-index")


def backups(cycle: Cycle) -> None:
    """A backup is killed while clients work; the next one is whole, and is restored elsewhere, in several tries."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=8)
    folder = cycle.world.data_dir / "backup"
    with ExitStack() as ending:
        apis = started(cycle, ending, deadline_s=0.3)
        with _beside(actors, apis):
            _killed(cycle, "backup", str(folder))
        before = _backed_up(cycle, apis, actors, folder)
    cycle.world = _elsewhere(cycle.world)
    _repeated(cycle, "restore", str(folder))
    if before is not None:
        _take_back(cycle, [before])
    _examined(cycle)
    cycle.recover()


def restorations(cycle: Cycle) -> None:
    """The last whole backup is put in the place of what came after it, under the feet of a running service."""
    actors = cycle.actors(2)
    cycle.live(actors, acts=8)
    folder = str(cycle.world.data_dir / "backup")
    with ExitStack() as ending:
        apis = started(cycle, ending, deadline_s=0.3)
        doors = [api.door for api in apis]
        moments = []
        for run in (_repeated, _killed):  # the second one may become whole, too
            cycle.check(doors)
            moments.append((_content(cycle.world), cycle.ledger.known()))
            run(cycle, "backup", folder)
            work(actors, apis, 6)
        lost = cycle.rng.choice((_lose_all_objects, _collect_deleted))
        lost(cycle)
        epoch = _epoch(cycle.world)
        _killed(cycle, "restore", "--replace", folder)
        if lost is _collect_deleted or _epoch(cycle.world) != epoch:
            # The old library, if it was whole, or the restored one, and nothing in between.
            _examined(cycle, "--take-over")
        _check_well(cycle, "restore", "--replace", folder)
        _take_back(cycle, moments)
        cycle.check(doors)
        _examined(cycle)
        for entry in cycle.ledger.entries:
            if entry.surely(State.ABSENT):
                entry.vector_id = None  # it may be registered again, and is another vector then
        work(actors, apis, 4)
    cycle.recover()


def collections(cycle: Cycle) -> None:
    """The collector is killed beside clients at work; later it empties the library of all that was deleted."""
    actors = cycle.actors(2)
    for _ in range(2):
        cycle.live(actors, acts=8)
    with ExitStack() as ending:
        apis = started(cycle, ending, deadline_s=0.3)
        with _beside(actors, apis):
            _repeated(cycle, "gc", "--grace", "15m", ahead=DEADLINE - GRACE)
        doors = [api.door for api in apis]
        cycle.check(doors)
        _collect_deleted(cycle)
        cycle.check(doors)
        check_nothing_is_left(cycle.world, cycle.ledger)
    cycle.recover()


def examinations(cycle: Cycle) -> None:
    """The doctor, killed and called again, finds nothing wrong with what kills and clients at work leave behind."""
    actors = cycle.actors(2)
    _check_well(cycle, "migrate")  # both lives may die before they have made the tables, which the doctor does not
    for _ in range(2):
        cycle.live(actors, acts=8)
    _repeated(cycle, *EXAMINE)
    with ExitStack() as ending:
        apis = started(cycle, ending, deadline_s=0.3)
        with _beside(actors, apis):
            _repeated(cycle, *EXAMINE)
    cycle.recover()


def migrations(cycle: Cycle) -> None:
    """New tables, and then those of a filled library of the release before, are made in several tries."""
    actors = cycle.actors(2)
    _repeated(cycle, "migrate")
    cycle.live(actors, acts=10)
    with ExitStack() as ending:
        (api,) = started(cycle, ending)
        cycle.check([api.door])
    with suppress(CommandError):  # it holds what the release before does not know
        command.downgrade(alembic_config(cycle.world.database_url), "-1")
    _repeated(cycle, "migrate")
    _examined(cycle)
    cycle.recover()


def _collect_deleted(cycle: Cycle) -> None:
    """Purge all that is deleted, and remove all that nobody needs now."""
    _repeated(cycle, "gc", "--grace", "15m", "--retention", "0s", ahead=DEADLINE - NONE)
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


def _killed(cycle: Cycle, *arguments: str, ahead: timedelta = timedelta(0)) -> None:
    """The command, once or twice, killed at a step each time unless it ends before."""
    for _ in range(cycle.rng.randint(1, 2)):
        _check_well(cycle, *arguments, ahead=ahead, failpoint=_failpoint(cycle))


def _repeated(cycle: Cycle, *arguments: str, ahead: timedelta = timedelta(0)) -> None:
    """The command, killed and repeated until it ends."""
    _killed(cycle, *arguments, ahead=ahead)
    _check_well(cycle, *arguments, ahead=ahead)


def _check_well(
    cycle: Cycle, *arguments: str, ahead: timedelta = timedelta(0), failpoint: Failpoint | None = None
) -> None:
    """The command ends well unless it is killed."""
    ended = vlibrary(cycle.world.life(failpoint=failpoint), *arguments, ahead=ahead)
    if ended.struck:
        cycle.struck.append(ended.struck)
    if ended.code is None and ended.struck:
        return
    # A restoration that was killed after its last step says by itself what it needs now.
    if ended.code and arguments[0] == "restore" and "give --replace" in " ".join(ended.told.split()):
        ended = vlibrary(cycle.world.life(), *arguments, "--replace")
    cycle.ledger.expect(ended.code == 0, f"vlibrary {' '.join(arguments)} ended with {ended.code}: {ended.told}")


def _examined(cycle: Cycle, *options: str) -> None:
    """Nothing is wrong, and the collector may work."""
    _check_well(cycle, *EXAMINE, *options)
    _check_well(cycle, "gc", "--dry-run")


def _backed_up(cycle: Cycle, apis: list[Api], actors: list[Actor], folder: Path) -> tuple[list[object], Known] | None:
    """A whole backup, half of the time of a library at rest: then what it was at that moment, otherwise None."""
    cycle.check([api.door for api in apis])
    known = cycle.ledger.known()
    if cycle.rng.random() < 0.5:
        moment = _content(cycle.world), known
        _check_well(cycle, "backup", str(folder))
        return moment
    with _beside(actors, apis):
        _check_well(cycle, "backup", str(folder))
    _forget_since(known, cycle.ledger)
    return None


def _forget_since(known: Known, ledger: Ledger) -> None:
    """Some moment after this one counts: what was there is there in some state, and all else is possible."""
    for entry in ledger.entries:
        was_there = State.ABSENT not in known.entries.get(entry.key, {State.ABSENT})
        entry.possible = set(State) - ({State.ABSENT} if was_there else set())
    for pointer in ledger.pointers:
        pointer.possible = {None, *(entry.vector_id for entry in ledger.entries)}


def _take_back(cycle: Cycle, moments: Sequence[tuple[list[object], Known]]) -> None:
    """The library is what it was at one of these moments, and the clients hear of it."""
    now = _content(cycle.world)
    fitting = [known for content, known in moments if now[: len(content)] == content]
    cycle.ledger.expect(bool(fitting), "what was restored is the library of no moment at which it was backed up")
    if fitting:
        cycle.ledger.forget_all_but(fitting[-1])


def _content(world: World) -> list[object]:
    """All that readers see but for the epoch: what a restoration adds to the audit log comes last."""
    with world.catalogue() as catalogue:
        records = [plain(record) for record in catalogue.vectors.page(Filter(status=None), limit=MOST).records]
        log = [(change.seq, change.kind, change.vector_id) for change in catalogue.change_log.read(0, MOST)]
        audit = [entry for entry in catalogue.audit_log.read(0, MOST) if not entry.action.startswith("library.")]
        return [records, log, catalogue.aliases.list(), *audit]


def _elsewhere(world: World) -> World:
    """Stores of the same kind, with nothing in them."""
    folder = world.data_dir / "elsewhere"
    folder.mkdir()
    return world.servers.world(folder) if isinstance(world, ServerWorld) else World(folder)


@contextmanager
def _beside(actors: list[Actor], apis: list[Api]) -> Iterator[None]:
    """Clients work as long as what is inside the `with`, or for so many acts."""
    working = threading.Thread(target=work, args=(actors, apis, 12))
    working.start()
    try:
        yield
    finally:
        working.join()


# How often each of them comes, on any stores.
OPERATORS: Mapping[Callable[[Cycle], None], int] = {
    backups: 2,
    restorations: 2,
    collections: 1,
    examinations: 1,
    migrations: 1,
}
