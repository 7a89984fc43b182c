"""A few fault cycles of every kind, and proof that the invariants detect violations."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.checks.ledger import Ledger
from tests.faults.cycle import Cycle, work
from tests.faults.processes.api_process import Api
from tests.faults.processes.servers import Servers
from tests.faults.processes.world import World
from tests.faults.running import run_cycle
from tests.faults.scenarios.crashes import LOCAL, crashes, older_backup, start_processes
from tests.faults.scenarios.servers import FAULTS, ON_SERVERS, bad_network, black_hole, full_database_disk
from vlibrary.client import Client, ServiceError
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue

# Seeds of cycles that have found failures, with their scenarios.
FOUND = [(2042, crashes), (64, older_backup)]
FOUND_ON_SERVERS = [(20043, bad_network)]
MOST_NETWORK_CYCLES = 8
# What must have happened in a cycle; otherwise it proves nothing.
STRUCK: Mapping[Callable[[Cycle], None], set[str]] = {
    black_hole: {"network.swallow"},
    full_database_disk: {"postgresql.no_space"},
}


@pytest.mark.parametrize("scenario", LOCAL)
def test_nothing_is_lost_on_sqlite_and_a_folder(scenario: Callable[[Cycle], None]) -> None:
    assert run_cycle(1, scenarios={scenario: 1}).ledger.violations == []


@pytest.mark.parametrize("seed", range(2, 4))
def test_nothing_is_lost_by_a_crash_at_any_step(seed: int) -> None:
    assert run_cycle(seed, scenarios={crashes: 1}).ledger.violations == []


@pytest.mark.parametrize(("seed", "scenario"), FOUND)
def test_known_failures_on_sqlite_do_not_recur(seed: int, scenario: Callable[[Cycle], None]) -> None:
    assert run_cycle(seed, scenarios={scenario: 1}).ledger.violations == []


@pytest.mark.real
@pytest.mark.parametrize("scenario", ON_SERVERS)
def test_nothing_is_lost_on_postgresql_and_s3(scenario: Callable[[Cycle], None], servers: Servers) -> None:
    cycle = run_cycle(1, servers, {scenario: 1})
    if cycle.skipped:
        pytest.skip(cycle.skipped)
    assert cycle.ledger.violations == []
    assert STRUCK.get(scenario, set()) <= set(cycle.struck)


@pytest.mark.real
@pytest.mark.parametrize(("seed", "scenario"), FOUND_ON_SERVERS)
def test_known_failures_on_servers_do_not_recur(seed: int, scenario: Callable[[Cycle], None], servers: Servers) -> None:
    assert run_cycle(seed, servers, {scenario: 1}).ledger.violations == []


@pytest.mark.real
def test_the_proxy_injects_every_network_fault(servers: Servers) -> None:
    wanted = {f"network.{fault.name.lower()}" for fault in FAULTS}
    struck: set[str] = set()
    for seed in range(1, MOST_NETWORK_CYCLES):
        if not wanted <= struck:
            struck.update(run_cycle(seed, servers, {bad_network: 1}).struck)
    assert wanted <= struck


def _fail(cycle: Cycle) -> None:
    raise LookupError(cycle.scenario)


def _fail_in_thread(cycle: Cycle) -> None:
    thread = threading.Thread(target=_fail, args=(cycle,))
    thread.start()
    thread.join()


def test_a_cycle_that_hangs_is_a_violation_and_leaves_no_process() -> None:
    addresses = []

    def hang(cycle: Cycle) -> None:
        with ExitStack() as ending:
            (api,) = start_processes(cycle, ending)
            addresses.append(api.door.url)
            threading.Event().wait()

    (violation,) = run_cycle(1, scenarios={hang: 1}, limit_s=8.0).ledger.violations
    assert "the cycle hangs" in violation
    assert "threading.Event().wait()" in violation
    with Client(*addresses) as client, pytest.raises(ServiceError):
        client.list_models()


@pytest.mark.parametrize("scenario", [_fail, _fail_in_thread])
def test_an_error_in_a_cycle_is_a_violation(scenario: Callable[[Cycle], None]) -> None:
    (violation,) = run_cycle(1, scenarios={scenario: 1}).ledger.violations
    assert f"LookupError: {scenario.__name__}" in violation


def test_a_cycle_that_needs_servers_is_skipped_without_them() -> None:
    assert run_cycle(1, scenarios={bad_network: 1}).skipped is not None


def _damage(cycle: Cycle, catalogue: Catalogue) -> None:
    path = _file(cycle, catalogue)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _remove(cycle: Cycle, catalogue: Catalogue) -> None:
    _file(cycle, catalogue).unlink()


def _delete(cycle: Cycle, catalogue: Catalogue) -> None:
    catalogue.vectors.delete(_vector_id(catalogue))


def _purge(cycle: Cycle, catalogue: Catalogue) -> None:
    vector_id = _vector_id(catalogue)
    catalogue.vectors.delete(vector_id)
    catalogue.vectors.purge(vector_id)


def _forget(cycle: Cycle, catalogue: Catalogue) -> None:
    """Make the ledger expect a vector that does not exist."""
    cycle.ledger.entries[0].possible.clear()


def _leave_behind(cycle: Cycle, catalogue: Catalogue) -> None:
    (cycle.world.data_dir / "artifacts" / "left.behind").mkdir(parents=True)
    (cycle.world.data_dir / "artifacts" / "left.behind" / ".hidden").touch()


def _file(cycle: Cycle, catalogue: Catalogue) -> Path:
    return cycle.world.data_dir / "artifacts" / catalogue.vectors.get(_vector_id(catalogue)).object_key


def _vector_id(catalogue: Catalogue) -> str:
    """Return a vector that no alias refers to."""
    aliased = {alias.vector_id for alias in catalogue.aliases.list()}
    return min(catalogue.vectors.ids(Filter()) - aliased)


@pytest.mark.parametrize("harm", [_damage, _remove, _delete, _purge, _forget, _leave_behind])
def test_the_checks_detect(harm: Callable[[Cycle, Catalogue], None], tmp_path: Path) -> None:
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
