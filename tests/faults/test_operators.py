"""Operators' commands that are killed and repeated: a few cycles of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.cycle import Cycle
from tests.faults.processes.servers import Servers
from tests.faults.running import run_cycle
from tests.faults.scenarios.operators import OPERATORS

ON_SERVERS = 1  # a seed whose cycle runs on servers, where there are some


@pytest.mark.parametrize("scenario", OPERATORS)
def test_a_command_that_is_killed_and_repeated_loses_nothing(scenario: Callable[[Cycle], None]) -> None:
    assert run_cycle(3, scenarios={scenario: 1}).ledger.violations == []


@pytest.mark.real
@pytest.mark.parametrize("scenario", OPERATORS)
def test_nor_does_it_on_postgresql_and_s3(scenario: Callable[[Cycle], None], servers: Servers) -> None:
    assert run_cycle(ON_SERVERS, servers, {scenario: 1}).ledger.violations == []
