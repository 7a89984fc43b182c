"""A few fault cycles of every kind, and proof that the checks notice what they are there to notice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.domain.filters import Filter
from service.domain.ports import Catalogue
from tests.faults.cycle import Cycle, work
from tests.faults.ledger import Ledger
from tests.faults.processes import Api
from tests.faults.running import run_cycle
from tests.faults.scenarios import LOCAL, crashes
from tests.faults.server_scenarios import ON_SERVERS
from tests.faults.servers import NoServers, Servers, running_servers
from tests.faults.world import World

# Seeds of cycles that found something once, with what happened in them.
FOUND = [(2042, crashes)]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """PostgreSQL and S3; skips, and says why, where they cannot be had."""
    try:
        with running_servers() as servers:
            yield servers
    except NoServers as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("scenario", LOCAL)
def test_nothing_is_lost_on_sqlite_and_a_folder(scenario: Callable[[Cycle], None]) -> None:
    assert run_cycle(1, scenarios={scenario: 1}).ledger.violations == []


@pytest.mark.parametrize("seed", range(2, 4))
def test_nothing_is_lost_by_a_crash_at_any_step(seed: int) -> None:
    assert run_cycle(seed, scenarios={crashes: 1}).ledger.violations == []


@pytest.mark.parametrize(("seed", "scenario"), FOUND)
def test_what_was_found_once_is_not_found_again(seed: int, scenario: Callable[[Cycle], None]) -> None:
    assert run_cycle(seed, scenarios={scenario: 1}).ledger.violations == []


@pytest.mark.real
@pytest.mark.parametrize("scenario", ON_SERVERS)
def test_nothing_is_lost_on_postgresql_and_s3(scenario: Callable[[Cycle], None], servers: Servers) -> None:
    assert run_cycle(1, servers, {scenario: 1}).ledger.violations == []


def _damage(cycle: Cycle, catalogue: Catalogue) -> None:
    path = _file(cycle, catalogue)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _remove(cycle: Cycle, catalogue: Catalogue) -> None:
    _file(cycle, catalogue).unlink()


def _delete(cycle: Cycle, catalogue: Catalogue) -> None:
    catalogue.delete(_vector_id(catalogue))


def _purge(cycle: Cycle, catalogue: Catalogue) -> None:
    vector_id = _vector_id(catalogue)
    catalogue.delete(vector_id)
    catalogue.purge(vector_id)


def _forget(cycle: Cycle, catalogue: Catalogue) -> None:
    """The clients were promised a vector that is not there."""
    cycle.ledger.entries[0].possible.clear()


def _leave_behind(cycle: Cycle, catalogue: Catalogue) -> None:
    (cycle.world.data_dir / "artifacts" / "left.behind").mkdir(parents=True)
    (cycle.world.data_dir / "artifacts" / "left.behind" / ".hidden").touch()


def _file(cycle: Cycle, catalogue: Catalogue) -> Path:
    return cycle.world.data_dir / "artifacts" / catalogue.get(_vector_id(catalogue)).object_key


def _vector_id(catalogue: Catalogue) -> str:
    """A vector that no alias points to."""
    aliased = {alias.vector_id for alias in catalogue.aliases()}
    return min(catalogue.ids(Filter()) - aliased)


@pytest.mark.parametrize("harm", [_damage, _remove, _delete, _purge, _forget, _leave_behind])
def test_the_checks_notice(harm: Callable[[Cycle, Catalogue], None], tmp_path: Path) -> None:
    cycle = Cycle("harm", World(tmp_path), random.Random(3), Ledger())
    actors = cycle.actors(1)
    api = Api(cycle.world.life())
    work(actors, [api], 16)
    api.kill()
    assert cycle.ledger.violations == []
    with cycle.world.catalogue() as catalogue:
        harm(cycle, catalogue)
    cycle.recover()
    assert cycle.ledger.violations
